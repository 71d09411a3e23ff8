//! The tables that the program needs, and whether they are there.

use super::connection::Connection;
use super::error::Error;

/// The same file that an operator can load with psql.
const SCHEMA: &str = include_str!("../../schema.pgsql");

/// Held while the schema is applied: several servers may start on one empty database.
/// The number is ours alone by being random.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7421659803345108)";

/// The columns of our tables, as far as they are there.
const COLUMNS: &str = "SELECT relname::text, attname::text, format_type(atttypid, NULL) \
     FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid \
     WHERE attrelid = ANY(ARRAY(SELECT to_regclass(name)::oid FROM unnest($1::text[]) name)) \
         AND attnum > 0 AND NOT attisdropped";

const TEXT: &str = "text";
const INTEGER: &str = "integer";
const TIME: &str = "timestamp with time zone";

/// What the server needs in order to run.
const NEEDED: [(&str, &[(&str, &str)]); 7] = [
    (
        "files",
        &[
            ("id", "character varying"),
            ("data", "bytea"),
            ("uploaded", TIME),
            ("expiry", TIME),
        ],
    ),
    (
        "github_projects",
        &[
            ("project", TEXT),
            ("checked", TIME),
            ("etag", TEXT),
            ("next_check", TIME),
        ],
    ),
    (
        "github_releases",
        &[
            ("project", TEXT),
            ("channel", TEXT),
            ("version", TEXT),
            ("name", TEXT),
            ("notes", TEXT),
        ],
    ),
    (
        "github_assets",
        &[
            ("project", TEXT),
            ("channel", TEXT),
            ("position", INTEGER),
            ("name", TEXT),
            ("url", TEXT),
        ],
    ),
    (
        "version_checks",
        &[
            ("blinded_id", TEXT),
            ("platform", TEXT),
            ("channel", TEXT),
            ("checked", TIME),
        ],
    ),
    (
        "session_token_stats",
        &[
            ("maximum_supply", INTEGER),
            ("sent_per_node", INTEGER),
            ("staking_reward_pool", INTEGER),
        ],
    ),
    (
        "session_token_history",
        &[
            ("current_value", "numeric"),
            ("circulating_supply", INTEGER),
            ("total_nodes", INTEGER),
            ("updated", TIME),
        ],
    ),
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
    /// [`Error::Layout`] if it holds tables that the server can't run on as they are.
    pub fn prepare_schema(&mut self) -> Result<Found, Error> {
        let tables = self.tables()?;
        if tables.is_empty() {
            self.apply_schema()?;
            return Ok(Found::Empty);
        }
        match tables.problem(true) {
            None => Ok(Found::Current),
            Some(problem) => Err(Error::Layout(problem)),
        }
    }

    /// Creates what is missing.
    ///
    /// # Errors
    /// [`Error::Layout`] if there is a table of one of our names that is not ours.
    pub fn apply_schema(&mut self) -> Result<(), Error> {
        if let Some(problem) = self.tables()?.problem(false) {
            return Err(Error::Layout(problem));
        }
        self.repeatable(|open| {
            let mut transaction = open.client.transaction()?;
            transaction.batch_execute(LOCK)?;
            transaction.batch_execute(SCHEMA)?;
            transaction.commit()
        })
    }

    fn tables(&mut self) -> Result<Tables, Error> {
        let names = NEEDED.map(|(table, _)| table);
        self.repeatable(|open| {
            let rows = open.query(COLUMNS, &[&names.as_slice()])?;
            let columns: Result<_, postgres::Error> = rows
                .iter()
                .map(|row| Ok([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?]))
                .collect();
            Ok(Tables(columns?))
        })
    }
}

/// Table, column and type of what was found.
struct Tables(Vec<[String; 3]>);

impl Tables {
    /// Whether there are no files: what other programs fill may be there already.
    fn is_empty(&self) -> bool {
        !self.has("files")
    }

    fn has(&self, table: &str) -> bool {
        self.0.iter().any(|[found, _, _]| found == table)
    }

    /// What is wrong: a table that isn't ours or, if all must be there, a missing one.
    fn problem(&self, all: bool) -> Option<String> {
        for (table, columns) in NEEDED {
            if !self.has(table) {
                if all {
                    return Some(format!(
                        "it is an older server's: the table {table} is missing"
                    ));
                }
                continue;
            }
            for (column, kind) in columns {
                if !self.0.iter().any(|found| found == &[table, *column, *kind]) {
                    return Some(format!(
                        "its table {table} has no column {column} of type {kind}: it is an older \
                         server's or another program's"
                    ));
                }
            }
        }
        None
    }
}
