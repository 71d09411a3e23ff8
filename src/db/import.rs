//! Files that come from an older server: where they are read, and how they are taken.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use postgres::{Client, Row};

use super::connection::{Connection, Database};
use super::error::Error;
use super::older::time_expression;
use super::settings::Settings;
use crate::file_id::FileId;

/// What is read of the older server's rows at once.
const FETCH: &str = "FETCH 500 FROM older_files";

/// The columns of a table, and their types.
const COLUMNS: &str = "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute \
     WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";

const SELECT_BYTES: &str = "SELECT id::text, data FROM files WHERE id = ANY($1)";

const SELECT_THERE: &str = "SELECT id::text FROM files WHERE id = ANY($1)";

/// Nothing is overwritten.
const TAKE: &str = "INSERT INTO files (id, data, uploaded, expiry) \
     SELECT * FROM unnest($1::text[], $2::bytea[], $3::timestamptz[], $4::timestamptz[]) \
     ON CONFLICT (id) DO NOTHING RETURNING length(data)::int8";

/// Commits of an import don't wait for the disk one by one; the last one waits for all. No table
/// is read whole, as in [`SERVING`](super::connection::SERVING): 60,000 files took 19 s, 3 s with
/// this.
const NO_WAITING: &str = "SET statement_timeout = 0; SET synchronous_commit = off; \
     SET enable_seqscan = off; SET jit = off";

/// A commit that waits for the disk, with everything that was committed before: it needs
/// something to write.
const WAIT_FOR_DISK: &str = "SET synchronous_commit = on; \
     UPDATE schema_version SET version = version; SET synchronous_commit = off";

/// A file's row in an older server's database. Its bytes are read apart.
#[derive(Clone, Debug)]
pub struct OlderFile {
    /// Its id, which may be none.
    pub id: String,
    /// The storage pool that holds its bytes, if they are not in the database.
    pub pool: Option<String>,
    /// Its length, if they are: bytes.
    pub size: Option<u64>,
    /// When it was uploaded.
    pub uploaded: Option<SystemTime>,
    /// When it expires.
    pub expires: Option<SystemTime>,
}

/// The files of an older server's database, as they are at one moment.
pub struct OlderFiles {
    client: Client,
}

impl OlderFiles {
    /// Those of a database that holds their bytes too.
    ///
    /// # Errors
    /// Those of the database; [`Error::Layout`] if it has no such files.
    pub fn with_bytes(settings: &Settings) -> Result<OlderFiles, Error> {
        let mut files = OlderFiles::connect(settings)?;
        let columns = files.columns("files", &["id", "data", "uploaded", "expiry"])?;
        files.declare(&format!(
            "SELECT id::text, NULL::text, length(data)::int8, {}, {} FROM files",
            time(&columns, "uploaded")?,
            time(&columns, "expiry")?
        ))?;
        Ok(files)
    }

    /// Those of a database that knows which storage pool holds their bytes.
    ///
    /// # Errors
    /// Those of the database; [`Error::Layout`] if it has no such files.
    pub fn in_pools(settings: &Settings) -> Result<OlderFiles, Error> {
        let mut files = OlderFiles::connect(settings)?;
        let columns = files.columns("files", &["id", "pool", "uploaded", "expiry"])?;
        files.columns("storage_pools", &["id", "name"])?;
        files.declare(&format!(
            "SELECT files.id::text, storage_pools.name::text, NULL::int8, {}, {} \
             FROM files LEFT JOIN storage_pools ON storage_pools.id = files.pool",
            time(&columns, "files.uploaded")?,
            time(&columns, "files.expiry")?
        ))?;
        Ok(files)
    }

    /// How many there are.
    ///
    /// # Errors
    /// Those of the database.
    pub fn count(&mut self) -> Result<u64, Error> {
        let row = self.client.query_one("SELECT count(*) FROM files", &[]);
        let count = row.and_then(|row| row.try_get::<_, i64>(0));
        count.map(|count| count as u64).map_err(|e| Error::of(&e))
    }

    /// The next ones; none when all were read.
    ///
    /// # Errors
    /// Those of the database.
    pub fn fetch(&mut self) -> Result<Vec<OlderFile>, Error> {
        let read = |row: &Row| {
            Ok(OlderFile {
                id: row.try_get::<_, Option<String>>(0)?.unwrap_or_default(),
                pool: row.try_get(1)?,
                size: row.try_get::<_, Option<i64>>(2)?.map(|size| size as u64),
                uploaded: row.try_get(3)?,
                expires: row.try_get(4)?,
            })
        };
        let rows = self.client.query(FETCH, &[]);
        rows.and_then(|rows| rows.iter().map(read).collect())
            .map_err(|e| Error::of(&e))
    }

    /// The bytes of some of them, by id.
    ///
    /// # Errors
    /// Those of the database.
    pub fn bytes(&mut self, ids: &[&str]) -> Result<HashMap<String, OlderBytes>, Error> {
        let rows = self.client.query(SELECT_BYTES, &[&ids]);
        let read = |row: Row| {
            row.try_get::<_, &[u8]>(1)?;
            Ok((row.try_get(0)?, OlderBytes(row)))
        };
        rows.and_then(|rows| rows.into_iter().map(read).collect())
            .map_err(|e| Error::of(&e))
    }

    fn connect(settings: &Settings) -> Result<OlderFiles, Error> {
        let client = settings.connect().and_then(|mut client| {
            client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
            Ok(OlderFiles { client })
        });
        client.map_err(|e| Error::of(&e))
    }

    /// The types of a table's columns, all of `needed` among them.
    fn columns(&mut self, table: &str, needed: &[&str]) -> Result<HashMap<String, String>, Error> {
        let rows = self.client.query(COLUMNS, &[&table]);
        let read = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
        let found: Result<HashMap<String, String>, postgres::Error> =
            rows.and_then(|rows| rows.iter().map(read).collect());
        let found = found.map_err(|e| Error::of(&e))?;
        match needed.iter().find(|column| !found.contains_key(**column)) {
            None => Ok(found),
            Some(column) => Err(Error::Layout(format!(
                "it has no table {table} with a column {column}"
            ))),
        }
    }

    fn declare(&mut self, select: &str) -> Result<(), Error> {
        let declare = format!("DECLARE older_files NO SCROLL CURSOR FOR {select}");
        self.client
            .batch_execute(&declare)
            .map_err(|e| Error::of(&e))
    }
}

/// The bytes of a file, where the database driver received them.
pub struct OlderBytes(Row);

impl AsRef<[u8]> for OlderBytes {
    fn as_ref(&self) -> &[u8] {
        // Whoever made it has seen that the column is bytes.
        self.0.try_get(1).unwrap_or_default()
    }
}

fn time(columns: &HashMap<String, String>, column: &str) -> Result<String, Error> {
    let name = column.rsplit('.').next().unwrap_or(column);
    let kind = columns.get(name).map_or("", String::as_str);
    time_expression(column, kind)
        .ok_or_else(|| Error::Layout(format!("the column {column} of type {kind} holds no time")))
}

impl Database {
    /// For taking over files: its connections let statements take their time, and wait for
    /// the disk only in [`Connection::wait_for_disk`].
    pub fn for_import(settings: Settings) -> Arc<Database> {
        Database::with_session(settings, NO_WAITING)
    }
}

/// A file that is to be taken over as it was.
pub struct NewFile<'a> {
    /// Its id.
    pub id: &'a FileId,
    /// Its bytes.
    pub data: &'a [u8],
    /// When it was uploaded.
    pub uploaded: SystemTime,
    /// When it expires.
    pub expires: SystemTime,
}

/// What was stored of some files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// How many.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl Connection {
    /// Those of some ids whose files are stored here, expired or not.
    ///
    /// # Errors
    /// Those of the database.
    pub fn ids_there(&mut self, ids: &[&str]) -> Result<HashSet<String>, Error> {
        self.repeatable(|open| {
            let rows = open.query(SELECT_THERE, &[&ids])?;
            rows.iter().map(|row| row.try_get(0)).collect()
        })
    }

    /// Stores files whose ids nobody has; returns how many those were.
    ///
    /// # Errors
    /// Those of the database. The files may have been stored all the same.
    pub fn take_files(&mut self, files: &[NewFile]) -> Result<Taken, Error> {
        let ids: Vec<&str> = files.iter().map(|file| file.id.as_str()).collect();
        let data: Vec<&[u8]> = files.iter().map(|file| file.data).collect();
        let uploaded: Vec<SystemTime> = files.iter().map(|file| file.uploaded).collect();
        let expires: Vec<SystemTime> = files.iter().map(|file| file.expires).collect();
        // Once only: the second time nothing would be counted.
        self.once(|open| {
            let rows = open.query(TAKE, &[&ids, &data, &uploaded, &expires])?;
            let mut taken = Taken::default();
            for row in rows {
                taken.files += 1;
                taken.bytes += row.try_get::<_, i64>(0)? as u64;
            }
            Ok(taken)
        })
    }

    /// Returns when all that was committed before is on the database's disk.
    ///
    /// # Errors
    /// Those of the database.
    pub fn wait_for_disk(&mut self) -> Result<(), Error> {
        self.repeatable(|open| open.client.batch_execute(WAIT_FOR_DISK))
    }
}
