//! Connections that open themselves when first needed and are replaced when they break.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use postgres::types::ToSql;
use postgres::{Client, CopyInWriter, NoTls, Row, RowIter, Statement};

use super::error::{Error, ends_connection};

/// How long an attempt to connect may take, unless the operator's URL says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A database on another machine that acknowledges nothing for so long is given up, unless the
/// operator's URL says otherwise: without that the system tries for a quarter of an hour,
const SILENCE: Duration = Duration::from_secs(20);
/// and of an idle connection it looks after so long whether the other end is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// While the database is away, one attempt to reach it is made in this time; everybody
/// else is told at once that it is away.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// What each connection of a server begins with: no statement may take longer than this,
/// and none may wait for somebody's lock for long. A table that was empty when a statement was
/// planned must not be read whole each time when it has grown (until autovacuum has looked at
/// it, 1,200 files of 1 KB were found in a second among 20,000, instead of 14,000); and where
/// there is no other way than to read one whole, PostgreSQL then believes that compiling the
/// statement pays.
pub(super) const SERVING: &str = "SET statement_timeout = '30s'; SET lock_timeout = '5s'; \
     SET enable_seqscan = off; SET jit = off";

/// How to reach the database: `database.url`, understood.
#[derive(Clone, Debug)]
pub struct Settings(postgres::Config);

impl Settings {
    /// Reads key=value pairs or a `postgresql://` URL.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it: it may hold a password.
    pub fn parse(url: &str) -> Result<Settings, String> {
        let mut config: postgres::Config = url.parse().map_err(|error: postgres::Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            cause.unwrap_or_else(|| error.to_string())
        })?;
        if config.get_application_name().is_none() {
            config.application_name("session-file-server");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE);
        }
        if config.get_keepalives_idle() == postgres::Config::new().get_keepalives_idle() {
            config.keepalives_idle(KEEPALIVE_IDLE);
        }
        Ok(Settings(config))
    }

    /// A connection that nobody looks after.
    pub(super) fn connect(&self) -> Result<Client, postgres::Error> {
        self.0.connect(NoTls)
    }

    /// The name of the database, for messages.
    pub fn database_name(&self) -> &str {
        self.0.get_dbname().unwrap_or("(the user's own)")
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::parse(crate::config::default_database_url()).expect("the default is valid")
    }
}

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
        Database::with_session(settings, SERVING)
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
    open: Option<Open>,
}

impl Connection {
    /// Runs `work`, and once more on a new connection if this one broke meanwhile: `work`
    /// must come to the same when its statements are committed twice.
    pub(super) fn repeatable<T>(
        &mut self,
        work: impl Fn(&mut Open) -> Result<T, postgres::Error>,
    ) -> Result<T, Error> {
        let was_open = self.open.is_some();
        match self.once(&work) {
            Err(Error::Unavailable(_)) if was_open && self.open.is_none() => self.once(&work),
            result => result,
        }
    }

    /// Runs `work` on a connection that was seen to work just before: what can't be
    /// repeated should not find out first that the database was restarted since.
    pub(super) fn unrepeatable<T>(
        &mut self,
        work: impl Fn(&mut Open) -> Result<T, postgres::Error>,
    ) -> Result<T, Error> {
        self.repeatable(|open| open.client.batch_execute(""))?;
        self.once(work)
    }

    /// Runs `work` once.
    pub(super) fn once<T>(
        &mut self,
        work: impl Fn(&mut Open) -> Result<T, postgres::Error>,
    ) -> Result<T, Error> {
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(self.database.connect()?),
        };
        let result = work(open);
        if let Err(error) = &result {
            if open.client.is_closed() || open.is_spoilt || ends_connection(error) {
                self.open = None;
            }
        }
        result.map_err(|error| Error::of(&error))
    }
}

impl Database {
    fn connect(&self) -> Result<Open, Error> {
        if !self.outage.may_connect() {
            return Err(Error::Unavailable("the database is away".into()));
        }
        match Open::connect(&self.settings, self.session) {
            Ok(open) => {
                if self.outage.ended() {
                    log::info!("the database is back");
                }
                Ok(open)
            }
            Err(error) => {
                let error = match Error::of(&error) {
                    // We ourselves can't do what the settings or the server ask for.
                    Error::Failed(text) if error.as_db_error().is_none() => Error::Refused(text),
                    other => other,
                };
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
pub(super) struct Open {
    pub(super) client: Client,
    statements: HashMap<&'static str, Statement>,
    /// Whether the driver and the database no longer agree on which answer is whose.
    is_spoilt: bool,
}

impl Open {
    fn connect(settings: &Settings, session: &str) -> Result<Open, postgres::Error> {
        let mut client = settings.connect()?;
        client.batch_execute(session)?;
        Ok(Open {
            client,
            statements: HashMap::new(),
            is_spoilt: false,
        })
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
    fn a_broken_url_is_explained_without_repeating_its_password() {
        let error = Settings::parse("password=secret port=x").expect_err("no port");
        assert!(
            error.contains("port") && !error.contains("secret"),
            "{error}"
        );
        assert!(!format!("{:?}", Settings::parse("password=secret")).contains("secret"));
    }
}
