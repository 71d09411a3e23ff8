//! The schema: creating, upgrading and checking the tables that the server needs.

use std::sync::atomic::Ordering;
use std::time::Duration;

use postgres::error::SqlState;

use super::connection::{Connection, OpenConnection};
use super::deadline::Patience;
use super::error::Error;
use super::layout::{all_names, names};
use super::locks;
use super::older::{self, Leftovers};

/// The statements that create and upgrade the tables. An operator can load the same file with psql.
const SCHEMA: &str = include_str!("../../schema.pgsql");

/// Takes the lock that is held while the schema is applied, because several servers may start on
/// one empty database. Its number is random, so that no other program uses it.
const TAKE_SCHEMA_LOCK: &str = "SELECT pg_advisory_xact_lock(7421659803345108)";

/// Removes the timeouts while the schema is applied. Creating an index on a hundred gigabytes of
/// files takes long, and so does waiting for another server that creates it.
const NO_TIMEOUT: &str = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0";

/// Limits how long a change of a table waits for the transactions that use it, because all later
/// ones wait behind it. The limit is shorter than the servers' own lock timeout, so that no request
/// fails meanwhile.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";

/// How often the schema is applied if a table is in use.
const MAX_LOCK_TRIES: u32 = 3;

/// The pause between two tries, in which the transactions that waited behind us run.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// The state in which the schema was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// The schema was current.
    Current,
    /// The database was empty, and its tables were created.
    Created,
}

impl Connection {
    /// Creates the tables in an empty database. Checks those of any other, without changing it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it is empty and read-only, as a standby is: requests are answered
    /// 503 from then on, until this has succeeded.
    /// [`Error::Layout`] if it holds tables that the server can't run on as they are.
    pub fn prepare_schema(&mut self) -> Result<SchemaState, Error> {
        let prepared = self.prepare();
        prepared.map_err(|error| self.with_advice(error, &all_names()))
    }

    fn prepare(&mut self) -> Result<SchemaState, Error> {
        let tables = self.tables()?;
        if tables.is_empty() && self.look_whether_read_only()? {
            if !self.database.has_no_tables.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "the database is empty; its tables are made when it takes writes, and all \
                     requests are answered 503 until then"
                );
            }
            return Err(Error::Unavailable("it is empty and read-only".into()));
        }
        if tables.is_empty() {
            // What the statements there may take long for is said there.
            let patience = std::mem::replace(&mut self.patience, Patience::Unlimited);
            let applied = self.apply();
            self.patience = patience;
            applied?;
            self.database.has_no_tables.store(false, Ordering::Relaxed);
            return Ok(SchemaState::Created);
        }
        self.database.has_no_tables.store(false, Ordering::Relaxed);
        tables.refuse_others()?;
        self.refuse_unfit()?;
        self.refuse_unreadable()?;
        Ok(SchemaState::Current)
    }

    /// Checks the tables, without changing them.
    ///
    /// # Errors
    /// [`Error::Layout`] if the server can't run on them.
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
        self.refuse_unfit()?;
        self.refuse_unreadable()
    }

    /// Creates missing tables and upgrades older ones, in one transaction. Returns what an older
    /// server has left.
    ///
    /// # Errors
    /// [`Error::Layout`] if a table with one of our names is not ours, or the schema is a newer
    /// server's; [`Error::Busy`] if a table must be changed that is in use for longer than a few
    /// seconds. Nothing is changed then.
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

    /// Problems that don't keep the server from running, a sentence for each. The schema must be
    /// current.
    ///
    /// # Errors
    /// Those of the database.
    pub fn schema_warnings(&mut self) -> Result<Vec<String>, Error> {
        let warnings = [
            self.id_order()?.warning(),
            self.durability_warning()?,
            self.rights_warning(&names())?,
            self.pooling_warning()?,
        ];
        Ok(warnings.into_iter().flatten().collect())
    }
}

fn apply(open: &mut OpenConnection) -> Result<Leftovers, postgres::Error> {
    let mut transaction = open.client.transaction()?;
    transaction.batch_execute(NO_TIMEOUT)?;
    transaction.batch_execute(TAKE_SCHEMA_LOCK)?;
    transaction.batch_execute(LOCK_TIMEOUT)?;
    transaction.batch_execute(SCHEMA)?;
    let mut leftovers = older::copy_version_checks(&mut transaction)?;
    transaction.commit()?;
    // In a second transaction, because counting rows may take long, and others would wait for the
    // locks of the first one.
    let mut transaction = open.client.transaction()?;
    transaction.batch_execute(NO_TIMEOUT)?;
    older::find_files_elsewhere(&mut transaction, &mut leftovers)?;
    transaction.commit()?;
    Ok(leftovers)
}
