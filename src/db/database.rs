//! What all connections to the database share: its settings, and what is known of its state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::deadline::{Deadlines, Patience};
use super::error::Error;
use super::examination::{Examination, Seen, Turn};
use super::lineage::Lineage;
use super::open::OpenConnection;
use super::outage::Outage;
use super::replicas::Replicas;
use super::session::{self, SessionSettings};
use super::settings::Settings;
use super::writes::{Refusal, Writes, Wrote};

/// The database, as all connections of the program share it.
#[derive(Debug)]
pub struct Database {
    pub(super) settings: Settings,
    /// The further settings of each session.
    session: SessionSettings,
    examination: Examination,
    outage: Outage,
    pub(super) writes: Writes,
    pub(super) deadlines: Arc<Deadlines>,
    /// Whether this is the database of a server, and not of a command.
    is_server: AtomicBool,
    pub(super) lineage: Arc<Lineage>,
    /// The replicas of which files are read, if there are any.
    pub(super) replicas: Option<Arc<Replicas>>,
    /// Whether the tables are missing, and can't be made because the database is read-only.
    pub(super) has_no_tables: AtomicBool,
}

impl Database {
    /// The database of a server. It isn't connected yet.
    pub fn new(settings: Settings) -> Arc<Database> {
        Database::with_session(settings, session::SERVER)
    }

    /// The database of a server, and those replicas of it of which files are read.
    pub fn with_replicas(settings: Settings, replicas: Option<&Settings>) -> Arc<Database> {
        let database = Database::unshared(settings, session::SERVER);
        let deadlines = &database.deadlines;
        let replicas =
            replicas.map(|settings| Replicas::new(settings, session::SERVER, deadlines.clone()));
        Arc::new(Database {
            replicas: replicas.map(Arc::new),
            ..database
        })
    }

    /// A database whose sessions have these further settings.
    pub(super) fn with_session(settings: Settings, session: SessionSettings) -> Arc<Database> {
        Arc::new(Database::unshared(settings, session))
    }

    fn unshared(settings: Settings, session: SessionSettings) -> Database {
        Database {
            settings,
            session,
            examination: Examination::default(),
            outage: Outage::new(),
            writes: Writes::default(),
            deadlines: Arc::default(),
            is_server: AtomicBool::new(false),
            lineage: Arc::default(),
            replicas: None,
            has_no_tables: AtomicBool::new(false),
        }
    }

    /// Starts the thread that ends statements without an answer, those in the background too. In a
    /// command, which doesn't call this, the latter may take as long as the database allows.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn start_deadlines(&self) -> std::io::Result<()> {
        self.is_server.store(true, Ordering::Relaxed);
        self.deadlines.start()
    }

    /// The patience with work in the background.
    pub(super) fn background_patience(&self) -> Patience {
        if self.is_server.load(Ordering::Relaxed) {
            Patience::Background
        } else {
            Patience::Unlimited
        }
    }

    /// The replicas of which files are read, if there are any.
    pub fn replicas(&self) -> Option<&Replicas> {
        self.replicas.as_deref()
    }

    /// Whether the database takes writes, as far as the latest ones have shown.
    pub fn takes_writes(&self) -> bool {
        self.writes.work(Instant::now())
    }

    /// Has the next connection examined together with a second one. A pooler may have come between,
    /// or be set otherwise.
    pub(super) fn examine_again(&self) {
        self.examination.again();
    }

    /// Notes that a connection that worked has ended.
    pub(super) fn lost_connection(&self) {
        self.examination.lost_one();
    }

    /// Notes that a connection has failed.
    pub(super) fn lost(&self, error: &Error) {
        if self.outage.began() {
            log::warn!(
                "the database can't be reached; requests are answered 503 until it can: {error}"
            );
        }
    }

    /// Notes that a statement has succeeded.
    pub(super) fn answered(&self) {
        if let Some(replicas) = &self.replicas {
            replicas.primary_answered();
        }
    }

    /// Whether the database lacks space, as far as the latest writes have shown. Deleting may help
    /// then.
    pub(super) fn is_full(&self) -> bool {
        self.writes.is_full()
    }

    /// Notes that work has succeeded, and what it has written.
    pub(super) fn took_write(&self, wrote: Wrote) {
        if self.writes.succeeded(wrote, Instant::now()) {
            log::info!("the database takes writes again");
        }
    }

    /// Notes that a write was refused.
    pub(super) fn refused(&self, refusal: Refusal, error: &Error) {
        if !self.writes.refused(refusal, Instant::now()) {
            return;
        }
        if refusal == Refusal::ReadOnly {
            log::warn!(
                "the database is read-only, as a standby is; files are handed out, and uploads \
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
    pub(super) fn connect(&self) -> Result<OpenConnection, Error> {
        if !self.outage.may_connect() {
            return Err(Error::Unavailable("the database is away".into()));
        }
        // A command must not wait for ever for a frozen database either.
        if let Err(error) = self.deadlines.start() {
            log::debug!("no thread was left to end statements by: {error}");
        }
        let turn = self.examination.begin();
        if turn == Turn::Fails {
            let error = Error::Unavailable("the database is away".into());
            if self.outage.is_on() {
                // This was the attempt for which all others wait.
                self.lost(&error);
            }
            return Err(error);
        }
        let opened = self.open(turn == Turn::Examined);
        match &opened {
            Ok(_) => {
                if self.outage.ended() {
                    log::info!("the database is back");
                }
            }
            Err(error) => {
                self.examine_again();
                self.lost(error);
            }
        }
        if turn == Turn::Examined {
            self.examination.end(match &opened {
                Ok(open) if open.is_examined => Seen::OwnSession,
                Ok(_) => Seen::Nothing,
                Err(_) => Seen::Failed,
            });
        }
        opened
    }

    fn open(&self, is_examined: bool) -> Result<OpenConnection, Error> {
        OpenConnection::connect(
            &self.settings,
            self.session,
            is_examined,
            &self.deadlines,
            &self.lineage,
            Patience::Request,
        )
    }
}
