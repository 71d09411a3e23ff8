//! `serve`: the rooms put together, from the listening socket to the timer thread.

use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::db::{self, Database};
use crate::file_cache::{self, FileCache};
use crate::http::{BodyRule, Incoming, Method, Response};
use crate::keys::Keys;
use crate::maintenance;
use crate::routes::{self, Context};
use crate::server::{self, Ended, Listener, Service, Stop};
use crate::signals::Signals;
use crate::statistics::Statistics;
use crate::{systemd, versions};

/// How often a database that was away at the start is looked for.
const SCHEMA_RETRY: Duration = Duration::from_secs(1);

/// How long the start waits for a database that accepts a connection and says nothing.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked meanwhile whether the server shall stop.
const START_TICK: Duration = Duration::from_millis(100);

/// How often the server sees whether requests come in, unless systemd wants to know it
/// more often.
const SELF_CHECK: Duration = Duration::from_secs(5);

/// The pause after a panic in the timer thread.
const TIMER_RESTART: Duration = Duration::from_secs(10);

/// Serves until a signal wants it to stop ([`crate::signals`]), and finishes what is in flight then.
///
/// # Errors
/// A sentence for the operator.
pub fn serve(config: Config) -> Result<(), String> {
    let config = Arc::new(config);
    let workers = server::affordable_workers(config.workers)?;
    let no_signals = |error| format!("cannot wait for signals: {error}");
    let signals = Signals::catch().map_err(no_signals)?;
    let listener = Listener::open(&config)?;
    let stop = Stop::default();
    let signalled = signals.watch(&stop).map_err(no_signals)?;
    let unusable = Arc::new(AtomicBool::new(false));
    let app = App::start(&config, &stop, &unusable).inspect_err(|_| listener.withdraw())?;
    log::info!(
        "listening on {}, with {workers} workers",
        listener.address(),
    );
    systemd::ready();
    let pause = systemd::watchdog().map_or(SELF_CHECK, |patience| SELF_CHECK.min(patience / 3));
    let outcome = server::run(listener, workers, pause, Arc::new(app), &stop);
    let ended = outcome.map_err(|error| format!("no more requests can be accepted: {error}"))?;
    match ended {
        // Whoever wants it to stop doesn't want it to start.
        Ended::ToStartAnew(socket) if !signalled.load(Ordering::SeqCst) => {
            return Err(start_anew(socket));
        }
        _ => {}
    }
    log::info!("stopped");
    match unusable.load(Ordering::SeqCst) {
        false => Ok(()),
        true => Err("the database can't be used as it is; see above".into()),
    }
}

/// Puts the program in its own place, with the listening socket passed on as systemd would;
/// the reason for which it failed, if it did.
fn start_anew(socket: RawFd) -> String {
    let failed = std::env::current_exe().map(|program| {
        Command::new(program)
            .args(std::env::args_os().skip(1))
            .env("LISTEN_FDS", "1")
            .env("LISTEN_PID", std::process::id().to_string())
            .env("LISTEN_FDS_FIRST_FD", socket.to_string())
            .exec()
    });
    let (Ok(error) | Err(error)) = failed;
    format!("the server can't start anew: {error}")
}

/// The timer's work must go on for as long as the server runs: what panics starts again.
fn run_timer(
    config: &Arc<Config>,
    database: &Arc<Database>,
    cache: &Arc<versions::Cache>,
    counts: &Statistics,
    stop: &Stop,
) {
    let run = || maintenance::run(config, database.connection(), cache.clone(), counts, stop);
    // A panic leaves nothing behind: connection and timers are made anew.
    while catch_unwind(AssertUnwindSafe(run)).is_err() {
        log::error!("the timer thread panicked; it starts again");
        stop.wait(TIMER_RESTART);
    }
}

/// What the server's workers run: the table of endpoints, each worker with its connection.
struct App {
    config: Arc<Config>,
    database: Arc<Database>,
    probe: db::Probe,
    keys: Keys,
    cache: FileCache,
    versions: Arc<versions::Cache>,
    statistics: Arc<Statistics>,
}

impl App {
    /// With the timer thread running, and the database ready if that is there.
    fn start(config: &Arc<Config>, stop: &Stop, unusable: &Arc<AtomicBool>) -> Result<App, String> {
        let keys = Keys::load_or_create(&config.keys)?;
        for line in keys.public_keys() {
            log::info!("{line}");
        }
        log::info!(
            "clients name a file of this server as http://HOST/file/ID{}",
            keys.url_ending()
        );
        let database = Database::new(config.database.clone());
        let app = App {
            config: config.clone(),
            keys,
            cache: FileCache::new(config.files.cache_size, file_cache::FRESH),
            statistics: Arc::default(),
            versions: Arc::default(),
            probe: db::Probe::start(&database).map_err(cannot_start)?,
            database,
        };
        app.start_timer(stop, unusable)?;
        Ok(app)
    }

    /// Starts the timer thread, and waits until it has made the database ready. One that is
    /// away or silent is left to the thread: the server answers 503 until it comes. If it turns
    /// out to be `unusable` then, the server is stopped.
    ///
    /// Nobody waits for the thread to end: a database that hangs must not keep the server from
    /// stopping, and what the thread does can end anywhere.
    fn start_timer(&self, stop: &Stop, unusable: &Arc<AtomicBool>) -> Result<(), String> {
        let (cache, counts) = (self.versions.clone(), self.statistics.clone());
        let (config, database) = (self.config.clone(), self.database.clone());
        let (stopped, stop, unusable) = (stop.clone(), stop.clone(), unusable.clone());
        let (tell, told) = mpsc::sync_channel(0);
        let run = move || {
            let prepared = prepare_database(&database, &config);
            // Whoever waited has gone on if this took too long.
            let is_late = tell.send(prepared.clone()).is_err();
            let is_ready = match prepared {
                Ok(is_ready) => is_ready,
                Err(error) if is_late => return give_up_database(&error, &stop, &unusable),
                Err(_) => return,
            };
            if is_ready || prepare_when_back(&database, &config, &stop, &unusable) {
                run_timer(&config, &database, &cache, &counts, &stop);
            }
        };
        let builder = thread::Builder::new().name("timer".into());
        builder.spawn(run).map_err(cannot_start)?;
        let deadline = Instant::now() + START_PATIENCE;
        while Instant::now() < deadline && !stopped.is_requested() {
            match told.recv_timeout(START_TICK) {
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

    fn worker(&self) -> db::Connection {
        self.database.connection()
    }

    fn body_rule(&self, method: Method, target: &str) -> BodyRule {
        routes::body_rule(method, target, &self.config)
    }

    fn refusal(&self, method: Method, target: &str) -> Option<Response> {
        routes::refusal(method, target)
    }

    fn alive(&self) {
        systemd::alive(&self.statistics.counts().describe());
    }

    fn answer(&self, incoming: Incoming, db: &mut db::Connection) -> Response {
        let bytes_up = incoming.body.len();
        let mut context = Context {
            config: &self.config,
            db,
            probe: &self.probe,
            keys: &self.keys,
            cache: &self.cache,
            versions: &self.versions,
            statistics: &self.statistics,
        };
        let response = routes::answer(incoming, &mut context);
        let bytes_down = response.body.as_slice().len();
        self.statistics.answered(bytes_up, bytes_down);
        response
    }
}

/// Makes the database ready for a command that works with it, as `serve` does.
///
/// # Errors
/// A sentence for the operator.
pub fn prepare_for_work(db: &mut db::Connection, config: &Config) -> Result<(), String> {
    let prepared = db.prepare_schema();
    prepared.map(drop).map_err(|error| explain(&error, config))
}

/// Whether the database has what is needed; false if it is away and may come back.
fn prepare_database(database: &Arc<Database>, config: &Config) -> Result<bool, String> {
    match database.connection().prepare_schema() {
        Ok(db::schema::Found::Current) => Ok(true),
        Ok(db::schema::Found::Empty) => {
            let name = config.database.database_name();
            log::info!("the database {name} was empty; its tables were created");
            Ok(true)
        }
        Err(db::Error::Unavailable(_)) => Ok(false),
        Err(error) => Err(explain(&error, config)),
    }
}

/// Waits for a database that was away at the start, and says whether the timer thread can
/// go on. If the database turns out to be `unusable`, the server is stopped.
fn prepare_when_back(
    database: &Arc<Database>,
    config: &Config,
    stop: &Stop,
    unusable: &AtomicBool,
) -> bool {
    while !stop.wait(SCHEMA_RETRY) {
        match prepare_database(database, config) {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => give_up_database(&error, stop, unusable),
        }
    }
    false
}

/// Ends the server, because its database is of no use.
fn give_up_database(error: &str, stop: &Stop, unusable: &AtomicBool) {
    log::error!("{error}");
    unusable.store(true, Ordering::SeqCst);
    stop.request();
}

/// What the operator can do about an error of the database.
pub fn explain(error: &db::Error, config: &Config) -> String {
    let name = config.database.database_name();
    match error {
        db::Error::Refused(text) => format!(
            "the database {name} can't be used: {text}; check database.url, and that the \
             database and its user exist (as the user postgres: createuser USER; createdb -O \
             USER {name})"
        ),
        db::Error::Forbidden(text) => format!(
            "the tables of the database {name} are another user's: {text}; let this server's \
             user act for theirs (as the user postgres: psql -c 'GRANT \"OWNER\" TO \"USER\"')"
        ),
        db::Error::Layout(text) => {
            format!("the database {name} can't be used as it is: {text}")
        }
        db::Error::Unavailable(text) => format!(
            "the database {name} can't be reached: {text}; check that PostgreSQL runs, and \
             database.url"
        ),
        db::Error::Failed(text) => format!("the database {name} failed: {text}"),
    }
}

fn cannot_start(error: std::io::Error) -> String {
    format!("cannot start a thread: {error}")
}
