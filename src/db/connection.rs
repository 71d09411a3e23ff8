//! Connections to the database. They open themselves when first needed, are replaced when they
//! break, and try again what the database asks to be tried again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres::error::DbError;
use postgres::types::ToSql;
use postgres::{Client, CopyInWriter, Row, RowIter, Statement};

use super::error::{Error, Remedy, describe};
use super::outage::Outage;
use super::retry::RetryState;
use super::settings::Settings;

/// How long a connection may take to prove, after an unknown error, that it still works.
const VALIDITY_TIMEOUT: Duration = Duration::from_secs(1);

/// The session settings of a server's connections, in addition to those of [`Settings::connect`]:
/// no statement may run for long, or wait for a lock for long. `enable_seqscan` is off, because a
/// plan made while the table was empty would read the whole table when it has grown (measured:
/// until autovacuum has analyzed the table, 1,200 files of 1 KB per second among 20,000, instead of
/// 14,000). `jit` is off, because PostgreSQL believes that compiling pays where a table must be
/// read as a whole all the same.
pub(super) const SERVER_SESSION_SETTINGS: &str = "SET statement_timeout = '30s'; SET lock_timeout = '5s'; \
     SET enable_seqscan = off; SET jit = off";

/// The database, as all connections of the program share it.
#[derive(Debug)]
pub struct Database {
    settings: Settings,
    /// The statements that each connection runs first.
    session: &'static str,
    outage: Outage,
}

impl Database {
    /// The database of a server. It isn't connected yet.
    pub fn new(settings: Settings) -> Arc<Database> {
        Database::with_session(settings, SERVER_SESSION_SETTINGS)
    }

    /// A database whose connections run the statements `session` first.
    pub(super) fn with_session(settings: Settings, session: &'static str) -> Arc<Database> {
        Arc::new(Database {
            settings,
            session,
            outage: Outage::new(),
        })
    }

    /// A connection that opens itself when first needed.
    pub fn connection(self: &Arc<Database>) -> Connection {
        Connection {
            database: self.clone(),
            open: None,
        }
    }

    /// Whether the database could not be reached when it was last tried.
    pub fn is_away(&self) -> bool {
        self.outage.is_on()
    }

    /// The outages of the database so far, with the present one.
    pub fn outages(&self) -> u64 {
        self.outage.count()
    }

    /// Opens a connection, unless the database is away and it is too early to try again.
    fn connect(&self) -> Result<OpenConnection, Error> {
        if !self.outage.may_connect() {
            return Err(Error::Unavailable("the database is away".into()));
        }
        match OpenConnection::connect(&self.settings, self.session) {
            Ok(open) => {
                if self.outage.ended() {
                    log::info!("the database is back");
                }
                Ok(open)
            }
            Err(error) => {
                if self.outage.began() {
                    log::warn!(
                        "the database can't be reached; requests are answered 503 until it can: {error}"
                    );
                }
                Err(error)
            }
        }
    }
}

/// A connection of one thread.
pub struct Connection {
    database: Arc<Database>,
    open: Option<OpenConnection>,
}

impl Connection {
    /// The settings with which the connection is made.
    pub(super) fn settings(&self) -> &Settings {
        &self.database.settings
    }

    /// Runs `work`, and tries again as [`Remedy`] says. `work` must be idempotent: if the
    /// connection was idle before and has ended, it is repeated on a new one, whether or not the
    /// database has committed it.
    pub(super) fn repeatable<T>(
        &mut self,
        work: impl Fn(&mut OpenConnection) -> Result<T, postgres::Error>,
    ) -> Result<T, Error> {
        self.run(&work, self.open.is_some())
    }

    /// Runs `work`, and tries again only if the database has said that nothing was committed. For
    /// work that is not idempotent.
    pub(super) fn once<T>(
        &mut self,
        work: impl Fn(&mut OpenConnection) -> Result<T, postgres::Error>,
    ) -> Result<T, Error> {
        self.run(&work, false)
    }

    fn run<T>(
        &mut self,
        work: &impl Fn(&mut OpenConnection) -> Result<T, postgres::Error>,
        may_reconnect: bool,
    ) -> Result<T, Error> {
        let mut retries = RetryState::new(may_reconnect);
        loop {
            let open = match &mut self.open {
                Some(open) => open,
                None => self.open.insert(self.database.connect()?),
            };
            open.is_unreplicated.store(false, Ordering::SeqCst);
            let error = match work(open) {
                Ok(_) if open.is_unreplicated.load(Ordering::SeqCst) => return Err(unreplicated()),
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            let remedy = open.remedy(&error);
            if remedy == Remedy::Reconnect || open.is_out_of_sync || open.client.is_closed() {
                self.open = None;
            } else if remedy == Remedy::PrepareAgain {
                open.statements.clear();
            }
            if !retries.may_retry(remedy) {
                return Err(Error::of_statement(&error));
            }
            log::debug!("a statement is tried again: {}", describe(&error));
        }
    }
}

/// Whether a notice says that the wait for a synchronous standby was cancelled: the transaction is
/// committed here, but may be missing on the standby. Such a notice is recognised by its place in
/// PostgreSQL's source, because its text depends on the language, and its code (01000) is that of
/// any warning.
fn is_cancelled_wait(notice: &DbError) -> bool {
    let file = notice.file().unwrap_or_default();
    file.rsplit('/').next() == Some("syncrep.c")
}

/// The error for work that may be missing on a standby, and must not be acknowledged. A client that
/// repeats its request stores the same again.
fn unreplicated() -> Error {
    let text = "the wait for a synchronous stand-by was cancelled, so that what was stored may not \
                be there";
    log::warn!("answered 503: {text}");
    Error::Unavailable(text.into())
}

/// An established connection, with its prepared statements.
pub(super) struct OpenConnection {
    pub(super) client: Client,
    statements: HashMap<&'static str, Statement>,
    /// Whether the driver no longer assigns the database's answers to the right statements.
    is_out_of_sync: bool,
    /// Whether the last work may be missing on a synchronous standby.
    is_unreplicated: Arc<AtomicBool>,
}

impl OpenConnection {
    fn connect(settings: &Settings, session: &str) -> Result<OpenConnection, Error> {
        let is_unreplicated = Arc::<AtomicBool>::default();
        let noted = is_unreplicated.clone();
        let client = settings.connect_with(session, move |notice| {
            if is_cancelled_wait(&notice) {
                noted.store(true, Ordering::SeqCst);
            }
        })?;
        Ok(OpenConnection {
            client,
            statements: HashMap::new(),
            is_out_of_sync: false,
            is_unreplicated,
        })
    }

    /// The remedy for an error of a statement on this connection.
    fn remedy(&mut self, error: &postgres::Error) -> Remedy {
        match Remedy::of(error) {
            // Poolers have errors of their own, and some of them close the connection.
            Remedy::None
                if !self.is_out_of_sync
                    && matches!(Error::of(error), Error::Failed(_))
                    && self.client.is_valid(VALIDITY_TIMEOUT).is_err() =>
            {
                Remedy::Reconnect
            }
            remedy => remedy,
        }
    }

    pub(super) fn query_opt(
        &mut self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, postgres::Error> {
        let statement = self.statement(sql)?;
        self.client.query_opt(&statement, params)
    }

    pub(super) fn query_one(
        &mut self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, postgres::Error> {
        let statement = self.statement(sql)?;
        self.client.query_one(&statement, params)
    }

    pub(super) fn query(
        &mut self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, postgres::Error> {
        let statement = self.statement(sql)?;
        self.client.query(&statement, params)
    }

    /// Runs a query whose rows are read one by one, so that they are not all in memory.
    pub(super) fn query_raw(
        &mut self,
        sql: &'static str,
        params: &[&str],
    ) -> Result<RowIter<'_>, postgres::Error> {
        let statement = self.statement(sql)?;
        self.client.query_raw(&statement, params)
    }

    pub(super) fn execute(
        &mut self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, postgres::Error> {
        let statement = self.statement(sql)?;
        self.client.execute(&statement, params)
    }

    /// Runs a `COPY … FROM STDIN`, whose input comes from `write`. Errors of writing appear when
    /// the copy ends. The statement `before`, with an id as its parameter, runs first in the same
    /// transaction.
    ///
    /// This cures two faults of the driver. Without an explicit transaction it reports success when
    /// the database has read the last row, without waiting for the commit (`copy_in.rs` in
    /// tokio-postgres, `poll_finish`). And if the database refuses the `COPY` before it takes any
    /// input, the driver sends two requests but expects one answer, so that the next statement
    /// would get the other answer (rust-postgres pull request 1337); the connection is then
    /// abandoned.
    pub(super) fn copy_in(
        &mut self,
        before: Option<(&str, &str)>,
        sql: &'static str,
        write: impl FnOnce(&mut CopyInWriter),
    ) -> Result<(), postgres::Error> {
        let statement = self.statement(sql)?;
        let mut transaction = self.client.transaction()?;
        if let Some((sql, id)) = before {
            transaction.execute(sql, &[&id])?;
        }
        let mut writer = transaction
            .copy_in(&statement)
            .inspect_err(|_| self.is_out_of_sync = true)?;
        write(&mut writer);
        writer.finish()?;
        transaction.commit()
    }

    /// The prepared statement for `sql`, which is prepared at its first use on this connection.
    pub(super) fn statement(&mut self, sql: &'static str) -> Result<Statement, postgres::Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql)?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }
}
