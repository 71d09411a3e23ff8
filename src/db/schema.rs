//! The tables that the program needs, and whether they are there.

use std::time::Duration;

use postgres::error::SqlState;

use super::connection::{Connection, Open};
use super::error::Error;
use super::locks;
use super::older::{self, Leftovers};

/// The same file that an operator can load with psql.
const SCHEMA: &str = include_str!("../../schema.pgsql");

/// The version that [`SCHEMA`] gives itself.
pub const VERSION: i32 = 1;

/// Held while the schema is applied: several servers may start on one empty database.
/// The number is ours alone by being random.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7421659803345108)";

/// An index on a hundred gigabytes of files takes longer than any request may, and so may
/// another server that is making the same.
const NO_TIMEOUT: &str = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0";

/// How long a change of a table waits for those who use it: whoever comes after us waits with
/// us. It is less than the server's own limit, so that no request fails meanwhile.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";

/// How often a change of a table is tried.
const LOCK_TRIES: u32 = 3;

/// The pause between two tries, in which those who waited with us go on.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// The columns of our tables, as far as they are there.
const COLUMNS: &str = "SELECT relname::text, attname::text, format_type(atttypid, NULL) \
     FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid \
     WHERE attrelid = ANY(ARRAY(SELECT to_regclass(name)::oid FROM unnest($1::text[]) name)) \
         AND attnum > 0 AND NOT attisdropped";

const SELECT_VERSION: &str = "SELECT version FROM schema_version";

const TEXT: &[&str] = &["text"];
const INTEGER: &[&str] = &["integer"];
const COUNT: &[&str] = &["bigint"];
const TIME: &[&str] = &["timestamp with time zone"];
/// What another program fills may be wider than what we would make.
const ANY_NUMBER: &[&str] = &["integer", "bigint", "numeric"];

/// A column's name, and the types that it may have.
type Column = (&'static str, &'static [&'static str]);

/// What the server needs in order to run.
const NEEDED: [(&str, &[Column]); 9] = [
    (
        "files",
        &[
            ("id", &["character varying", "text"]),
            ("data", &["bytea"]),
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
            ("maximum_supply", ANY_NUMBER),
            ("sent_per_node", ANY_NUMBER),
            ("staking_reward_pool", ANY_NUMBER),
        ],
    ),
    (
        "session_token_history",
        &[
            ("current_value", ANY_NUMBER),
            ("circulating_supply", ANY_NUMBER),
            ("total_nodes", ANY_NUMBER),
            ("updated", TIME),
        ],
    ),
    (
        "servers",
        &[
            ("name", TEXT),
            ("noted", TIME),
            ("requests", COUNT),
            ("bytes_up", COUNT),
            ("bytes_down", COUNT),
            ("files_stored", COUNT),
            ("downloads", COUNT),
            ("cache_hits", COUNT),
        ],
    ),
    ("schema_version", &[("version", INTEGER)]),
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
        let prepared = self.prepare();
        prepared.map_err(|error| self.with_advice(error, &all_names()))
    }

    fn prepare(&mut self) -> Result<Found, Error> {
        let tables = self.tables()?;
        if tables.is_empty() {
            self.apply()?;
            return Ok(Found::Empty);
        }
        tables.refuse_others()?;
        self.refuse_unfit()?;
        Ok(Found::Current)
    }

    /// Whether the database is ready, without changing it.
    ///
    /// # Errors
    /// [`Error::Layout`] if it is not.
    pub fn check_schema(&mut self) -> Result<(), Error> {
        let checked = self.check();
        checked.map_err(|error| self.with_advice(error, &all_names()))
    }

    fn check(&mut self) -> Result<(), Error> {
        let tables = self.tables()?;
        if tables.is_empty() {
            return Err(Error::Layout(
                "it is empty; run session-file-server init-db, or start the server".into(),
            ));
        }
        tables.refuse_others()?;
        self.refuse_unfit()
    }

    /// Creates what is missing and upgrades what is older, in one transaction; says what
    /// an older server has left.
    ///
    /// # Errors
    /// [`Error::Layout`] if there is a table of one of our names that is not ours, or the
    /// schema is a newer server's; [`Error::Busy`] if a table must be changed that somebody
    /// uses for longer than a few seconds. Nothing was changed then.
    pub fn apply_schema(&mut self) -> Result<Leftovers, Error> {
        let applied = self.apply();
        applied.map_err(|error| self.with_advice(error, &all_names()))
    }

    fn apply(&mut self) -> Result<Leftovers, Error> {
        let tables = self.tables()?;
        tables.refuse_foreign()?;
        tables.refuse_newer()?;
        self.refuse_unfit()?;
        let mut tries = 1;
        loop {
            let applied = self.repeatable(|open| match apply(open) {
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    Ok(Err(locks::describe_holder(open, &names())?))
                }
                applied => applied.map(Ok),
            })?;
            match applied {
                Ok(leftovers) => return Ok(leftovers),
                Err(_) if tries < LOCK_TRIES => std::thread::sleep(LOCK_PAUSE),
                Err(holder) => return Err(Error::Busy(holder)),
            }
            tries += 1;
        }
    }

    /// What the whole database takes on its disk, bytes.
    ///
    /// # Errors
    /// Those of the database.
    pub fn database_size(&mut self) -> Result<u64, Error> {
        self.repeatable(|open| {
            let row = open.query_one("SELECT pg_database_size(current_database())", &[])?;
            Ok(row.try_get::<_, i64>(0)? as u64)
        })
    }

    /// What doesn't keep the server from running and should be known, each as a sentence. The
    /// schema must be current.
    ///
    /// # Errors
    /// Those of the database.
    pub fn schema_warnings(&mut self) -> Result<Vec<String>, Error> {
        let warnings = [
            self.id_order()?.warning(),
            self.durability_warning()?,
            self.rights_warning(&names())?,
        ];
        Ok(warnings.into_iter().flatten().collect())
    }

    fn tables(&mut self) -> Result<Tables, Error> {
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

fn names() -> [&'static str; NEEDED.len()] {
    NEEDED.map(|(table, _)| table)
}

/// Those of an older server, too.
fn all_names() -> Vec<&'static str> {
    names().into_iter().chain(older::UNUSED).collect()
}

fn apply(open: &mut Open) -> Result<Leftovers, postgres::Error> {
    let mut transaction = open.client.transaction()?;
    transaction.batch_execute(NO_TIMEOUT)?;
    transaction.batch_execute(LOCK)?;
    transaction.batch_execute(LOCK_TIMEOUT)?;
    transaction.batch_execute(SCHEMA)?;
    let mut leftovers = older::take_over(&mut transaction)?;
    transaction.commit()?;
    // Not in the same transaction: nobody shall wait for its locks while rows are counted, which
    // may take long.
    let mut transaction = open.client.transaction()?;
    transaction.batch_execute(NO_TIMEOUT)?;
    older::look_around(&mut transaction, &mut leftovers)?;
    transaction.commit()?;
    Ok(leftovers)
}

fn read_columns(open: &mut Open) -> Result<Vec<[String; 3]>, postgres::Error> {
    let rows = open.query(COLUMNS, &[&names().as_slice()])?;
    rows.iter()
        .map(|row| Ok([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?]))
        .collect()
}

/// What was found of our tables.
struct Tables {
    /// Table, column and type.
    columns: Vec<[String; 3]>,
    version: Option<i32>,
}

impl Tables {
    /// Whether there are no files: what other programs fill may be there already.
    fn is_empty(&self) -> bool {
        !self.has("files")
    }

    fn has(&self, table: &str) -> bool {
        self.columns.iter().any(|[found, _, _]| found == table)
    }

    fn column_type(&self, table: &str, column: &str) -> Option<&str> {
        let found = self
            .columns
            .iter()
            .find(|[t, c, _]| t == table && c == column);
        found.map(|[_, _, kind]| kind.as_str())
    }

    /// Refuses everything but our own tables, of our own version.
    fn refuse_others(&self) -> Result<(), Error> {
        self.refuse_foreign()?;
        self.refuse_newer()?;
        self.refuse_older()
    }

    /// Refuses tables that have our names but are not ours.
    fn refuse_foreign(&self) -> Result<(), Error> {
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

    fn refuse_newer(&self) -> Result<(), Error> {
        match self.version {
            Some(version) if version > VERSION => Err(Error::Layout(format!(
                "its schema has version {version}, and this server knows none above {VERSION}; \
                 install the newer server that made it"
            ))),
            _ => Ok(()),
        }
    }

    fn refuse_older(&self) -> Result<(), Error> {
        let missing = NEEDED.iter().find(|(table, _)| !self.has(table));
        let reason = match (missing, self.version) {
            (Some((table, _)), _) => format!("the table {table} is missing"),
            (None, Some(VERSION)) => return Ok(()),
            (None, Some(version)) => format!("its schema has version {version}, not {VERSION}"),
            (None, None) => "its schema has no version".into(),
        };
        Err(Error::Layout(format!(
            "it is an older server's: {reason}; run session-file-server init-db"
        )))
    }
}
