//! The files of an older server's database, which an import reads.

use std::collections::HashMap;
use std::time::SystemTime;

use postgres::{Client, Row};

use super::error::Error;
use super::older::{self, time_expression};
use super::settings::Settings;

/// Fetches the next batch of the older server's rows.
const FETCH_ROWS: &str = "FETCH 500 FROM older_files";

/// Finds a table in the search path, and returns its name quoted for SQL; null if there is none.
const FIND_TABLE: &str = "SELECT to_regclass($1)::text";

/// Selects the columns of a table, their types, and whether they may be null.
const SELECT_COLUMNS: &str = "SELECT attname::text, format_type(atttypid, NULL), NOT attnotnull \
     FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";

/// A file's row in an older server's database. Its bytes are read separately.
#[derive(Clone, Debug)]
pub struct OlderFile {
    /// The id, which may be invalid.
    pub id: String,
    /// Where the bytes are.
    pub place: Place,
    /// When the file was uploaded.
    pub uploaded: Option<SystemTime>,
    /// When the file expires.
    pub expires: Option<SystemTime>,
}

/// The place of a file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file's row, which holds so many bytes.
    Row(u64),
    /// The folder of the storage pool with this name.
    Pool(String),
    /// The folder of the older server, which has no pools.
    Folder,
    /// The row doesn't tell.
    Unknown,
}

/// The files in a table of an older server's database. They are read in one transaction, as they
/// are at its start.
pub struct OlderFiles {
    client: Client,
    /// The table's name, quoted for SQL.
    table: String,
    /// Whether rows without bytes belong to files in a folder without storage pools.
    in_folder: bool,
}

impl OlderFiles {
    /// Opens a table whose rows hold the files' bytes. Its name is given as in SQL.
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

    /// Opens a table whose rows belong to files in the folders of storage pools, or in one folder.
    /// Some rows may hold the bytes themselves.
    ///
    /// # Errors
    /// Those of the database; [`Error::Layout`] if it has no such files.
    pub fn in_pools(settings: &Settings, table: &str) -> Result<OlderFiles, Error> {
        let mut files = OlderFiles::connect(settings, table)?;
        let columns = files.columns(table, &["id", "uploaded", "expiry"])?;
        files.in_folder = !columns.have("pool");
        if files.in_folder && !columns.is_nullable("data") {
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
        // Files that the older server is about to delete are left out.
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

    /// The number of rows.
    ///
    /// # Errors
    /// Those of the database.
    pub fn count(&mut self) -> Result<u64, Error> {
        let count = format!("SELECT count(*) FROM {}", self.table);
        let row = self.client.query_one(&count, &[]);
        let count = row.and_then(|row| row.try_get::<_, i64>(0));
        count.map(|count| count as u64).map_err(|e| Error::of(&e))
    }

    /// The names, quoted for SQL, of further tables with files that have not expired.
    ///
    /// # Errors
    /// Those of the database.
    pub fn further_tables(&mut self) -> Result<Vec<String>, Error> {
        let wanted = "other.expiry > now()";
        let tables = older::tables_of_files(&mut self.client, &[&self.table], wanted);
        tables.map_err(|e| Error::of(&e))
    }

    /// The next batch of rows; empty after the last.
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

    /// The bytes of the files with these ids, by id.
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
            // A syntax error: the text is no name at all.
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

    /// The columns of a table, which must include all of `needed`.
    fn columns(&mut self, table: &str, needed: &[&str]) -> Result<Columns, Error> {
        let rows = self.client.query(SELECT_COLUMNS, &[&table]);
        let read = |row: &Row| {
            let column = Column {
                kind: row.try_get(1)?,
                is_nullable: row.try_get(2)?,
            };
            Ok((row.try_get(0)?, column))
        };
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

    /// Opens the cursor from which [`FETCH_ROWS`] reads.
    fn declare(&mut self, select: &str) -> Result<(), Error> {
        let declare = format!("DECLARE older_files NO SCROLL CURSOR FOR {select}");
        self.client
            .batch_execute(&declare)
            .map_err(|e| Error::of(&e))
    }
}

/// The bytes of a file, in the buffer into which the driver has received them.
pub struct OlderBytes(Row);

impl AsRef<[u8]> for OlderBytes {
    fn as_ref(&self) -> &[u8] {
        // Doesn't fail: `OlderFiles::bytes` has checked that the column holds bytes.
        self.0.try_get(1).unwrap_or_default()
    }
}

/// The columns of a table by name.
struct Columns(HashMap<String, Column>);

/// A column of a table.
struct Column {
    /// The column's type.
    kind: String,
    is_nullable: bool,
}

impl Columns {
    fn have(&self, column: &str) -> bool {
        self.0.contains_key(column)
    }

    fn is_nullable(&self, column: &str) -> bool {
        self.0.get(column).is_some_and(|column| column.is_nullable)
    }

    /// The SQL expression for the time in a column, whose name may be qualified with its table.
    fn time(&self, column: &str) -> Result<String, Error> {
        let name = column.rsplit('.').next().unwrap_or(column);
        let kind = self.0.get(name).map_or("", |column| &column.kind);
        time_expression(column, kind).ok_or_else(|| {
            Error::Layout(format!("the column {column} of type {kind} holds no time"))
        })
    }
}
