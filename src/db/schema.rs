//! The tables that the program needs, and whether they are there.

use std::time::Duration;

use postgres::error::SqlState;

use super::connection::{Connection, OpenConnection};
use super::error::Error;
use super::locks;
use super::older::{self, Leftovers};

/// The same file that an operator can load with psql.
const SCHEMA: &str = include_str!("../../schema.pgsql");

/// The version that [`SCHEMA`] gives itself.
pub const SCHEMA_VERSION: i32 = 1;

/// Held while the schema is applied: several servers may start on one empty database.
/// The number is ours alone by being random.
const TAKE_SCHEMA_LOCK: &str = "SELECT pg_advisory_xact_lock(7421659803345108)";

/// An index on a hundred gigabytes of files takes longer than any request may, and so may
/// another server that is making the same.
const NO_TIMEOUT: &str = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0";

/// How long a change of a table waits for those who use it: whoever comes after us waits with
/// us. It is less than the server's own limit, so that no request fails meanwhile.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";

/// How often a change of a table is tried.
const MAX_LOCK_TRIES: u32 = 3;

/// The pause between two tries, in which those who waited with us go on.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// The columns of our tables, as far as they are there.
const SELECT_OUR_COLUMNS: &str = "SELECT relname::text, attname::text, format_type(atttypid, NULL) \
     FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid \
     WHERE attrelid = ANY(ARRAY(SELECT to_regclass(name)::oid FROM unnest($1::text[]) name)) \
         AND attnum > 0 AND NOT attisdropped";

const SELECT_VERSION: &str = "SELECT version FROM schema_version";

const TEXT_TYPE: &[&str] = &["text"];
const INTEGER_TYPE: &[&str] = &["integer"];
const COUNT_TYPE: &[&str] = &["bigint"];
const TIME_TYPE: &[&str] = &["timestamp with time zone"];
/// What another program fills may be wider than what we would make.
const ANY_NUMBER_TYPE: &[&str] = &["integer", "bigint", "numeric"];

/// A column's name, and the types that it may have.
type Column = (&'static str, &'static [&'static str]);

/// What the server needs in order to run.
const NEEDED: [(&str, &[Column]); 9] = [
    (
        "files",
        &[
            ("id", &["character varying", "text"]),
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

/// What was found when the schema was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaState {
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
    pub fn prepare_schema(&mut self) -> Result<SchemaState, Error> {
        let prepared = self.prepare();
        prepared.map_err(|error| self.with_advice(error, &all_names()))
    }

    fn prepare(&mut self) -> Result<SchemaState, Error> {
        let tables = self.tables()?;
        if tables.is_empty() {
            self.apply()?;
            return Ok(SchemaState::Empty);
        }
        tables.refuse_others()?;
        self.refuse_unfit()?;
        Ok(SchemaState::Current)
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
                Err(_) if tries < MAX_LOCK_TRIES => std::thread::sleep(LOCK_PAUSE),
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
    names().into_iter().chain(older::OLDER_TABLES).collect()
}

fn apply(open: &mut OpenConnection) -> Result<Leftovers, postgres::Error> {
    let mut transaction = open.client.transaction()?;
    transaction.batch_execute(NO_TIMEOUT)?;
    transaction.batch_execute(TAKE_SCHEMA_LOCK)?;
    transaction.batch_execute(LOCK_TIMEOUT)?;
    transaction.batch_execute(SCHEMA)?;
    let mut leftovers = older::copy_version_checks(&mut transaction)?;
    transaction.commit()?;
    // Not in the same transaction: nobody shall wait for its locks while rows are counted, which
    // may take long.
    let mut transaction = open.client.transaction()?;
    transaction.batch_execute(NO_TIMEOUT)?;
    older::find_files_elsewhere(&mut transaction, &mut leftovers)?;
    transaction.commit()?;
    Ok(leftovers)
}

fn read_columns(open: &mut OpenConnection) -> Result<Vec<[String; 3]>, postgres::Error> {
    let rows = open.query(SELECT_OUR_COLUMNS, &[&names().as_slice()])?;
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
            Some(version) if version > SCHEMA_VERSION => Err(Error::Layout(format!(
                "its schema has version {version}, and this server knows none above {SCHEMA_VERSION}; \
                 install the newer server that made it"
            ))),
            _ => Ok(()),
        }
    }

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
