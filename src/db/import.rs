//! Storing the files that an import takes over.

use std::collections::HashSet;
use std::time::SystemTime;

use super::connection::Connection;
use super::error::Error;
use crate::protocol::file_id::FileId;

/// Selects the ids of files that are stored with their bytes, and the ids that are blocked.
const SELECT_KNOWN_IDS: &str = "SELECT id::text, false FROM files \
         WHERE id = ANY($1) AND data IS NOT NULL \
     UNION ALL SELECT id::text, true FROM blocked_files WHERE id = ANY($1)";

/// Inserts files. The bytes of existing rows are not overwritten; rows without bytes get them. Ids
/// that were blocked since they were looked up are left out.
const INSERT_FILES: &str = "INSERT INTO files (id, data, uploaded, expiry) \
     SELECT * FROM unnest($1::text[], $2::bytea[], $3::timestamptz[], $4::timestamptz[]) \
         AS older (id, data, uploaded, expiry) \
     WHERE NOT EXISTS (SELECT FROM blocked_files WHERE blocked_files.id = older.id) \
     ON CONFLICT (id) DO UPDATE SET data = excluded.data, \
         uploaded = greatest(files.uploaded, excluded.uploaded), \
         expiry = greatest(files.expiry, excluded.expiry) WHERE files.data IS NULL \
     RETURNING length(data)::int8";

/// Gives existing files the later ones of two pairs of times, because a file may have been extended
/// or uploaded again since it was taken over.
const KEEP_LATER_TIMES: &str = "UPDATE files SET uploaded = greatest(files.uploaded, older.uploaded), \
         expiry = greatest(files.expiry, older.expiry) \
     FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS older (id, uploaded, expiry) \
     WHERE files.id = older.id \
         AND (files.uploaded < older.uploaded OR files.expiry < older.expiry)";

/// The settings of the transactions that store files. Their commits don't wait for the disk;
/// [`Connection::wait_for_disk`] waits for all of them at the end. Neither the session nor another
/// one gets these settings: behind a pooler that shares connections between transactions, a server
/// would acknowledge uploads that are not on the disk.
const STORE_SETTINGS: &str = "SET LOCAL synchronous_commit = off; \
     SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0";

/// Makes a commit that waits for the disk, and so for all commits before it. It must write
/// something to have an effect.
const FLUSH_COMMITS: &str = "BEGIN; SET LOCAL synchronous_commit = on; \
     UPDATE schema_version SET version = version; COMMIT";

/// A file that an import takes over.
pub struct NewFile<'a> {
    /// The file's id.
    pub id: &'a FileId,
    /// The file's bytes.
    pub data: &'a [u8],
    /// When the file was uploaded.
    pub uploaded: SystemTime,
    /// When the file expires.
    pub expires: SystemTime,
}

/// The times of a stored file in an older server's database.
pub struct FileTimes<'a> {
    /// The file's id.
    pub id: &'a FileId,
    /// When the file was uploaded.
    pub uploaded: SystemTime,
    /// When the file expires.
    pub expires: SystemTime,
}

/// What the database has of some ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownIds {
    /// The ids whose files are stored with their bytes, expired or not.
    pub stored: HashSet<String>,
    /// The ids that are blocked.
    pub blocked: HashSet<String>,
}

/// The files of a batch that were stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The number of files.
    pub files: u64,
    /// The number of their bytes.
    pub bytes: u64,
}

impl Connection {
    /// The ids among these whose files are stored, and those that are blocked.
    ///
    /// # Errors
    /// Those of the database.
    pub fn known_ids(&mut self, ids: &[&str]) -> Result<KnownIds, Error> {
        self.repeatable(|open| {
            let mut known = KnownIds::default();
            for row in open.query(SELECT_KNOWN_IDS, &[&ids])? {
                if row.try_get(1)? {
                    known.blocked.insert(row.try_get(0)?);
                } else {
                    known.stored.insert(row.try_get(0)?);
                }
            }
            Ok(known)
        })
    }

    /// Stores files with new ids, and the bytes of files whose rows have none. Returns how many
    /// were stored; the others are stored already.
    ///
    /// # Errors
    /// Those of the database. The files may have been stored all the same.
    pub fn take_files(&mut self, files: &[NewFile]) -> Result<Taken, Error> {
        let ids: Vec<&str> = files.iter().map(|file| file.id.as_str()).collect();
        let data: Vec<&[u8]> = files.iter().map(|file| file.data).collect();
        let uploaded: Vec<SystemTime> = files.iter().map(|file| file.uploaded).collect();
        let expires: Vec<SystemTime> = files.iter().map(|file| file.expires).collect();
        // Not repeatable: a second run would count nothing.
        self.once(|open| {
            let insert = open.statement(INSERT_FILES)?;
            let mut transaction = open.client.transaction()?;
            transaction.batch_execute(STORE_SETTINGS)?;
            let rows = transaction.query(&insert, &[&ids, &data, &uploaded, &expires])?;
            transaction.commit()?;
            let mut taken = Taken::default();
            for row in rows {
                taken.files += 1;
                taken.bytes += row.try_get::<_, i64>(0)? as u64;
            }
            Ok(taken)
        })
    }

    /// Gives stored files these times where they are later. Returns how many files were changed.
    ///
    /// # Errors
    /// Those of the database.
    pub fn refresh_files(&mut self, files: &[FileTimes]) -> Result<u64, Error> {
        let ids: Vec<&str> = files.iter().map(|file| file.id.as_str()).collect();
        let uploaded: Vec<SystemTime> = files.iter().map(|file| file.uploaded).collect();
        let expires: Vec<SystemTime> = files.iter().map(|file| file.expires).collect();
        // Not repeatable: a second run would count nothing.
        self.once(|open| {
            let update = open.statement(KEEP_LATER_TIMES)?;
            let mut transaction = open.client.transaction()?;
            transaction.batch_execute(STORE_SETTINGS)?;
            let changed = transaction.execute(&update, &[&ids, &uploaded, &expires])?;
            transaction.commit()?;
            Ok(changed)
        })
    }

    /// Waits until everything that was committed before is on the database's disk.
    ///
    /// # Errors
    /// Those of the database.
    pub fn wait_for_disk(&mut self) -> Result<(), Error> {
        self.repeatable(|open| open.client.batch_execute(FLUSH_COMMITS))
    }
}
