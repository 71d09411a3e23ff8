//! Rebuilding the primary key of `files` in the order of bytes, while the files are served.
//!
//! The new index is built beside the old one, without a lock that blocks others. Then the column's
//! collation is changed and the key is moved to the new index, in one short transaction that locks
//! the table: it reads and checks no rows.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use postgres::error::SqlState;
use postgres::{CancelToken, Row};

use super::connection::{Connection, Database, OpenConnection};
use super::distribution::is_distributed;
use super::error::Error;
use super::identifier::quoted;
use super::locks;
use super::session;
use super::settings::Settings;
use super::tls::Connector;
use crate::lock::lock;

/// Takes the lock that is held while the ids are rebuilt. Its number is random, so that no other
/// program uses it.
const TRY_REBUILD_LOCK: &str = "SELECT pg_try_advisory_lock(5108263309724471)";

const DROP_NEW: &str = "DROP INDEX CONCURRENTLY IF EXISTS files_id_bytewise";

const BUILD_NEW: &str =
    "CREATE UNIQUE INDEX CONCURRENTLY files_id_bytewise ON files (id COLLATE \"C\")";

/// How often the index is built if there are duplicate files.
const MAX_BUILD_TRIES: u32 = 3;

/// Deletes all but the longest-living one of duplicate files. They arise when a damaged index
/// doesn't find the first file, so this must not use an index ([`FORCE_TABLE_SCAN`]).
const DELETE_DUPLICATES: &str = "WITH numbered AS (SELECT ctid, row_number() OVER \
             (PARTITION BY id COLLATE \"C\" ORDER BY expiry DESC, ctid) AS number FROM files) \
     DELETE FROM files WHERE ctid = ANY(ARRAY(SELECT ctid FROM numbered WHERE number > 1))";

/// Makes a transaction read tables without their indexes.
const FORCE_TABLE_SCAN: &str = "SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off; \
     SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off";

/// Limits how long the swap waits for the transactions that use the table, because all later ones
/// wait behind it.
const SWAP_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";

/// How often the swap is tried.
const MAX_SWAP_TRIES: u32 = 60;
/// The pause between two tries, in which the transactions that waited behind us run.
const SWAP_PAUSE: Duration = Duration::from_secs(1);

/// The other tables whose keys depend on the collation. They are small.
const SMALL_TABLES: [&str; 5] = [
    "github_projects",
    "github_releases",
    "github_assets",
    "version_checks",
    "servers",
];

/// Selects the primary key of `files`, the type of the id, and the estimated number of files.
const SELECT_KEY: &str = "SELECT conname::text, format_type(atttypid, atttypmod), \
         greatest(reltuples, 0)::int8 \
     FROM pg_class JOIN pg_constraint ON conrelid = pg_class.oid \
     JOIN pg_attribute ON attrelid = pg_class.oid AND attnum = conkey[1] \
     WHERE pg_class.oid = to_regclass('files') AND relkind = 'r' AND contype = 'p' \
         AND attname = 'id' AND cardinality(conkey) = 1";

/// Selects what the swap would lose, or rebuild while all requests wait: foreign keys of other
/// tables, views, further indexes.
const SELECT_OBSTACLES: &str = "SELECT 'the foreign key ' || conname || ' of ' || conrelid::regclass \
         FROM pg_constraint WHERE contype = 'f' AND confrelid = to_regclass('files') \
     UNION SELECT 'the view ' || ev_class::regclass FROM pg_depend \
         JOIN pg_rewrite ON pg_rewrite.oid = objid AND classid = 'pg_rewrite'::regclass \
         JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid \
         WHERE refobjid = to_regclass('files') AND attname = 'id' \
     UNION SELECT 'the index ' || indexrelid::regclass FROM pg_index \
         JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey) \
         WHERE indrelid = to_regclass('files') AND attname = 'id' AND NOT indisprimary \
             AND indexrelid::regclass::text <> 'files_id_bytewise' \
     UNION SELECT 'the replica identity' FROM pg_class \
         WHERE oid = to_regclass('files') AND relreplident = 'i'";

/// Selects the check constraints of the id. The swap recreates them as not valid, which reads no
/// rows; they are validated afterwards.
const SELECT_CHECKS: &str = "SELECT conname::text, pg_get_constraintdef(pg_constraint.oid) \
     FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = ANY(conkey) \
     WHERE conrelid = to_regclass('files') AND contype = 'c' AND attname = 'id' ORDER BY conname";

const SELECT_PROGRESS: &str = "SELECT phase, (100 * greatest( \
             blocks_done::float8 / nullif(blocks_total, 0), \
             tuples_done::float8 / nullif(tuples_total, 0)))::int4 \
     FROM pg_stat_progress_create_index WHERE relid = to_regclass('files') LIMIT 1";

/// The plan of a rebuild.
#[derive(Clone, Debug)]
pub struct RebuildPlan {
    /// The name of the primary key.
    key: String,
    /// The type of the id.
    id_type: String,
    /// The check constraints of the id.
    checks: Vec<Check>,
    /// The estimated number of files.
    pub files: u64,
}

/// A check constraint.
#[derive(Clone, Debug)]
struct Check {
    name: String,
    definition: String,
}

/// The ending of the definition of a check constraint that was never validated.
const NOT_VALID: &str = " NOT VALID";

/// Cancels a rebuild from another thread.
#[derive(Clone, Default)]
pub struct Canceller {
    state: Arc<Mutex<CancelState>>,
}

#[derive(Default)]
struct CancelState {
    is_cancelled: bool,
    /// The token that cancels the running statement, and the connector for the connection that
    /// sends it.
    running: Option<(CancelToken, Connector)>,
}

impl Canceller {
    /// Cancels the running statement, and prevents further ones.
    pub fn cancel(&self) {
        let mut state = lock(&self.state);
        state.is_cancelled = true;
        if let Some((token, connector)) = &state.running {
            // If cancelling fails, the statement ends by itself or with the program.
            let _ = token.cancel_query(connector.clone());
        }
    }

    fn is_cancelled(&self) -> bool {
        lock(&self.state).is_cancelled
    }

    fn watch(&self, token: CancelToken, connector: Connector) {
        lock(&self.state).running = Some((token, connector));
    }
}

impl Database {
    /// A database for [`Connection::rebuild_ids`]. Its connections have no timeout for statements.
    pub fn for_rebuild(settings: Settings) -> Arc<Database> {
        Database::with_session(settings, session::REBUILD)
    }
}

impl Connection {
    /// Plans a rebuild of the ids.
    ///
    /// # Errors
    /// [`Error::Layout`] if it can't be done while the files are served; [`Error::Pooler`] if a
    /// pooler shares the session, because the lock and the time-outs of a rebuild need their own.
    pub fn plan_rebuild(&mut self) -> Result<RebuildPlan, Error> {
        self.refuse_shared()?;
        let (key, obstacles, checks) = self.repeatable(|open| {
            let key = match is_distributed(open)? {
                true => None,
                false => open.query_opt(SELECT_KEY, &[])?,
            };
            let obstacles = open.query(SELECT_OBSTACLES, &[])?;
            let obstacles = obstacles.iter().map(|row| row.try_get(0));
            let checks = open.query(SELECT_CHECKS, &[])?;
            let check = |row: &Row| {
                Ok(Check {
                    name: row.try_get(0)?,
                    definition: row.try_get(1)?,
                })
            };
            let checks = checks.iter().map(check);
            let checks = checks.collect::<Result<Vec<_>, postgres::Error>>()?;
            Ok((key, obstacles.collect::<Result<Vec<String>, _>>()?, checks))
        })?;
        let Some(key) = key else {
            return Err(Error::Layout(
                "its table files is partitioned or distributed, or has no primary key (id), so that \
                 its ids can't be rebuilt by this program"
                    .into(),
            ));
        };
        if !obstacles.is_empty() {
            return Err(Error::Layout(format!(
                "{} of its table files must be dropped before the ids are rebuilt, and made \
                 again afterwards",
                obstacles.join(", ")
            )));
        }
        let read = || {
            Ok(RebuildPlan {
                key: key.try_get(0)?,
                id_type: key.try_get(1)?,
                files: key.try_get::<_, i64>(2)? as u64,
                checks,
            })
        };
        read().map_err(|error: postgres::Error| Error::of(&error))
    }

    /// Builds the new index and moves the primary key to it. Returns how many duplicate rows were
    /// removed. The connection must be one of [`Database::for_rebuild`].
    ///
    /// # Errors
    /// Those of the database; [`Error::Busy`] if the table is in use all the time, or another
    /// rebuild runs. The new index is removed then.
    pub fn rebuild_ids(&mut self, plan: &RebuildPlan, canceller: &Canceller) -> Result<u64, Error> {
        let connector = self.settings().connector()?;
        let is_alone: bool = self.once(|open| {
            canceller.watch(open.client.cancel_token(), connector.clone());
            open.query_one(TRY_REBUILD_LOCK, &[])?.try_get(0)
        })?;
        if !is_alone {
            return Err(Error::Busy("another init-db rebuilds the ids".into()));
        }
        let rebuilt = self.build(canceller).and_then(|removed| {
            self.swap(plan, canceller)?;
            Ok(removed)
        });
        if rebuilt.is_err() {
            // The first error matters more. The next rebuild removes what is left.
            if let Err(error) = self.once(|open| open.client.batch_execute(DROP_NEW)) {
                log::warn!("the index files_id_bytewise is left, drop it: {error}");
            }
        }
        rebuilt
    }

    /// Builds the new index, and removes duplicate files that prevent it.
    fn build(&mut self, canceller: &Canceller) -> Result<u64, Error> {
        let mut removed = 0;
        for _ in 0..MAX_BUILD_TRIES {
            refuse_cancelled(canceller)?;
            let is_built = self.once(|open| {
                open.client.batch_execute(DROP_NEW)?;
                match open.client.batch_execute(BUILD_NEW) {
                    Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => Ok(false),
                    built => built.map(|()| true),
                }
            })?;
            if is_built {
                return Ok(removed);
            }
            refuse_cancelled(canceller)?;
            removed += self.once(|open| {
                open.client.batch_execute(DROP_NEW)?;
                let mut transaction = open.client.transaction()?;
                transaction.batch_execute(FORCE_TABLE_SCAN)?;
                let removed = transaction.execute(DELETE_DUPLICATES, &[])?;
                transaction.commit()?;
                Ok(removed)
            })?;
        }
        Err(Error::Failed("files are stored twice all the time".into()))
    }

    /// Moves the primary key to the new index.
    fn swap(&mut self, plan: &RebuildPlan, canceller: &Canceller) -> Result<(), Error> {
        let statements = plan.swap();
        let mut tries = 1;
        loop {
            refuse_cancelled(canceller)?;
            let swapped = self.once(|open| {
                let mut transaction = open.client.transaction()?;
                let changed = transaction
                    .batch_execute(&statements)
                    .and_then(|()| transaction.commit());
                match changed {
                    Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                        Ok(Err(locks::describe_holder(open, &["files"])?))
                    }
                    changed => changed.map(Ok),
                }
            })?;
            match swapped {
                Ok(()) => return Ok(()),
                Err(_) if tries < MAX_SWAP_TRIES => std::thread::sleep(SWAP_PAUSE),
                Err(holder) => return Err(Error::Busy(holder)),
            }
            tries += 1;
        }
    }

    /// Finishes a rebuild with work that blocks nobody: validates the check constraints, updates
    /// the planner's statistics, and rebuilds the keys of the other tables.
    ///
    /// # Errors
    /// Those of the database. The ids are rebuilt nevertheless.
    pub fn finish_rebuild(&mut self, plan: &RebuildPlan) -> Result<(), Error> {
        let was_valid = |check: &&Check| !check.definition.ends_with(NOT_VALID);
        for check in plan.checks.iter().filter(was_valid) {
            let name = quoted(&check.name);
            let validate = format!("ALTER TABLE files VALIDATE CONSTRAINT {name}");
            self.once(|open| open.client.batch_execute(&validate))?;
        }
        self.once(|open| open.client.batch_execute("ANALYZE files (id)"))?;
        for table in SMALL_TABLES {
            let reindex = format!("REINDEX TABLE CONCURRENTLY {table}");
            self.once(|open| open.client.batch_execute(&reindex))?;
        }
        Ok(())
    }

    /// The phase of the index build that PostgreSQL is in, and how much of it is done, percent.
    ///
    /// # Errors
    /// Those of the database.
    pub fn rebuild_progress(&mut self) -> Result<Option<(String, Option<i32>)>, Error> {
        self.repeatable(|open: &mut OpenConnection| {
            let row = open.query_opt(SELECT_PROGRESS, &[])?;
            row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
                .transpose()
        })
    }
}

impl RebuildPlan {
    /// The statements of the swap, which lock the table.
    fn swap(&self) -> String {
        let key = quoted(&self.key);
        let mut statements = format!(
            "{SWAP_TIMEOUT}; LOCK TABLE files IN ACCESS EXCLUSIVE MODE; \
             ALTER TABLE files DROP CONSTRAINT {key}; "
        );
        for check in &self.checks {
            let name = quoted(&check.name);
            statements += &format!("ALTER TABLE files DROP CONSTRAINT {name}; ");
        }
        statements += &format!(
            "ALTER TABLE files ALTER id TYPE {} COLLATE \"C\"; \
             ALTER TABLE files ADD CONSTRAINT {key} PRIMARY KEY USING INDEX files_id_bytewise",
            self.id_type
        );
        for check in &self.checks {
            let definition = check.definition.trim_end_matches(NOT_VALID);
            let name = quoted(&check.name);
            statements +=
                &format!("; ALTER TABLE files ADD CONSTRAINT {name} {definition}{NOT_VALID}");
        }
        statements
    }
}

/// Fails if the rebuild was cancelled.
fn refuse_cancelled(canceller: &Canceller) -> Result<(), Error> {
    if canceller.is_cancelled() {
        return Err(Error::Unavailable("interrupted".into()));
    }
    Ok(())
}
