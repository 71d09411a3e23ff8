//! Connections to the database. They open themselves when first needed, are replaced when they
//! break, and try again what the database asks to be tried again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::deadline::{Overdue, Patience};
use super::error::{Error, Remedy, describe};
use super::pooling;
use super::replicas::Reader;
use super::retry::RetryState;
use super::settings::{NO_TIMELINE, Settings};
use super::writes::{Refusal, Trial, Wrote};

pub(super) use super::database::Database;
pub(super) use super::open::OpenConnection;

/// The descriptors of a connection: its socket, our duplicate of it, and three of the driver's
/// runtime (two for epoll, one that wakes it).
pub const CONNECTION_DESCRIPTORS: usize = 5;

/// How long work may take before the other hosts are asked whether one of them is the primary now.
/// Frozen databases are replaced after some seconds, and nearly all work takes milliseconds.
const SILENCE: Duration = Duration::from_secs(2);
/// Selects whether the database takes no writes now.
const SELECT_READ_ONLY: &str = "SELECT current_setting('transaction_read_only')::bool";
/// Commits a transaction without any effect, which needs no privilege. The message gives the
/// transaction an id and a WAL record. Without these its commit would wait neither for the disk nor
/// for a standby.
const COMMIT_NOTHING: &str =
    "SELECT pg_logical_emit_message(true, 'session-file-server', ''::text)";

impl Database {
    /// A connection that opens itself when first needed, for work without a client who waits.
    pub fn connection(self: &Arc<Database>) -> Connection {
        self.patient_connection(self.background_patience())
    }

    /// A connection for requests. For each request [`Connection::asked`] must be called first.
    pub fn request_connection(self: &Arc<Database>) -> Connection {
        self.patient_connection(Patience::Request)
    }

    pub(super) fn patient_connection(self: &Arc<Database>, patience: Patience) -> Connection {
        let reads_from = self.replicas.as_ref();
        let reads_from = reads_from.filter(|_| patience == Patience::Request);
        Connection {
            reader: reads_from.map(Reader::new),
            database: self.clone(),
            open: None,
            patience,
            asked: None,
            refusal: None,
        }
    }
}

/// A connection of one thread.
pub struct Connection {
    pub(super) database: Arc<Database>,
    open: Option<OpenConnection>,
    /// What reads files from replicas, if there are any.
    pub(super) reader: Option<Reader>,
    /// How long statements may go without an answer.
    pub(super) patience: Patience,
    /// When the request at hand came.
    asked: Option<Instant>,
    /// What the error of the last work that failed says of other writes.
    refusal: Option<Refusal>,
}

impl Connection {
    /// The settings with which the connection is made.
    pub(super) fn settings(&self) -> &Settings {
        &self.database.settings
    }

    /// Notes when the request came for which the next statements are run.
    pub fn asked(&mut self, at: Instant) {
        self.asked = Some(at);
    }

    /// Whether the database takes writes, as far as the latest ones have shown.
    pub fn takes_writes(&self) -> bool {
        self.database.takes_writes()
    }

    /// Whether files are read from a replica now.
    pub fn reads_from_replica(&self) -> bool {
        self.database
            .replicas()
            .is_some_and(|replicas| replicas.are_used())
    }

    /// Whether the database lacks space, so that whatever can be deleted should be deleted.
    pub fn is_full(&self) -> bool {
        self.database.is_full()
    }

    /// Runs `work`, which writes, as [`repeatable`](Self::repeatable) does. While the database
    /// takes no writes and another one is being tried, it returns an error at once, without running
    /// `work`. That tells what it has written.
    pub(super) fn writing<T>(
        &mut self,
        work: impl Fn(&mut OpenConnection) -> Result<(T, Wrote), postgres::Error>,
    ) -> Result<T, Error> {
        let database = self.database.clone();
        let Some(trial) = database.writes.begin(Instant::now()) else {
            return Err(Error::Unavailable("the database takes no writes".into()));
        };
        self.try_work(&trial, work)
    }

    /// Runs `work` with the permission for it, and notes what that shows.
    fn try_work<T>(
        &mut self,
        trial: &Trial,
        work: impl Fn(&mut OpenConnection) -> Result<(T, Wrote), postgres::Error>,
    ) -> Result<T, Error> {
        let database = self.database.clone();
        if trial.refusal.is_some() && self.is_read_only()? {
            // A new connection may lead to another database, which takes writes.
            self.open = None;
            database.refused(Refusal::ReadOnly, &read_only());
            return Err(read_only());
        }
        let began = Instant::now();
        self.refusal = None;
        let done = self.repeatable(|open| open.writing(&work));
        match (&done, self.refusal.take()) {
            (Ok((_, wrote)), _) => database.took_write(*wrote),
            // Others have succeeded meanwhile: this write alone waits for something, perhaps for
            // another upload of the same file.
            (Err(_), Some(Refusal::NoAnswer)) if database.writes.have_succeeded_since(began) => {}
            (Err(error), Some(refusal)) => database.refused(refusal, error),
            (Err(_), None) => {}
        }
        done.map(|(done, _)| done)
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
        let is_for_clients = matches!(self.patience, Patience::Request | Patience::Probe);
        if is_for_clients && self.database.has_no_tables.load(Ordering::Relaxed) {
            return Err(Error::Unavailable("the database has no tables yet".into()));
        }
        let mut retries = RetryState::new(may_reconnect);
        loop {
            self.leave_old_primary();
            let open = match &mut self.open {
                Some(open) => open,
                None => self.open.insert(self.database.connect()?),
            };
            let (began, timeline) = (Instant::now(), open.timeline);
            let (result, overdue) = open.run(work, self.patience, self.asked);
            let is_unreplicated = open.is_unreplicated();
            let is_done = result.is_ok() && overdue == Overdue::No && !is_unreplicated;
            if is_done && began.elapsed() > SILENCE && timeline != NO_TIMELINE {
                self.database.look_at_hosts();
            }
            let is_old_primary = self.leave_old_primary();
            if overdue != Overdue::No {
                // A cancellation that comes late must not meet the next statement.
                self.open = None;
            }
            let error = match result {
                _ if is_unreplicated => return Err(self.unreplicated()),
                // What an old primary has told or taken counts for nothing.
                Ok(_) if is_old_primary => return Err(old_primary()),
                Ok(result) => {
                    self.database.answered();
                    return Ok(result);
                }
                Err(_) if overdue != Overdue::No => return Err(self.gave_up(overdue)),
                Err(error) => error,
            };
            let remedy = self.prepare_for_another_try(&error);
            if !retries.may_retry(remedy) {
                return Err(self.failure(&error));
            }
            log::debug!("a statement is tried again: {}", describe(&error));
        }
    }

    /// The error for work that isn't tried again, and notes what it says of other writes.
    fn failure(&mut self, error: &postgres::Error) -> Error {
        self.refusal = Refusal::of(error);
        let error = Error::of_statement(error);
        if self.refusal == Some(Refusal::ReadOnly) {
            self.database.refused(Refusal::ReadOnly, &error);
        }
        error
    }

    /// Closes the connection if it leads to an old primary. Returns whether it did.
    fn leave_old_primary(&mut self) -> bool {
        let is_old = |open: &OpenConnection| self.database.has_newer_primary(open.timeline);
        let is_old = self.open.as_ref().is_some_and(is_old);
        if is_old {
            log::debug!("a connection to an old primary is closed");
            self.open = None;
        }
        is_old
    }

    /// The remedy for an error. The connection is closed, or its prepared statements are
    /// forgotten, if the remedy needs it.
    fn prepare_for_another_try(&mut self, error: &postgres::Error) -> Remedy {
        let Some(open) = &mut self.open else {
            return Remedy::None;
        };
        let remedy = open.remedy(error);
        if pooling::is_of_statements(error) {
            // If it was a pooler that has lost statements, the next connection shows it.
            self.open = None;
            self.database.examine_again();
        } else if remedy == Remedy::Reconnect || open.has_ended() {
            self.open = None;
            self.database.lost_connection();
        } else if remedy == Remedy::PrepareAgain {
            open.forget_statements();
        }
        remedy
    }

    /// The error for work that may be missing on a standby, and must not be acknowledged. A client
    /// that repeats its request stores the same again.
    fn unreplicated(&mut self) -> Error {
        let error = Error::Unavailable(
            "the wait for a synchronous standby was cancelled, so that what was stored may not \
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

    /// Whether the database takes no writes: it is a standby, or set to be read-only. Unlike a
    /// write, the question leaves no error in the database's log.
    fn is_read_only(&mut self) -> Result<bool, Error> {
        self.repeatable(|open| {
            let row = open.query_one(SELECT_READ_ONLY, &[])?;
            row.try_get(0)
        })
    }

    /// Asks whether the database is read-only, and notes it if it is.
    ///
    /// # Errors
    /// Those of the database.
    pub fn look_whether_read_only(&mut self) -> Result<bool, Error> {
        let is_read_only = self.is_read_only()?;
        if is_read_only {
            // A later connection may lead to another database, or not be read-only.
            self.open = None;
            self.database.refused(Refusal::ReadOnly, &read_only());
        }
        Ok(is_read_only)
    }

    /// Tries whether a database that took no writes takes them now, by a commit without effect,
    /// which waits for the disk and the standby as any other does.
    ///
    /// # Errors
    /// Those of the database.
    pub fn try_to_write(&mut self) -> Result<(), Error> {
        let database = self.database.clone();
        let Some(trial) = database.writes.begin_probe(Instant::now()) else {
            return Err(Error::Unavailable("the database takes no writes".into()));
        };
        let patience = std::mem::replace(&mut self.patience, Patience::Probe);
        let tried = self.try_work(&trial, |open| {
            open.query_one(COMMIT_NOTHING, &[])?;
            Ok(((), Wrote::Little))
        });
        self.patience = patience;
        tried
    }
}

fn old_primary() -> Error {
    Error::Unavailable("the database was an old primary".into())
}

fn read_only() -> Error {
    Error::Unavailable("the database is read-only".into())
}
