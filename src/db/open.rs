//! An open connection to the database, with its prepared statements.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postgres::error::DbError;
use postgres::types::ToSql;
use postgres::{
    CancelToken, Client, CopyInWriter, IsolationLevel, NoTls, Row, RowIter, Statement, Transaction,
};

use super::deadline::{Deadlines, Overdue, Patience, Watched};
use super::error::{Error, Remedy};
use super::lineage::Lineage;
use super::pooling::Pooling;
use super::session::SessionSettings;
use super::settings::{Begin, NO_TIMELINE, Settings};

/// How long a connection may take to prove, after an unknown error, that it still works.
const VALIDITY_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes a transaction's commit wait as the operator has set it for the user, the database or the
/// cluster. Another client of a pooler may have set something else in the session.
const COMMIT_AS_SET: &str = "SET LOCAL synchronous_commit TO DEFAULT";

/// Whether a notice says that the wait for a synchronous standby was cancelled: the transaction is
/// committed here, but may be missing on the standby. Such a notice is recognised by its place in
/// PostgreSQL's source, because its text depends on the language, and its code (01000) is that of
/// any warning.
fn is_cancelled_wait(notice: &DbError) -> bool {
    let file = notice.file().unwrap_or_default();
    file.rsplit('/').next() == Some("syncrep.c")
}

/// Asks the database to cancel what a connection is doing. This has no answer, but TLS begins with
/// one, for which the driver waits for ever if the database is frozen. So the request goes without
/// TLS, unless TLS is required.
fn cancel(token: &CancelToken, settings: &Settings) {
    let is_sent = if settings.requires_tls() {
        let connector = settings.connector();
        connector.is_ok_and(|connector| token.cancel_query(connector).is_ok())
    } else {
        token.cancel_query(NoTls).is_ok()
    };
    if !is_sent {
        log::debug!("a statement could not be cancelled");
    }
}

/// An established connection, with its prepared statements.
pub(super) struct OpenConnection {
    pub(super) client: Client,
    statements: HashMap<&'static str, Statement>,
    pooling: Pooling,
    /// Whether the work at hand writes what will be acknowledged.
    is_writing: bool,
    /// Whether the driver no longer assigns the database's answers to the right statements.
    is_out_of_sync: bool,
    /// Whether the last work may be missing on a synchronous standby.
    is_unreplicated: Arc<AtomicBool>,
    /// The state by which statements that take too long are ended.
    pub(super) watched: Arc<Watched>,
    /// The highest timeline that was seen when the connection was made.
    pub(super) timeline: i64,
    /// Whether it was examined beside a second one.
    pub(super) is_examined: bool,
}

impl OpenConnection {
    /// Connects, with these session settings unless a pooler shares the session. With
    /// `with_second`, another connection is opened for a moment to find that out. The connection is
    /// watched by `deadlines`, with that `patience` while the database greets it.
    pub(super) fn connect(
        settings: &Settings,
        session: SessionSettings,
        with_second: bool,
        deadlines: &Arc<Deadlines>,
        lineage: &Arc<Lineage>,
        patience: Patience,
    ) -> Result<OpenConnection, Error> {
        let is_unreplicated = Arc::<AtomicBool>::default();
        let noted = is_unreplicated.clone();
        let watched = deadlines.watch(patience);
        let begin = Begin {
            session,
            with_second: Cell::new(with_second),
            watched: watched.clone(),
            deadlines: deadlines.clone(),
            notice: Arc::new(move |notice| {
                if is_cancelled_wait(&notice) {
                    noted.store(true, Ordering::SeqCst);
                }
            }),
            timeline: Cell::new(NO_TIMELINE),
        };
        let connected = settings.connect_with(&begin, lineage);
        let (client, pooling) = connected.map_err(|error| match watched.end() {
            Overdue::Closed => Error::Unavailable("it takes connections and says nothing".into()),
            _ => error,
        })?;
        let (token, settings) = (client.cancel_token(), settings.clone());
        watched.ready(move || cancel(&token, &settings));
        Ok(OpenConnection {
            client,
            statements: HashMap::new(),
            pooling,
            is_writing: false,
            is_out_of_sync: false,
            is_unreplicated,
            watched,
            timeline: begin.timeline.get(),
            is_examined: begin.with_second.get(),
        })
    }

    /// Whether the last work may be missing on a synchronous standby.
    pub(super) fn is_unreplicated(&self) -> bool {
        self.is_unreplicated.load(Ordering::SeqCst)
    }

    /// Whether a pooler shares the session between transactions.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.pooling, Pooling::Shared)
    }

    /// Runs `work`, which writes what will be acknowledged: its commits wait as the operator has set
    /// it, whatever others have set in a shared session.
    pub(super) fn writing<T>(
        &mut self,
        work: impl Fn(&mut OpenConnection) -> Result<T, postgres::Error>,
    ) -> Result<T, postgres::Error> {
        self.is_writing = true;
        let done = work(self);
        self.is_writing = false;
        done
    }

    /// Whether the work at hand needs [`COMMIT_AS_SET`].
    fn must_set_commit(&self) -> bool {
        self.is_writing && self.is_shared()
    }

    /// Runs one statement in a transaction with [`COMMIT_AS_SET`].
    fn commit_as_set<T>(
        &mut self,
        run: impl FnOnce(&mut Transaction) -> Result<T, postgres::Error>,
    ) -> Result<T, postgres::Error> {
        let mut transaction = self.client.transaction()?;
        transaction.batch_execute(COMMIT_AS_SET)?;
        let done = run(&mut transaction)?;
        transaction.commit()?;
        Ok(done)
    }

    /// Whether the connection can't be used any more.
    pub(super) fn has_ended(&self) -> bool {
        self.is_out_of_sync || self.client.is_closed()
    }

    /// Forgets the prepared statements.
    pub(super) fn forget_statements(&mut self) {
        self.statements.clear();
    }

    /// Runs `work` once, while its deadlines are watched.
    pub(super) fn run<T>(
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
    pub(super) fn remedy(&mut self, error: &postgres::Error) -> Remedy {
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
        if self.must_set_commit() {
            return self.commit_as_set(|transaction| transaction.query_opt(&statement, params));
        }
        self.client.query_opt(&statement, params)
    }

    pub(super) fn query_one(
        &mut self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, postgres::Error> {
        let statement = self.statement(sql)?;
        if self.must_set_commit() {
            return self.commit_as_set(|transaction| transaction.query_one(&statement, params));
        }
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
        if self.must_set_commit() {
            return self.commit_as_set(|transaction| transaction.execute(&statement, params));
        }
        self.client.execute(&statement, params)
    }

    /// Runs a `COPY … FROM STDIN`, whose input comes from `write`, which tells of its progress.
    /// Errors of writing appear when the copy ends. `before` runs first in the same transaction,
    /// each of whose statements sees what others have committed before it, and returns what is to
    /// be written; if that is nothing, nothing is copied. Returns what was written.
    ///
    /// This cures two faults of the driver. Without an explicit transaction it reports success when
    /// the database has read the last row, without waiting for the commit (`copy_in.rs` in
    /// tokio-postgres, `poll_finish`). And if the database refuses the `COPY` before it takes any
    /// input, the driver sends two requests but expects one answer, so that the next statement
    /// would get the other answer (rust-postgres pull request 1337); the connection is then
    /// abandoned.
    pub(super) fn copy_in<T>(
        &mut self,
        before: impl FnOnce(&mut Transaction, &Watched) -> Result<Option<T>, postgres::Error>,
        sql: &'static str,
        write: impl FnOnce(&mut CopyInWriter, &Watched, &T),
    ) -> Result<Option<T>, postgres::Error> {
        let statement = self.statement(sql)?;
        let watched = self.watched.clone();
        let must_set_commit = self.must_set_commit();
        let begin = self.client.build_transaction();
        let mut transaction = begin
            .isolation_level(IsolationLevel::ReadCommitted)
            .start()?;
        if must_set_commit {
            transaction.batch_execute(COMMIT_AS_SET)?;
        }
        watched.progress();
        let Some(content) = before(&mut transaction, &watched)? else {
            transaction.rollback()?;
            return Ok(None);
        };
        let mut writer = transaction
            .copy_in(&statement)
            .inspect_err(|_| self.is_out_of_sync = true)?;
        write(&mut writer, &watched, &content);
        writer.finish()?;
        watched.progress();
        transaction.commit()?;
        Ok(Some(content))
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
