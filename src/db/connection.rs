//! Connections that open themselves when first needed, are replaced when they break, and try
//! again what the database asks to be tried again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use postgres::error::DbError;
use postgres::types::ToSql;
use postgres::{Client, CopyInWriter, Row, RowIter, Statement};

use super::error::{Error, Remedy, describe};
use super::settings::Settings;

/// While the database is away, one attempt to reach it is made in this time; everybody
/// else is told at once that it is away.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How often work is tried again that the database has rolled back because of another
/// transaction. The pauses between take four seconds on average, and nine at most.
const MAX_CONFLICTS: u32 = 40;
/// The pause before the first of these tries is random, and this long at most.
const FIRST_PAUSE: Duration = Duration::from_millis(4);
/// The limit of the pause doubles with each try, up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(256);
/// How often a row is tried again that an unfinished index refuses. Its bytes are sent each time,
/// after a pause of the longest kind: a second in all.
const MAX_REFUSALS: u32 = 8;
/// How long a connection may take to show, after an error that is not known, that it still
/// works.
const VALIDITY_TIMEOUT: Duration = Duration::from_secs(1);
/// Settings of each connection of a server, beside [`Settings::connect`]'s: no statement may
/// take longer than this, and none may wait for somebody's lock for long. A table that was
/// empty when a statement was planned must not be read whole each time when it has grown
/// (until autovacuum has looked at it, 1,200 files of 1 KB were found in a second among
/// 20,000, instead of 14,000); and where there is no other way than to read one whole,
/// PostgreSQL then believes that compiling the statement pays.
pub(super) const SERVER_SESSION_SETTINGS: &str = "SET statement_timeout = '30s'; SET lock_timeout = '5s'; \
     SET enable_seqscan = off; SET jit = off";

/// What all connections of the program share.
#[derive(Debug)]
pub struct Database {
    settings: Settings,
    /// What each connection begins with.
    session: &'static str,
    outage: Outage,
}

impl Database {
    /// Nothing is connected yet.
    pub fn new(settings: Settings) -> Arc<Database> {
        Database::with_session(settings, SERVER_SESSION_SETTINGS)
    }

    /// The same, with connections that begin with the statements `session`.
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
}

/// One thread's connection.
pub struct Connection {
    database: Arc<Database>,
    open: Option<OpenConnection>,
}

impl Connection {
    /// How the database is reached.
    pub(super) fn settings(&self) -> &Settings {
        &self.database.settings
    }

    /// Runs `work`, and again where [`Remedy`] says so. `work` must come to the same when its
    /// statements are committed twice: it is repeated on a new connection if this one was left
    /// alone before and has ended, whether or not the database has done the work.
    pub(super) fn repeatable<T>(
        &mut self,
        work: impl Fn(&mut OpenConnection) -> Result<T, postgres::Error>,
    ) -> Result<T, Error> {
        self.run(&work, self.open.is_some())
    }

    /// Runs `work`, and again only where the database has said that nothing of it was
    /// committed.
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
        let mut tries = RetryState {
            may_reconnect,
            may_prepare: true,
            conflicts: 0,
            refusals: 0,
        };
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
            if remedy == Remedy::Reconnect || open.is_spoilt || open.client.is_closed() {
                self.open = None;
            } else if remedy == Remedy::PrepareAgain {
                open.statements.clear();
            }
            if !tries.may_try(remedy) {
                return Err(Error::of_statement(&error));
            }
            log::debug!("a statement is tried again: {}", describe(&error));
        }
    }
}

/// Whether a notice says that a wait for a synchronous stand-by was cancelled: the transaction is
/// committed here, and the stand-by may not have it. The text is in the operator's language, and
/// the code (01000) is that of any warning; the place in PostgreSQL's source is what it is.
fn is_cancelled_wait(notice: &DbError) -> bool {
    let file = notice.file().unwrap_or_default();
    file.rsplit('/').next() == Some("syncrep.c")
}

/// What was stored isn't safe where the operator wants it to be, so it must not be acknowledged.
/// Whoever repeats it stores the same once more.
fn unreplicated() -> Error {
    let text = "the wait for a synchronous stand-by was cancelled, so that what was stored may not \
                be there";
    log::warn!("answered 503: {text}");
    Error::Unavailable(text.into())
}

/// How often one piece of work may still be tried again, by reason.
struct RetryState {
    /// Once on a new connection.
    may_reconnect: bool,
    /// Once with newly prepared statements.
    may_prepare: bool,
    /// How often it was rolled back because of another transaction.
    conflicts: u32,
    /// How often an unfinished index has refused it.
    refusals: u32,
}

impl RetryState {
    /// Whether the work may be tried again for that reason. Sleeps if others need time.
    fn may_try(&mut self, remedy: Remedy) -> bool {
        match remedy {
            Remedy::Reconnect => std::mem::take(&mut self.may_reconnect),
            Remedy::PrepareAgain => std::mem::take(&mut self.may_prepare),
            Remedy::TryAgain if self.conflicts < MAX_CONFLICTS => {
                std::thread::sleep(conflict_pause(self.conflicts));
                self.conflicts += 1;
                true
            }
            Remedy::TryLater if self.refusals < MAX_REFUSALS => {
                std::thread::sleep(conflict_pause(MAX_CONFLICTS));
                self.refusals += 1;
                true
            }
            Remedy::TryAgain | Remedy::TryLater | Remedy::None => false,
        }
    }
}

/// A random time: transactions that met once would meet again after equal pauses.
fn conflict_pause(conflicts: u32) -> Duration {
    let limit = FIRST_PAUSE.saturating_mul(1 << conflicts.min(16));
    let mut random = [0; 2];
    // Without random numbers the pause is none.
    let _ = getrandom::getrandom(&mut random);
    limit.min(LONGEST_PAUSE) * u32::from(u16::from_le_bytes(random)) / (1 << 16)
}

impl Database {
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

/// An established connection with its prepared statements.
pub(super) struct OpenConnection {
    pub(super) client: Client,
    statements: HashMap<&'static str, Statement>,
    /// Whether the driver and the database no longer agree on which answer is whose.
    is_spoilt: bool,
    /// Whether the last work may be missing on a stand-by that it should have waited for.
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
            is_spoilt: false,
            is_unreplicated,
        })
    }

    /// What can be done about an error of a statement on this connection.
    fn remedy(&mut self, error: &postgres::Error) -> Remedy {
        match Remedy::of(error) {
            // Poolers have errors of their own, and some close the connection after any of them.
            Remedy::None
                if !self.is_spoilt
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

    /// The rows one by one, so that no more of them are in memory than the system has received.
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

    /// Runs a `COPY … FROM STDIN`, whose input is what `write` writes; what goes wrong with that
    /// is told by the end. The statement `before`, if there is one, runs first and in the same
    /// transaction, with an id as its parameter.
    ///
    /// In a transaction that is committed by a statement of its own: left to itself the driver
    /// says that all went well when the database has read the last row, and doesn't wait to
    /// hear that it is committed (`copy_in.rs` in tokio-postgres, `poll_finish`). And of a `COPY`
    /// that the database refuses before it takes any input, the driver makes two requests that
    /// are answered, and expects one answer (rust-postgres pull request 1337): somebody else's
    /// statement would get the other.
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
            .inspect_err(|_| self.is_spoilt = true)?;
        write(&mut writer);
        writer.finish()?;
        transaction.commit()
    }

    /// Prepares a statement when it is first used on this connection.
    fn statement(&mut self, sql: &'static str) -> Result<Statement, postgres::Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql)?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }
}

/// Whether the database is away, and who may look whether it is back.
#[derive(Debug)]
struct Outage {
    epoch: Instant,
    /// Milliseconds after `epoch` at which the next attempt may be made; 0 while the
    /// database is up.
    next_attempt: AtomicU64,
}

impl Outage {
    fn new() -> Outage {
        Outage {
            epoch: Instant::now(),
            next_attempt: AtomicU64::new(0),
        }
    }

    /// Always while the database is up; else for one caller in each [`RETRY_PAUSE`].
    fn may_connect(&self) -> bool {
        let now = self.now();
        let next = self.next_attempt.load(Ordering::Relaxed);
        next == 0
            || next <= now
                && self
                    .next_attempt
                    .compare_exchange(next, pause_after(now), Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
    }

    /// Notes a failed attempt; true for the first one of this outage.
    fn began(&self) -> bool {
        self.next_attempt
            .swap(pause_after(self.now()), Ordering::Relaxed)
            == 0
    }

    /// Notes a successful attempt; true if there was an outage.
    fn ended(&self) -> bool {
        self.next_attempt.swap(0, Ordering::Relaxed) != 0
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}

fn pause_after(now: u64) -> u64 {
    now + RETRY_PAUSE.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn during_an_outage_one_caller_at_a_time_may_try() {
        let outage = Outage::new();
        assert!(outage.may_connect() && outage.may_connect());
        assert!(outage.began());
        assert!(!outage.began(), "the outage is reported once");
        assert!(!outage.may_connect(), "an attempt failed just now");
        std::thread::sleep(RETRY_PAUSE);
        assert!(outage.may_connect());
        assert!(!outage.may_connect(), "somebody else is trying");
        assert!(outage.ended());
        assert!(outage.may_connect() && outage.may_connect());
        assert!(!outage.ended());
    }

    #[test]
    fn pauses_between_conflicts_grow_to_their_limit_and_no_further() {
        for conflicts in [0, 1, 5, 6, 20, MAX_CONFLICTS, u32::MAX] {
            let limit = FIRST_PAUSE.saturating_mul(1 << conflicts.min(16));
            for _ in 0..100 {
                assert!(conflict_pause(conflicts) <= limit.min(LONGEST_PAUSE));
            }
        }
        assert!((0..100).any(|_| conflict_pause(20) > LONGEST_PAUSE / 2));
    }

    #[test]
    fn each_reason_to_try_again_has_its_bound() {
        let mut tries = RetryState {
            may_reconnect: true,
            may_prepare: true,
            conflicts: MAX_CONFLICTS - 1,
            refusals: MAX_REFUSALS - 1,
        };
        for remedy in [
            Remedy::Reconnect,
            Remedy::PrepareAgain,
            Remedy::TryAgain,
            Remedy::TryLater,
        ] {
            assert!(
                tries.may_try(remedy) && !tries.may_try(remedy),
                "{remedy:?}"
            );
        }
        assert!(!tries.may_try(Remedy::None));
    }
}
