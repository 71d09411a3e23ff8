//! The layout of the database: which tables it has, and whether they are ours.

use super::connection::{Connection, OpenConnection};
use super::error::Error;
use super::older;

/// The version of the schema, which `schema.pgsql` writes into `schema_version`.
pub const SCHEMA_VERSION: i32 = 3;

const SELECT_VERSION: &str = "SELECT version FROM schema_version";

/// Selects the columns of our tables that exist.
const SELECT_OUR_COLUMNS: &str = "SELECT relname::text, attname::text, format_type(atttypid, NULL) \
     FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid \
     WHERE attrelid = ANY(ARRAY(SELECT to_regclass(name)::oid FROM unnest($1::text[]) name)) \
         AND attnum > 0 AND NOT attisdropped";

/// The types of file ids.
const ID_TYPE: &[&str] = &["character varying", "text"];
/// The types of texts.
const TEXT_TYPE: &[&str] = &["text"];
/// The types of small numbers.
const INTEGER_TYPE: &[&str] = &["integer"];
/// The types of counts.
const COUNT_TYPE: &[&str] = &["bigint"];
/// The types of times.
const TIME_TYPE: &[&str] = &["timestamp with time zone"];
/// The types of numbers that another program fills. They may be wider than those of our schema.
const ANY_NUMBER_TYPE: &[&str] = &["integer", "bigint", "numeric"];

/// A column: its name, and the types that it may have.
type Column = (&'static str, &'static [&'static str]);

/// The tables and columns that the server needs.
const NEEDED: [(&str, &[Column]); 12] = [
    (
        "files",
        &[
            ("id", ID_TYPE),
            ("data", &["bytea"]),
            ("uploaded", TIME_TYPE),
            ("expiry", TIME_TYPE),
        ],
    ),
    (
        "github_projects",
        &[
            ("project", TEXT_TYPE),
            ("checked", TIME_TYPE),
            ("etag", TEXT_TYPE),
            ("next_check", TIME_TYPE),
        ],
    ),
    (
        "github_releases",
        &[
            ("project", TEXT_TYPE),
            ("channel", TEXT_TYPE),
            ("version", TEXT_TYPE),
            ("name", TEXT_TYPE),
            ("notes", TEXT_TYPE),
        ],
    ),
    (
        "github_assets",
        &[
            ("project", TEXT_TYPE),
            ("channel", TEXT_TYPE),
            ("position", INTEGER_TYPE),
            ("name", TEXT_TYPE),
            ("url", TEXT_TYPE),
        ],
    ),
    (
        "version_checks",
        &[
            ("blinded_id", TEXT_TYPE),
            ("platform", TEXT_TYPE),
            ("channel", TEXT_TYPE),
            ("checked", TIME_TYPE),
        ],
    ),
    (
        "session_token_stats",
        &[
            ("maximum_supply", ANY_NUMBER_TYPE),
            ("sent_per_node", ANY_NUMBER_TYPE),
            ("staking_reward_pool", ANY_NUMBER_TYPE),
        ],
    ),
    (
        "session_token_history",
        &[
            ("current_value", ANY_NUMBER_TYPE),
            ("circulating_supply", ANY_NUMBER_TYPE),
            ("total_nodes", ANY_NUMBER_TYPE),
            ("updated", TIME_TYPE),
        ],
    ),
    (
        "blocked_files",
        &[
            ("id", ID_TYPE),
            ("blocked", TIME_TYPE),
            ("reason", TEXT_TYPE),
        ],
    ),
    ("removed_files", &[("id", ID_TYPE), ("removed", TIME_TYPE)]),
    (
        "stored_bytes",
        &[
            ("server", TEXT_TYPE),
            ("bytes", COUNT_TYPE),
            ("noted", TIME_TYPE),
        ],
    ),
    (
        "servers",
        &[
            ("name", TEXT_TYPE),
            ("noted", TIME_TYPE),
            ("requests", COUNT_TYPE),
            ("bytes_up", COUNT_TYPE),
            ("bytes_down", COUNT_TYPE),
            ("files_stored", COUNT_TYPE),
            ("downloads", COUNT_TYPE),
            ("cache_hits", COUNT_TYPE),
        ],
    ),
    ("schema_version", &[("version", INTEGER_TYPE)]),
];

/// The names of our tables.
pub(super) fn names() -> [&'static str; NEEDED.len()] {
    NEEDED.map(|(table, _)| table)
}

/// The names of our tables and of an older server's.
pub(super) fn all_names() -> Vec<&'static str> {
    names().into_iter().chain(older::OLDER_TABLES).collect()
}

/// The tables of ours that a database has.
pub(super) struct Tables {
    columns: Vec<FoundColumn>,
    /// The version of the schema, if it has one.
    version: Option<i32>,
}

/// A column of one of our tables.
struct FoundColumn {
    table: String,
    column: String,
    /// The column's type.
    kind: String,
}

impl Connection {
    /// Reads which of our tables the database has.
    ///
    /// # Errors
    /// [`Error::Layout`] if row-level security hides some of their rows.
    pub(super) fn tables(&mut self) -> Result<Tables, Error> {
        self.refuse_hidden(&names())?;
        self.repeatable(|open| {
            let columns = read_columns(open)?;
            let mut tables = Tables {
                columns,
                version: None,
            };
            if tables.has("schema_version") {
                let row = open.client.query_opt(SELECT_VERSION, &[])?;
                tables.version = row.map(|row| row.try_get(0)).transpose()?;
            }
            Ok(tables)
        })
    }
}

impl Tables {
    /// Whether there is no table `files`. Tables that other programs fill may exist already.
    pub(super) fn is_empty(&self) -> bool {
        !self.has("files")
    }

    fn has(&self, table: &str) -> bool {
        self.columns.iter().any(|found| found.table == table)
    }

    fn column_type(&self, table: &str, column: &str) -> Option<&str> {
        let found = self
            .columns
            .iter()
            .find(|found| found.table == table && found.column == column);
        found.map(|found| found.kind.as_str())
    }

    /// Refuses tables that are not ours, or not of our version.
    pub(super) fn refuse_others(&self) -> Result<(), Error> {
        self.refuse_foreign()?;
        self.refuse_newer()?;
        self.refuse_older()
    }

    /// Refuses tables that have our names but lack our columns.
    pub(super) fn refuse_foreign(&self) -> Result<(), Error> {
        if self.has("files") && self.column_type("files", "pool").is_some() {
            return Err(Error::Layout(
                "its files are those of a Python server with storage pools, whose bytes lie in a \
                 folder; make a new database and take them over with session-file-server import \
                 pools"
                    .into(),
            ));
        }
        for (table, columns) in NEEDED.into_iter().filter(|(table, _)| self.has(table)) {
            for (column, kinds) in columns {
                let found = self.column_type(table, column);
                if !found.is_some_and(|found| kinds.contains(&found)) {
                    return Err(Error::Layout(format!(
                        "its table {table} has no column {column} of type {}: it is another \
                         program's; set another database in database.url",
                        kinds[0]
                    )));
                }
            }
        }
        Ok(())
    }

    /// Refuses a schema of a newer server.
    pub(super) fn refuse_newer(&self) -> Result<(), Error> {
        match self.version {
            Some(version) if version > SCHEMA_VERSION => Err(Error::Layout(format!(
                "its schema has version {version}, and this server knows none above {SCHEMA_VERSION}; \
                 install the newer server that made it"
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses a schema of an older server.
    fn refuse_older(&self) -> Result<(), Error> {
        let missing = NEEDED.iter().find(|(table, _)| !self.has(table));
        let reason = match (missing, self.version) {
            (Some((table, _)), _) => format!("the table {table} is missing"),
            (None, Some(SCHEMA_VERSION)) => return Ok(()),
            (None, Some(version)) => {
                format!("its schema has version {version}, not {SCHEMA_VERSION}")
            }
            (None, None) => "its schema has no version".into(),
        };
        Err(Error::Layout(format!(
            "it is an older server's: {reason}; run session-file-server init-db"
        )))
    }
}

fn read_columns(open: &mut OpenConnection) -> Result<Vec<FoundColumn>, postgres::Error> {
    let rows = open.query(SELECT_OUR_COLUMNS, &[&names().as_slice()])?;
    rows.iter()
        .map(|row| {
            Ok(FoundColumn {
                table: row.try_get(0)?,
                column: row.try_get(1)?,
                kind: row.try_get(2)?,
            })
        })
        .collect()
}
