//! The service that the workers run, and the timer thread beside them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::explain::explain;
use super::metrics::Sources;
use crate::api::context::{Context, Wrapping};
use crate::api::routes::{self, Asked};
use crate::cache::files::{self, FileCache};
use crate::cache::releases::ReleaseCache;
use crate::config::Config;
use crate::db::{self, Database};
use crate::exposition::Exposition;
use crate::handover;
use crate::protocol::http::{BodyRule, Method, Response};
use crate::protocol::keys::ServerKeys;
use crate::server::{Outcome, Service, Turn, Work};
use crate::statistics::Statistics;
use crate::stop::Stop;
use crate::{buffer, systemd, upkeep};

/// The connections of a server beside those of its workers: the timer's, the probe's, one for a
/// moment that shows whether a pooler shares sessions, and one that looks at each of several hosts.
const OTHER_CONNECTIONS: usize = 4;
/// The pause between two attempts to prepare a database that was away at the start.
const SCHEMA_RETRY: Duration = Duration::from_secs(1);
/// The same for a database that is empty and read-only.
const READ_ONLY_RETRY: Duration = Duration::from_secs(5);
/// How long the start waits for a database that accepts connections but doesn't answer.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the start checks, while it waits for the database, whether the server shall stop.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The pause before the timer's work is restarted after a panic.
const TIMER_RESTART: Duration = Duration::from_secs(10);

/// The service that the workers run: the endpoints, and the resources that their handlers use.
pub struct App {
    config: Arc<Config>,
    database: Arc<Database>,
    probe: db::Probe,
    keys: ServerKeys,
    cache: Arc<FileCache>,
    versions: Arc<ReleaseCache>,
    statistics: Arc<Statistics>,
    /// When the server was started, or last restarted itself.
    started: SystemTime,
    /// How often the server has restarted itself.
    restarts: u32,
}

impl App {
    /// Loads the keys and starts the timer thread, which prepares the database. `address` is where
    /// the server listens, as `status` names it.
    pub fn start(
        config: &Arc<Config>,
        address: String,
        stop: &Stop,
        unusable: &Arc<AtomicBool>,
    ) -> Result<App, String> {
        let keys = config.keys.load_or_create()?;
        for line in keys.public_keys() {
            log::info!("{line}");
        }
        log::info!(
            "clients name a file of this server as http://HOST/file/ID{}",
            keys.url_ending()
        );
        let database = Database::with_replicas(config.database.clone(), config.replicas.as_ref());
        database.start_deadlines().map_err(cannot_start)?;
        database.watch_hosts().map_err(cannot_start)?;
        database.watch_replicas().map_err(cannot_start)?;
        let app = App {
            config: config.clone(),
            keys,
            cache: Arc::new(FileCache::new(config.files.cache_size, files::FRESH_FOR)),
            statistics: Arc::new(Statistics::new(routes::endpoint_names())),
            started: SystemTime::now(),
            restarts: handover::restarts(),
            versions: Arc::default(),
            probe: db::Probe::start(&database).map_err(cannot_start)?,
            database,
        };
        app.start_timer(address, stop, unusable)?;
        Ok(app)
    }

    /// Starts the timer thread, and waits until it has prepared the database. If the database is
    /// away or doesn't answer, the thread goes on trying, and the server answers 503 meanwhile.
    /// If the database proves `unusable` later, the thread stops the server.
    ///
    /// The thread is never joined, because a database that hangs must not keep the server from
    /// stopping. Its work may be interrupted anywhere.
    fn start_timer(
        &self,
        address: String,
        stop: &Stop,
        unusable: &Arc<AtomicBool>,
    ) -> Result<(), String> {
        let (cache, statistics) = (self.versions.clone(), self.statistics.clone());
        let files = self.cache.clone();
        let (config, database) = (self.config.clone(), self.database.clone());
        let (stopped, stop, unusable) = (stop.clone(), stop.clone(), unusable.clone());
        let (tell, told) = mpsc::sync_channel(0);
        let run = move || {
            let prepared = prepare_database(&database, &config, &statistics);
            // The receiver is gone if this took longer than `START_TIMEOUT`.
            let is_late = tell.send(prepared.clone()).is_err();
            let is_ready = match prepared {
                Ok(is_ready) => is_ready,
                Err(error) if is_late => return give_up_database(&error, &stop, &unusable),
                Err(_) => return,
            };
            if is_ready || prepare_when_back(&database, &config, &statistics, &stop, &unusable) {
                run_timer(
                    &config,
                    &address,
                    &database,
                    &cache,
                    &files,
                    &statistics,
                    &stop,
                );
            }
        };
        let builder = thread::Builder::new().name("timer".into());
        builder.spawn(run).map_err(cannot_start)?;
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline && !stopped.is_requested() {
            match told.recv_timeout(STOP_POLL_INTERVAL) {
                Ok(prepared) => return prepared.map(drop),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        if !stopped.is_requested() {
            log::warn!("the database says nothing; requests are answered 503 until it does");
        }
        Ok(())
    }
}

impl Service for App {
    type Worker = db::Connection;
    type Waiting = Waiting;

    fn worker(&self) -> db::Connection {
        self.database.request_connection()
    }

    fn body_rule(&self, method: Method, target: &str) -> BodyRule {
        routes::body_rule(method, target, &self.config)
    }

    fn refusal(&self, method: Method, target: &str) -> Option<Response> {
        routes::refusal(method, target)
    }

    fn refused(&self, method: Method, target: &str, status: u16) {
        let (endpoint, way) = routes::endpoint_and_way(method, target);
        self.statistics.requests.refused(endpoint, way, status);
    }

    fn expose(&self, exposition: &mut Exposition) {
        let sources = Sources {
            config: &self.config,
            statistics: &self.statistics,
            cache: &self.cache,
            database: &self.database,
            started: self.started,
            restarts: self.restarts,
        };
        sources.expose(exposition);
    }

    fn alive(&self) {
        systemd::alive(&self.statistics.counts().describe());
        // Done here rather than in the timer thread, which waits while the database hangs.
        buffer::release_unused();
    }

    fn descriptors(&self) -> usize {
        descriptors(&self.config)
    }

    fn held_bytes(&self) -> usize {
        self.cache.bytes()
    }

    fn is_urgent(&self, method: Method, target: &str) -> bool {
        routes::is_about_health(method, target)
    }

    fn answer(&self, work: Work<Waiting>, turn: Turn<db::Connection>) -> Outcome<App> {
        let bytes_up = match &work {
            Work::New(incoming) => incoming.body.len(),
            Work::Waiting(waiting) => waiting.bytes_up,
        };
        let mut count = self.statistics.requests.begin(turn.came);
        count.bytes_up = bytes_up;
        turn.worker.asked(turn.came);
        let mut context = Context {
            config: &self.config,
            db: turn.worker,
            may_write: turn.may_write,
            room: turn.room,
            wrapping: Wrapping::None,
            probe: &self.probe,
            keys: &self.keys,
            cache: &self.cache,
            versions: &self.versions,
            statistics: &self.statistics,
            count,
        };
        let asked = match work {
            Work::New(incoming) => routes::open(incoming, &mut context),
            Work::Waiting(waiting) => Ok(waiting.asked),
        };
        let answered = asked.map_or_else(Ok, |asked| routes::answer(asked, &mut context));
        let mut count = context.count;
        match answered {
            Ok(response) => {
                count.answered(response.status, response.body.as_slice().len());
                Ok(response)
            }
            Err(asked) => {
                count.forget();
                Err(Waiting { asked, bytes_up })
            }
        }
    }
}

/// The descriptors of a server's database connections. With replicas each worker has a second one,
/// and each thread that watches them its own.
pub fn descriptors(config: &Config) -> usize {
    let replicas = config.replicas.as_ref();
    let to_replicas = replicas.map_or(0, |all| config.workers + all.watching_threads());
    db::CONNECTION_DESCRIPTORS * (config.workers + OTHER_CONNECTIONS + to_replicas)
}

/// A request that waits for its turn to write.
pub struct Waiting {
    asked: Asked,
    /// The bytes that were received.
    bytes_up: usize,
}

/// Runs the timer's work until the server stops. After a panic the work is restarted.
fn run_timer(
    config: &Arc<Config>,
    address: &str,
    database: &Arc<Database>,
    cache: &Arc<ReleaseCache>,
    files: &Arc<FileCache>,
    statistics: &Statistics,
    stop: &Stop,
) {
    let run = || {
        let (db, cache) = (database.connection(), cache.clone());
        upkeep::timer::run(config, address, db, cache, files.clone(), statistics, stop);
    };
    // The restart is safe, because it makes a new connection and new timers.
    while catch_unwind(AssertUnwindSafe(run)).is_err() {
        log::error!("the timer thread panicked; it starts again");
        stop.wait(TIMER_RESTART);
    }
}

/// Prepares the database's tables. False if the database is away and may come back.
fn prepare_database(
    database: &Arc<Database>,
    config: &Config,
    statistics: &Statistics,
) -> Result<bool, String> {
    let mut db = database.connection();
    // Said before anything else is: a standby is served, too.
    let looked = db.look_whether_read_only();
    let prepared = looked.and_then(|_| db.prepare_schema()).and_then(|state| {
        // The limit must hold before the files are counted for the first time.
        if config.files.max_total_size.is_some() {
            statistics.stored_bytes.estimated(db.files_disk_size()?);
        }
        Ok(state)
    });
    match prepared {
        Ok(db::schema::SchemaState::Current) => {
            warn_of_schema(&mut db);
            Ok(true)
        }
        Ok(db::schema::SchemaState::Created) => {
            let name = config.database.database_name();
            log::info!("the database {name} was empty; its tables were created");
            Ok(true)
        }
        Err(db::Error::Unavailable(_)) => Ok(false),
        Err(error) => Err(explain(&error, config)),
    }
}

fn warn_of_schema(db: &mut db::Connection) {
    match db.schema_warnings() {
        Ok(warnings) => warnings.iter().for_each(|warning| log::warn!("{warning}")),
        Err(error) => log::debug!("the schema was not looked at: {error}"),
    }
}

/// Waits for a database that was away at the start. Returns whether it is prepared. If it proves
/// `unusable`, the server is stopped.
fn prepare_when_back(
    database: &Arc<Database>,
    config: &Config,
    statistics: &Statistics,
    stop: &Stop,
    unusable: &AtomicBool,
) -> bool {
    loop {
        let pause = if database.takes_writes() {
            SCHEMA_RETRY
        } else {
            READ_ONLY_RETRY
        };
        if stop.wait(pause) {
            return false;
        }
        match prepare_database(database, config, statistics) {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => give_up_database(&error, stop, unusable),
        }
    }
}

/// Stops the server, because its database is unusable.
fn give_up_database(error: &str, stop: &Stop, unusable: &AtomicBool) {
    log::error!("{error}");
    unusable.store(true, Ordering::SeqCst);
    stop.request();
}

fn cannot_start(error: std::io::Error) -> String {
    format!("cannot start a thread: {error}")
}
