//! `serve`: the rooms put together, from the listening socket to the timer thread.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config::Config;
use crate::db::{self, Database};
use crate::http::{BodyRule, Incoming, Method, Response};
use crate::keys::Keys;
use crate::maintenance;
use crate::routes::{self, Context};
use crate::server::{self, Listener, Service, Stop};
use crate::versions;

/// How often a database that was away at the start is looked for.
const SCHEMA_RETRY: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or SIGINT, and finishes what is in flight then.
///
/// # Errors
/// A sentence for the operator.
pub fn serve(config: Config) -> Result<(), String> {
    let config = Arc::new(config);
    let stop = Stop::default();
    stop_on_signals(&stop).map_err(|error| format!("cannot wait for signals: {error}"))?;
    let listener = Listener::bind(&config)?;
    let keys = Keys::load_or_create(&config.keys)?;
    for line in keys.public_keys() {
        log::info!("{line}");
    }
    let database = Database::new(config.database.clone());
    let ready = prepare_database(&database, &config)?;
    let app = App::new(&config, keys, &database).map_err(cannot_start)?;

    let timer = {
        let (config, database, stop) = (config.clone(), database.clone(), stop.clone());
        let cache = app.versions.clone();
        let run = move || {
            let prepared = ready || prepare_when_back(&database, &config, &stop);
            if prepared {
                maintenance::run(&config, database.connection(), cache, &stop);
            }
            prepared
        };
        thread::Builder::new()
            .name("timer".into())
            .spawn(run)
            .map_err(cannot_start)?
    };
    log::info!(
        "listening on {}, with {} workers",
        listener.address(),
        config.workers
    );
    let outcome = server::run(listener, config.workers, Arc::new(app), &stop);
    stop.request();
    let prepared = timer
        .join()
        .map_err(|_| "the timer thread panicked".to_string())?;
    outcome.map_err(|error| format!("no more requests can be accepted: {error}"))?;
    log::info!("stopped");
    match prepared {
        true => Ok(()),
        false => Err("the database can't be used as it is; see above".into()),
    }
}

/// What the server's workers run: the table of endpoints, each worker with its connection.
struct App {
    config: Arc<Config>,
    database: Arc<Database>,
    probe: db::Probe,
    keys: Keys,
    versions: Arc<versions::Cache>,
}

impl App {
    fn new(config: &Arc<Config>, keys: Keys, database: &Arc<Database>) -> std::io::Result<App> {
        Ok(App {
            config: config.clone(),
            keys,
            versions: Arc::default(),
            database: database.clone(),
            probe: db::Probe::start(database)?,
        })
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

    fn answer(&self, incoming: Incoming, db: &mut db::Connection) -> Response {
        let mut context = Context {
            config: &self.config,
            db,
            probe: &self.probe,
            keys: &self.keys,
            versions: &self.versions,
        };
        routes::answer(incoming, &mut context)
    }
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
        Err(error @ db::Error::Layout(_)) => {
            Err(explain(&error, config) + "; run session-file-server init-db")
        }
        Err(error) => Err(explain(&error, config)),
    }
}

/// Waits for a database that was away at the start. False if the server must end: stopped,
/// or unable to use what it found.
fn prepare_when_back(database: &Arc<Database>, config: &Config, stop: &Stop) -> bool {
    while !stop.wait(SCHEMA_RETRY) {
        match prepare_database(database, config) {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => {
                log::error!("{error}");
                stop.request();
                return false;
            }
        }
    }
    true
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

fn stop_on_signals(stop: &Stop) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let stop = stop.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                let name = if signal == SIGTERM {
                    "SIGTERM"
                } else {
                    "SIGINT"
                };
                log::info!("{name}: finishing what is in flight");
                stop.request();
            }
        })?;
    Ok(())
}

fn cannot_start(error: std::io::Error) -> String {
    format!("cannot start a thread: {error}")
}
