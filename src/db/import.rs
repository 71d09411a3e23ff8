//! Files that come from an older server: where they are read, and how they are taken.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use postgres::{Client, Row};

use super::connection::{Connection, Database};
use super::error::Error;
use super::older::{self, time_expression};
use super::settings::Settings;
use crate::protocol::file_id::FileId;

/// What is read of the older server's rows at once.
const FETCH_ROWS: &str = "FETCH 500 FROM older_files";

/// A table's name as SQL wants it, found as SQL finds it; none if there is no such table.
const FIND_TABLE: &str = "SELECT to_regclass($1)::text";

/// The columns of a table, their types, and whether they may lack a value.
const SELECT_COLUMNS: &str = "SELECT attname::text, format_type(atttypid, NULL), NOT attnotnull \
     FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";

const SELECT_STORED_IDS: &str =
    "SELECT id::text FROM files WHERE id = ANY($1) AND data IS NOT NULL";

/// Nothing is overwritten. A row without bytes gets them.
const INSERT_FILES: &str = "INSERT INTO files (id, data, uploaded, expiry) \
     SELECT * FROM unnest($1::text[], $2::bytea[], $3::timestamptz[], $4::timestamptz[]) \
     ON CONFLICT (id) DO UPDATE SET data = excluded.data, \
         uploaded = greatest(files.uploaded, excluded.uploaded), \
         expiry = greatest(files.expiry, excluded.expiry) WHERE files.data IS NULL \
     RETURNING length(data)::int8";

/// What was extended or uploaded again since it was taken over gets the later times.
const KEEP_LATER_TIMES: &str = "UPDATE files SET uploaded = greatest(files.uploaded, older.uploaded), \
         expiry = greatest(files.expiry, older.expiry) \
     FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS older (id, uploaded, expiry) \
     WHERE files.id = older.id \
         AND (files.uploaded < older.uploaded OR files.expiry < older.expiry)";

/// Commits of an import don't wait for the disk one by one; the last one waits for all. No table
/// is read whole, as in [`SERVER_SESSION_SETTINGS`](super::connection::SERVER_SESSION_SETTINGS): 60,000 files took 19 s, 3 s with
/// this.
const IMPORT_SESSION_SETTINGS: &str = "SET statement_timeout = 0; SET synchronous_commit = off; \
     SET enable_seqscan = off; SET jit = off";

/// A commit that waits for the disk, with everything that was committed before: it needs
/// something to write.
const FLUSH_COMMITS: &str = "SET synchronous_commit = on; \
     UPDATE schema_version SET version = version; SET synchronous_commit = off";

/// A file's row in an older server's database. Its bytes are read apart.
#[derive(Clone, Debug)]
pub struct OlderFile {
    /// Its id, which may be none.
    pub id: String,
    /// Where its bytes are.
    pub place: Place,
    /// When it was uploaded.
    pub uploaded: Option<SystemTime>,
    /// When it expires.
    pub expires: Option<SystemTime>,
}

/// Where an older server has a file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In its row: so many.
    Row(u64),
    /// In the folder of the storage pool of that name.
    Pool(String),
    /// In the folder of its only pool, which has no name.
    Folder,
    /// Its row doesn't say.
    Unknown,
}

/// The files of an older server's database, as they are at one moment.
pub struct OlderFiles {
    client: Client,
    /// The table, as SQL wants its name.
    table: String,
    /// Whether rows without bytes stand for files in a folder without storage pools.
    in_folder: bool,
}

impl OlderFiles {
    /// Those of a database that holds their bytes too, in a table whose name is given as SQL
    /// has it.
    ///
    /// # Errors
    /// Those of the database; [`Error::Layout`] if it has no such files.
    pub fn with_bytes(settings: &Settings, table: &str) -> Result<OlderFiles, Error> {
        let mut files = OlderFiles::connect(settings, table)?;
        let columns = files.columns(table, &["id", "data", "uploaded", "expiry"])?;
        files.declare(&format!(
            "SELECT id::text, NULL::text, length(data)::int8, {}, {} FROM {}",
            columns.time("uploaded")?,
            columns.time("expiry")?,
            files.table
        ))?;
        Ok(files)
    }

    /// Those of a database whose rows stand for files in the folders of storage pools, or in
    /// one folder; rows that have bytes of their own are among them.
    ///
    /// # Errors
    /// Those of the database; [`Error::Layout`] if it has no such files.
    pub fn in_pools(settings: &Settings, table: &str) -> Result<OlderFiles, Error> {
        let mut files = OlderFiles::connect(settings, table)?;
        let columns = files.columns(table, &["id", "uploaded", "expiry"])?;
        files.in_folder = !columns.have("pool");
        if files.in_folder && !columns.may_lack("data") {
            return Err(Error::Layout(format!(
                "it has no table {table} with a column pool, or whose files lack their bytes"
            )));
        }
        let (mut pool, mut join) = ("NULL", "");
        if !files.in_folder {
            files.columns("storage_pools", &["id", "name"])?;
            pool = "storage_pools.name";
            join = "LEFT JOIN storage_pools ON storage_pools.id = file.pool";
        }
        let size = if columns.have("data") {
            "length(file.data)"
        } else {
            "NULL"
        };
        // What that server is about to delete is gone soon.
        let kept = if columns.have("deleting") {
            "WHERE NOT file.deleting"
        } else {
            ""
        };
        files.declare(&format!(
            "SELECT file.id::text, {pool}::text, {size}::int8, {}, {} FROM {} AS file {join} {kept}",
            columns.time("file.uploaded")?,
            columns.time("file.expiry")?,
            files.table
        ))?;
        Ok(files)
    }

    /// How many there are.
    ///
    /// # Errors
    /// Those of the database.
    pub fn count(&mut self) -> Result<u64, Error> {
        let count = format!("SELECT count(*) FROM {}", self.table);
        let row = self.client.query_one(&count, &[]);
        let count = row.and_then(|row| row.try_get::<_, i64>(0));
        count.map(|count| count as u64).map_err(|e| Error::of(&e))
    }

    /// Further tables of files that have not expired, as SQL names them.
    ///
    /// # Errors
    /// Those of the database.
    pub fn further_tables(&mut self) -> Result<Vec<String>, Error> {
        let wanted = "other.expiry > now()";
        let tables = older::tables_of_files(&mut self.client, &[&self.table], wanted);
        tables.map_err(|e| Error::of(&e))
    }

    /// The next ones; none when all were read.
    ///
    /// # Errors
    /// Those of the database.
    pub fn fetch(&mut self) -> Result<Vec<OlderFile>, Error> {
        let in_folder = self.in_folder;
        let read = |row: &Row| {
            let (pool, size) = (row.try_get(1)?, row.try_get::<_, Option<i64>>(2)?);
            let place = match (size, pool) {
                (Some(size), _) => Place::Row(size as u64),
                (None, Some(pool)) => Place::Pool(pool),
                (None, None) if in_folder => Place::Folder,
                (None, None) => Place::Unknown,
            };
            Ok(OlderFile {
                id: row.try_get::<_, Option<String>>(0)?.unwrap_or_default(),
                place,
                uploaded: row.try_get(3)?,
                expires: row.try_get(4)?,
            })
        };
        let rows = self.client.query(FETCH_ROWS, &[]);
        rows.and_then(|rows| rows.iter().map(read).collect())
            .map_err(|e| Error::of(&e))
    }

    /// The bytes of some of them, by id.
    ///
    /// # Errors
    /// Those of the database.
    pub fn bytes(&mut self, ids: &[&str]) -> Result<HashMap<String, OlderBytes>, Error> {
        let select = format!(
            "SELECT id::text, data FROM {} WHERE id = ANY($1)",
            self.table
        );
        let rows = self.client.query(&select, &[&ids]);
        let read = |row: Row| {
            row.try_get::<_, Option<&[u8]>>(1)?;
            Ok((row.try_get(0)?, OlderBytes(row)))
        };
        rows.and_then(|rows| rows.into_iter().map(read).collect())
            .map_err(|e| Error::of(&e))
    }

    fn connect(settings: &Settings, table: &str) -> Result<OlderFiles, Error> {
        let mut client = settings.connect()?;
        let begun = client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        begun.map_err(|e| Error::of(&e))?;
        let found = client.query_one(FIND_TABLE, &[&table]);
        let name = match found.and_then(|row| row.try_get(0)) {
            // No name at all: a syntax error.
            Err(error)
                if error
                    .as_db_error()
                    .is_some_and(|e| e.code().code().starts_with("42")) =>
            {
                None
            }
            name => name.map_err(|e| Error::of(&e))?,
        };
        Ok(OlderFiles {
            client,
            table: name.ok_or_else(|| Error::Layout(format!("it has no table {table}")))?,
            in_folder: false,
        })
    }

    /// A table's columns, all of `needed` among them.
    fn columns(&mut self, table: &str, needed: &[&str]) -> Result<Columns, Error> {
        let rows = self.client.query(SELECT_COLUMNS, &[&table]);
        let read = |row: &Row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)));
        let found: Result<HashMap<_, _>, postgres::Error> =
            rows.and_then(|rows| rows.iter().map(read).collect());
        let found = Columns(found.map_err(|e| Error::of(&e))?);
        match needed.iter().find(|column| !found.have(column)) {
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

/// The types of a table's columns by name, and whether they may lack a value.
struct Columns(HashMap<String, (String, bool)>);

impl Columns {
    fn have(&self, column: &str) -> bool {
        self.0.contains_key(column)
    }

    fn may_lack(&self, column: &str) -> bool {
        self.0.get(column).is_some_and(|(_, may_lack)| *may_lack)
    }

    /// SQL for the time in a column, which may be written with its table.
    fn time(&self, column: &str) -> Result<String, Error> {
        let name = column.rsplit('.').next().unwrap_or(column);
        let kind = self.0.get(name).map_or("", |(kind, _)| kind);
        time_expression(column, kind).ok_or_else(|| {
            Error::Layout(format!("the column {column} of type {kind} holds no time"))
        })
    }
}

impl Database {
    /// For taking over files: its connections let statements take their time, and wait for
    /// the disk only in [`Connection::wait_for_disk`].
    pub fn for_import(settings: Settings) -> Arc<Database> {
        Database::with_session(settings, IMPORT_SESSION_SETTINGS)
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
    /// Those of some ids whose files are stored here with their bytes, expired or not.
    ///
    /// # Errors
    /// Those of the database.
    pub fn stored_ids(&mut self, ids: &[&str]) -> Result<HashSet<String>, Error> {
        self.repeatable(|open| {
            let rows = open.query(SELECT_STORED_IDS, &[&ids])?;
            rows.iter().map(|row| row.try_get(0)).collect()
        })
    }

    /// Stores files whose ids nobody has, or whose rows have no bytes; returns how many those
    /// were.
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
            let rows = open.query(INSERT_FILES, &[&ids, &data, &uploaded, &expires])?;
            let mut taken = Taken::default();
            for row in rows {
                taken.files += 1;
                taken.bytes += row.try_get::<_, i64>(0)? as u64;
            }
            Ok(taken)
        })
    }

    /// Gives files that are stored the times that come with them, where those are later;
    /// returns how many files that changed.
    ///
    /// # Errors
    /// Those of the database.
    pub fn refresh_files(
        &mut self,
        files: &[(&FileId, SystemTime, SystemTime)],
    ) -> Result<u64, Error> {
        let ids: Vec<&str> = files.iter().map(|(id, ..)| id.as_str()).collect();
        let uploaded: Vec<SystemTime> = files.iter().map(|(_, uploaded, _)| *uploaded).collect();
        let expires: Vec<SystemTime> = files.iter().map(|(.., expires)| *expires).collect();
        // Once only: the second time nothing would be counted.
        self.once(|open| open.execute(KEEP_LATER_TIMES, &[&ids, &uploaded, &expires]))
    }

    /// Returns when all that was committed before is on the database's disk.
    ///
    /// # Errors
    /// Those of the database.
    pub fn wait_for_disk(&mut self) -> Result<(), Error> {
        self.repeatable(|open| open.client.batch_execute(FLUSH_COMMITS))
    }
}
