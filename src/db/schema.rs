//! The tables that the program needs, and whether they are there.

use super::connection::Connection;
use super::error::Error;

/// The same file that an operator can load with psql.
const SCHEMA: &str = include_str!("../../schema.pgsql");

/// Held while the schema is applied: several servers may start on one empty database.
/// The number is ours alone by being random.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7421659803345108)";

/// The columns of `files`; no rows if there is no such table.
const COLUMNS: &str = "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute \
     WHERE attrelid = to_regclass('files') AND attnum > 0 AND NOT attisdropped";

/// What `files` must have for the server to run on it.
const NEEDED: [(&str, &str); 4] = [
    ("id", "character varying"),
    ("data", "bytea"),
    ("uploaded", "timestamp with time zone"),
    ("expiry", "timestamp with time zone"),
];

/// What was found when the schema was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// All that is needed.
    Current,
    /// Nothing: the schema was applied.
    Empty,
}

impl Connection {
    /// Makes an empty database ready, and leaves any other as it is.
    ///
    /// # Errors
    /// [`Error::Layout`] if there is a table `files` that the server can't run on.
    pub fn prepare_schema(&mut self) -> Result<Found, Error> {
        if self.files_is_current()? {
            return Ok(Found::Current);
        }
        self.apply_schema()?;
        Ok(Found::Empty)
    }

    /// Creates what is missing.
    ///
    /// # Errors
    /// [`Error::Layout`] if there is a table `files` that the server can't run on.
    pub fn apply_schema(&mut self) -> Result<(), Error> {
        self.files_is_current()?;
        self.repeatable(|open| {
            let mut transaction = open.client.transaction()?;
            transaction.batch_execute(LOCK)?;
            transaction.batch_execute(SCHEMA)?;
            transaction.commit()
        })
    }

    /// Whether `files` is there as it is needed; false if it isn't there at all.
    fn files_is_current(&mut self) -> Result<bool, Error> {
        let columns: Vec<(String, String)> = self.repeatable(|open| {
            let rows = open.query(COLUMNS, &[])?;
            rows.iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
                .collect()
        })?;
        if columns.is_empty() {
            return Ok(false);
        }
        for (name, kind) in NEEDED {
            if !columns
                .iter()
                .any(|column| *column == (name.into(), kind.into()))
            {
                return Err(Error::Layout(format!(
                    "the table files has no column {name} of type {kind}: it is an older \
                     server's or another program's"
                )));
            }
        }
        Ok(true)
    }
}
