//! The replicas of the database, of which files are read: what all threads know of them.
//!
//! Only a replica that was found to follow the primary closely is asked
//! ([`watch`](super::watch)), so that one that is away costs requests nothing. One
//! that fails while it is asked is left out for a while, and the primary answers instead.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::ids::{LatestIds, Route};
use super::lag::{Facts, Primary};
use super::standing::{News, Standing};
use crate::db::deadline::{Deadlines, Patience};
use crate::db::error::Error;
use crate::db::lineage::Lineage;
use crate::db::open::OpenConnection;
use crate::db::session::SessionSettings;
use crate::db::settings::Settings;
use crate::lock::lock;
use crate::protocol::file_id::FileId;

/// The end of a try to read a file from a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The replica had the file.
    Found,
    /// It didn't, so that the primary was asked.
    Absent,
    /// The statement was cancelled there in favour of replication.
    Conflict,
    /// The replica failed.
    Failed,
    /// No replica was in use.
    NoneUsed,
    /// It wasn't tried, because the file was written or removed lately.
    NotTried,
}

/// All outcomes, with their names for the metrics.
const OUTCOMES: [(Outcome, &str); 6] = [
    (Outcome::Found, "found"),
    (Outcome::Absent, "absent"),
    (Outcome::Conflict, "conflict"),
    (Outcome::Failed, "failed"),
    (Outcome::NoneUsed, "none_used"),
    (Outcome::NotTried, "not_tried"),
];

/// The replicas, as all connections of the program share them.
#[derive(Debug)]
pub struct Replicas {
    all: Vec<Replica>,
    /// The further settings of each session.
    session: SessionSettings,
    deadlines: Arc<Deadlines>,
    /// One host alone is never refused by this.
    lineage: Arc<Lineage>,
    primary: Mutex<Primary>,
    latest_ids: Mutex<LatestIds>,
    /// How often each of [`OUTCOMES`] came about.
    outcomes: [AtomicU64; OUTCOMES.len()],
    /// How many threads read from replicas.
    readers: AtomicUsize,
}

/// A replica.
#[derive(Debug)]
struct Replica {
    /// Its host and port, for the log.
    name: String,
    settings: Settings,
    standing: Mutex<Standing>,
    /// Whether two connections were seen to have a session each since it last failed.
    is_examined: AtomicBool,
}

impl Replicas {
    /// The hosts of these settings. No connection is made yet.
    pub(in crate::db) fn new(
        settings: &Settings,
        session: SessionSettings,
        deadlines: Arc<Deadlines>,
    ) -> Replicas {
        let replica = |(name, settings)| Replica {
            name,
            settings,
            standing: Mutex::new(Standing::new()),
            is_examined: AtomicBool::new(false),
        };
        Replicas {
            all: settings.each_host().into_iter().map(replica).collect(),
            session,
            deadlines,
            lineage: Arc::default(),
            primary: Mutex::default(),
            latest_ids: Mutex::default(),
            outcomes: Default::default(),
            readers: AtomicUsize::new(0),
        }
    }

    /// Whether files are read from one of them.
    pub fn are_used(&self) -> bool {
        self.states().any(|(_, is_used)| is_used)
    }

    /// The name of each replica, and whether files are read from it.
    pub fn states(&self) -> impl Iterator<Item = (&str, bool)> {
        let now = Instant::now();
        let state = move |replica: &Replica| lock(&replica.standing).is_used(now);
        self.all.iter().map(move |one| (&*one.name, state(one)))
    }

    /// The reads so far by their outcome.
    pub fn reads(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = OUTCOMES.iter().zip(&self.outcomes);
        counts.map(|((_, name), count)| (*name, count.load(Ordering::Relaxed)))
    }

    pub(super) fn count(&self, outcome: Outcome) {
        let index = OUTCOMES.iter().position(|(known, _)| *known == outcome);
        if let Some(index) = index {
            self.outcomes[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many there are.
    pub(super) fn number(&self) -> usize {
        self.all.len()
    }

    /// The number of the replica that a new thread asks first, so that the threads spread over
    /// them.
    pub(super) fn first_of_next_reader(&self) -> usize {
        self.readers.fetch_add(1, Ordering::Relaxed) % self.all.len().max(1)
    }

    /// The first replica in use, from the number `first` on.
    pub(super) fn choose(&self, first: usize) -> Option<usize> {
        let now = Instant::now();
        let mut numbers = (first..self.all.len()).chain(0..first);
        numbers.find(|number| lock(&self.all[*number].standing).is_used(now))
    }

    /// Opens a connection to a replica.
    pub(super) fn connect(&self, number: usize) -> Result<OpenConnection, Error> {
        let replica = &self.all[number];
        let with_second = !replica.is_examined.swap(true, Ordering::SeqCst);
        let connected = OpenConnection::connect(
            &replica.settings,
            self.session,
            with_second,
            &self.deadlines,
            &self.lineage,
            Patience::Replica,
        );
        let must_repeat = match &connected {
            Ok(open) => with_second && !open.is_examined,
            Err(_) => true,
        };
        if must_repeat {
            replica.is_examined.store(false, Ordering::SeqCst);
        }
        connected
    }

    /// Whether a replica may be asked how it is.
    pub(super) fn is_due(&self, number: usize) -> bool {
        lock(&self.all[number].standing).is_due(Instant::now())
    }

    /// Notes what a replica has told of itself.
    pub(super) fn told(&self, number: usize, facts: &Facts) {
        let now = Instant::now();
        let replica = &self.all[number];
        // Nothing may be told of the primary before the verdict counts.
        let primary = lock(&self.primary);
        let verdict = primary.judge(facts, now);
        let news = lock(&replica.standing).judged(verdict, now);
        drop(primary);
        replica.report(news);
    }

    /// Notes that a replica has failed.
    pub(super) fn failed(&self, number: usize, error: &Error) {
        let replica = &self.all[number];
        // A pooler may have come between, or be set otherwise.
        replica.is_examined.store(false, Ordering::SeqCst);
        let news = lock(&replica.standing).failed(&error.to_string(), Instant::now());
        replica.report(news);
    }

    /// Notes what the primary has told when it was asked at the time `asked`, and which files were
    /// removed there lately, `None` if they are too many.
    pub(super) fn primary_told(&self, facts: Facts, removed: Option<Vec<FileId>>, asked: Instant) {
        let mut primary = lock(&self.primary);
        if !primary.told(facts, asked) {
            // What was removed since the primary was last asked may be missing in the list.
            for replica in &self.all {
                lock(&replica.standing).must_catch_up();
            }
        }
        drop(primary);
        lock(&self.latest_ids).removed(removed);
    }

    /// Notes that the primary has answered a statement.
    pub(in crate::db) fn primary_answered(&self) {
        lock(&self.primary).answered(Instant::now());
    }

    /// Notes that this server writes a file.
    pub(super) fn written(&self, id: &FileId) {
        lock(&self.latest_ids).written(id, Instant::now());
    }

    /// Where to read a file.
    pub(super) fn route(&self, id: &FileId) -> Route {
        lock(&self.latest_ids).route(id, Instant::now())
    }
}

impl Replica {
    fn report(&self, news: Option<News>) {
        let name = &self.name;
        match news {
            None => {}
            Some(News::Used) => log::info!("files are read from the replica on {name}"),
            Some(News::Back) => log::info!("the replica on {name} is used again"),
            Some(News::IsPrimary) => {
                log::info!("the database on {name} is the primary; as a replica it is left out");
            }
            Some(News::LeftOut(reason)) => log::warn!(
                "the replica on {name} is left out, and the primary is asked for its share: \
                 {reason}"
            ),
        }
    }
}
