//! Connections to the database. They open themselves when first needed, are replaced when they
//! break, and try again what the database asks to be tried again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postgres::error::DbError;
use postgres::types::ToSql;
use postgres::{Client, CopyInWriter, Row, RowIter, Statement};

use super::deadline::{Deadlines, Overdue, Patience, Watched};
use super::error::{Error, Remedy, describe};
use super::outage::Outage;
use super::retry::RetryState;
use super::settings::Settings;
use super::writes::{Refusal, Writes};

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

/// Selects whether the database takes no writes now.
const SELECT_READ_ONLY: &str = "SELECT current_setting('transaction_read_only')::bool";
/// Commits a transaction without any effect, which needs no privilege. It has an id and a record in
/// the log of changes, without which the commit would wait for nothing.
const COMMIT_NOTHING: &str =
    "SELECT pg_logical_emit_message(true, 'session-file-server', ''::text)";

/// The database, as all connections of the program share it.
#[derive(Debug)]
pub struct Database {
    settings: Settings,
    /// The statements that each connection runs first.
    session: &'static str,
    outage: Outage,
    writes: Writes,
    deadlines: Arc<Deadlines>,
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
            writes: Writes::default(),
            deadlines: Arc::default(),
        })
    }

    /// Starts the threads that end statements without an answer. Without them statements may take
    /// as long as the database allows.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn start_deadlines(&self) -> std::io::Result<()> {
        self.deadlines.start()
    }

    /// A connection that opens itself when first needed, for work without a client who waits.
    pub fn connection(self: &Arc<Database>) -> Connection {
        self.patient_connection(Patience::Background)
    }

    /// The same for requests, of which each must say when it came ([`Connection::asked`]).
    pub fn request_connection(self: &Arc<Database>) -> Connection {
        self.patient_connection(Patience::Request)
    }

    pub(super) fn patient_connection(self: &Arc<Database>, patience: Patience) -> Connection {
        Connection {
            database: self.clone(),
            open: None,
            patience,
            asked: None,
            refusal: None,
        }
    }

    /// Whether the database takes writes, as far as the latest ones have shown.
    pub fn takes_writes(&self) -> bool {
        self.writes.refusal(Instant::now()).is_none()
    }

    /// Notes that a connection has failed.
    fn lost(&self, error: &Error) {
        if self.outage.began() {
            log::warn!(
                "the database can't be reached; requests are answered 503 until it can: {error}"
            );
        }
    }

    /// Notes that a write has succeeded.
    fn took_write(&self) {
        if self.writes.succeeded() {
            log::info!("the database takes writes again");
        }
    }

    /// Notes that a write was refused.
    fn refused(&self, refusal: Refusal, error: &Error) {
        if !self.writes.refused(refusal, Instant::now()) {
            return;
        }
        if refusal == Refusal::ReadOnly {
            log::warn!(
                "the database is read-only, as a stand-by is; files are handed out, and uploads \
                 are answered 503 until it takes writes"
            );
        } else {
            log::warn!(
                "the database takes no writes; uploads are answered 503 until it does: {error}"
            );
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
        match OpenConnection::connect(self) {
            Ok(open) => {
                if self.outage.ended() {
                    log::info!("the database is back");
                }
                Ok(open)
            }
            Err(error) => {
                self.lost(&error);
                Err(error)
            }
        }
    }
}

/// A connection of one thread.
pub struct Connection {
    pub(super) database: Arc<Database>,
    open: Option<OpenConnection>,
    /// How long statements may go without an answer.
    pub(super) patience: Patience,
    /// When the request at hand came.
    asked: Option<Instant>,
    /// Whether the last work was refused as a write.
    refusal: Option<Refusal>,
}

impl Connection {
    /// The settings with which the connection is made.
    pub(super) fn settings(&self) -> &Settings {
        &self.database.settings
    }

    /// Says when the request came for which the next statements are.
    pub fn asked(&mut self, at: Instant) {
        self.asked = Some(at);
    }

    /// Runs `work`, which writes, as [`repeatable`](Self::repeatable) does; at once without it
    /// while the database takes no writes and another one is tried.
    pub(super) fn writing<T>(
        &mut self,
        work: impl Fn(&mut OpenConnection) -> Result<T, postgres::Error>,
    ) -> Result<T, Error> {
        let database = self.database.clone();
        let Some(trial) = database.writes.begin(Instant::now()) else {
            return Err(Error::Unavailable("the database takes no writes".into()));
        };
        if trial.refusal == Some(Refusal::ReadOnly) && self.is_read_only()? {
            // A new connection may lead to another database, which takes writes.
            self.open = None;
            let error = Error::Unavailable("the database is read-only".into());
            database.refused(Refusal::ReadOnly, &error);
            return Err(error);
        }
        self.refusal = None;
        let done = self.repeatable(work);
        match (&done, self.refusal.take()) {
            (Ok(_), _) => database.took_write(),
            (Err(error), Some(refusal)) => database.refused(refusal, error),
            (Err(_), None) => {}
        }
        done
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
            let (result, overdue) = open.run(work, self.patience, self.asked);
            let is_unreplicated = open.is_unreplicated.load(Ordering::SeqCst);
            if overdue != Overdue::No {
                // A cancellation that comes late must not meet the next statement.
                self.open = None;
            }
            let error = match result {
                _ if is_unreplicated => return Err(self.unreplicated()),
                Ok(result) => return Ok(result),
                Err(_) if overdue != Overdue::No => return Err(self.gave_up(overdue)),
                Err(error) => error,
            };
            let remedy = self.prepare_for_another_try(&error);
            if !retries.may_retry(remedy) {
                self.refusal = Refusal::of(&error);
                return Err(Error::of_statement(&error));
            }
            log::debug!("a statement is tried again: {}", describe(&error));
        }
    }

    /// The remedy for an error. The connection is closed, or its prepared statements are
    /// forgotten, if the remedy needs it.
    fn prepare_for_another_try(&mut self, error: &postgres::Error) -> Remedy {
        let Some(open) = &mut self.open else {
            return Remedy::None;
        };
        let remedy = open.remedy(error);
        if remedy == Remedy::Reconnect || open.is_out_of_sync || open.client.is_closed() {
            self.open = None;
        } else if remedy == Remedy::PrepareAgain {
            open.statements.clear();
        }
        remedy
    }

    /// The error for work that may be missing on a standby, and must not be acknowledged. A client
    /// that repeats its request stores the same again.
    fn unreplicated(&mut self) -> Error {
        let error = Error::Unavailable(
            "the wait for a synchronous stand-by was cancelled, so that what was stored may not \
             be there"
                .into(),
        );
        self.database.refused(Refusal::NoAnswer, &error);
        error
    }

    /// The error for work that had no answer in time.
    fn gave_up(&mut self, overdue: Overdue) -> Error {
        self.refusal = Some(Refusal::NoAnswer);
        let error = Error::Unavailable("the database gave no answer in time".into());
        if overdue == Overdue::Closed {
            self.database.lost(&error);
        }
        error
    }

    /// Whether the database takes no writes: it is a stand-by, or set to be read-only. Unlike a
    /// write, the question leaves no error in the database's log.
    fn is_read_only(&mut self) -> Result<bool, Error> {
        self.repeatable(|open| {
            let row = open.query_one(SELECT_READ_ONLY, &[])?;
            row.try_get(0)
        })
    }

    /// Asks whether the database is read-only, as at the start, and notes it.
    ///
    /// # Errors
    /// Those of the database.
    pub fn look_whether_read_only(&mut self) -> Result<bool, Error> {
        let is_read_only = self.is_read_only()?;
        if is_read_only {
            let error = Error::Unavailable("the database is read-only".into());
            self.database.refused(Refusal::ReadOnly, &error);
        }
        Ok(is_read_only)
    }

    /// Tries whether a database that took no writes takes them now, by a commit of nothing that
    /// waits for the disk and the stand-by as any other does.
    ///
    /// # Errors
    /// Those of the database.
    pub fn try_to_write(&mut self) -> Result<(), Error> {
        self.writing(|open| open.query_one(COMMIT_NOTHING, &[]).map(drop))
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

/// An established connection, with its prepared statements.
pub(super) struct OpenConnection {
    pub(super) client: Client,
    statements: HashMap<&'static str, Statement>,
    /// Whether the driver no longer assigns the database's answers to the right statements.
    is_out_of_sync: bool,
    /// Whether the last work may be missing on a synchronous standby.
    is_unreplicated: Arc<AtomicBool>,
    /// Who ends statements that take too long.
    pub(super) watched: Arc<Watched>,
}

impl OpenConnection {
    fn connect(database: &Database) -> Result<OpenConnection, Error> {
        let is_unreplicated = Arc::<AtomicBool>::default();
        let noted = is_unreplicated.clone();
        let watched = database.deadlines.watch();
        let settings = &database.settings;
        let client = settings.connect_with(database.session, &watched, move |notice| {
            if is_cancelled_wait(&notice) {
                noted.store(true, Ordering::SeqCst);
            }
        })?;
        let (token, settings) = (client.cancel_token(), settings.clone());
        let deadlines = database.deadlines.clone();
        watched.ready(move || {
            // A frozen database may not answer this connection either.
            let watched = deadlines.watch();
            let cancelled = settings
                .connector()
                .map(|connector| token.cancel_query(connector.watched_by(watched)));
            if !matches!(cancelled, Ok(Ok(()))) {
                log::debug!("a statement could not be cancelled");
            }
        });
        Ok(OpenConnection {
            client,
            statements: HashMap::new(),
            is_out_of_sync: false,
            is_unreplicated,
            watched,
        })
    }

    /// Runs `work` once, under watch.
    fn run<T>(
        &mut self,
        work: &impl Fn(&mut OpenConnection) -> Result<T, postgres::Error>,
        patience: Patience,
        asked: Option<Instant>,
    ) -> (Result<T, postgres::Error>, Overdue) {
        self.is_unreplicated.store(false, Ordering::SeqCst);
        self.watched
            .begin(patience, asked.unwrap_or_else(Instant::now));
        let result = work(self);
        (result, self.watched.end())
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

    /// Runs a `COPY … FROM STDIN`, whose input comes from `write`, which tells of its progress. Errors of writing appear when
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
        write: impl FnOnce(&mut CopyInWriter, &Watched),
    ) -> Result<(), postgres::Error> {
        let statement = self.statement(sql)?;
        let watched = self.watched.clone();
        let mut transaction = self.client.transaction()?;
        if let Some((sql, id)) = before {
            transaction.execute(sql, &[&id])?;
        }
        let mut writer = transaction
            .copy_in(&statement)
            .inspect_err(|_| self.is_out_of_sync = true)?;
        write(&mut writer, &watched);
        writer.finish()?;
        watched.progress();
        transaction.commit()
    }

    /// The prepared statement for `sql`, which is prepared at its first use on this connection.
    pub(super) fn statement(&mut self, sql: &'static str) -> Result<Statement, postgres::Error> {
        self.watched.progress();
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql)?;
        self.watched.progress();
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }
}
