//! The timer thread: drops removed files from the cache, deletes expired files, refreshes Session's
//! versions, counts the stored files and writes the server's row of statistics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::expiry::{delete_expired, delete_old_version_checks};
use super::failures::log_failure;
use super::other_servers::OtherServers;
use super::refresher::Refresher;
use super::removals::{RemovalWatch, finish_removals};
use crate::cache::files::FileCache;
use crate::cache::releases::ReleaseCache;
use crate::config::Config;
use crate::db::{Connection, ServerRow};
use crate::lock::lock;
use crate::quantity;
use crate::statistics::Statistics;
use crate::stop::Stop;

/// How often the thread checks whether some work is due.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often the number of files and their bytes are logged.
const TOTALS_INTERVAL: Duration = Duration::from_secs(3600);
/// How often the bytes of all files are counted if there is a `files.max_total_size`.
const COUNT_INTERVAL: Duration = Duration::from_secs(60);
/// How often the server's counters are written to the table `servers`.
const SERVER_ROW_INTERVAL: Duration = Duration::from_secs(60);
/// How often removals are finished: files that were stored while being blocked are deleted, and so
/// are old entries of the list of removed files.
const REMOVALS_INTERVAL: Duration = Duration::from_secs(60);
/// How often it is read when GitHub was last checked, which another server may have done.
const LAST_CHECKS_INTERVAL: Duration = Duration::from_secs(60);
/// How often it is tried whether a database takes writes again that took none. Until then nothing
/// is written here.
const TRIAL_INTERVAL: Duration = Duration::from_secs(5);
/// How often old version checks are deleted.
const CHECKS_INTERVAL: Duration = Duration::from_secs(3600);

/// Runs until `stop` is requested. Work that fails is logged, and tried again when it is due
/// next. `address` is where the server listens.
pub fn run(
    config: &Arc<Config>,
    address: &str,
    mut db: Connection,
    cache: Arc<ReleaseCache>,
    files: Arc<FileCache>,
    statistics: &Statistics,
    stop: &Stop,
) {
    let mut watch = RemovalWatch::new(files);
    let mut removals = Timer::every(REMOVALS_INTERVAL);
    let mut count = Timer::every(COUNT_INTERVAL);
    let mut expiry = Timer::every(config.files.cleanup_interval);
    let mut totals = Timer::every(TOTALS_INTERVAL);
    let mut row = ServerRow::new(server_name(address));
    let mut note = Timer::every(SERVER_ROW_INTERVAL);
    let mut checks = Timer::every(CHECKS_INTERVAL);
    let mut last_checks = Timer::every(LAST_CHECKS_INTERVAL);
    let mut others = OtherServers::new(&statistics.stored_bytes);
    let mut trial = Timer::every(TRIAL_INTERVAL);
    let mut refresher = Refresher::new(config, cache);
    loop {
        watch.tick(&mut db);
        let may_write = db.takes_writes() || trial.is_due() && db.try_to_write().is_ok();
        // On a full disk it is deleting that makes space.
        if may_write || db.is_full() {
            if expiry.is_due() {
                delete_expired(&mut db, statistics, &mut watch, stop);
            }
            tidy(&mut db, &mut removals, &mut checks);
        }
        if may_write && config.files.max_total_size.is_some() {
            add_up(&mut db, &mut others, &mut count, statistics);
        }
        // The work above may have waited for a lock.
        watch.tick(&mut db);
        if totals.is_due() {
            log_totals(&mut db, statistics);
        }
        if may_write && note.is_due() {
            note_server(&mut db, &mut row, statistics);
        }
        if may_write && config.versions.enabled && refresher.tick(&mut db) || last_checks.is_due() {
            note_last_checks(&mut db, config, statistics);
        }
        if stop.wait(POLL_INTERVAL.min(config.files.cleanup_interval)) {
            return;
        }
    }
}

/// Deletes what removals and version checks have left.
fn tidy(db: &mut Connection, removals: &mut Timer, checks: &mut Timer) {
    if removals.is_due() {
        finish_removals(db);
    }
    if checks.is_due() {
        delete_old_version_checks(db);
    }
}

/// The name that distinguishes this server from others on the same database: the machine's name
/// and the address where the server listens, which isn't `listen` of the configuration if systemd
/// has passed the socket in. The machine's name comes from uname(2), because our systemd unit hides
/// /proc/sys.
fn server_name(address: &str) -> String {
    let system = rustix::system::uname();
    format!("{} {}", system.nodename().to_string_lossy(), address)
}

/// A timer that is due at once, and again after each interval.
struct Timer {
    interval: Duration,
    due: Instant,
}

impl Timer {
    fn every(interval: Duration) -> Timer {
        Timer {
            interval,
            due: Instant::now(),
        }
    }

    /// Whether the timer is due. If it is, the next interval starts.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = now >= self.due;
        if is_due {
            self.due = now + self.interval;
        }
        is_due
    }
}

fn note_server(db: &mut Connection, row: &mut ServerRow, statistics: &Statistics) {
    if let Err(error) = db.note_server(row, &statistics.counts()) {
        log_failure("note what the server has done", &error);
    }
}

fn log_totals(db: &mut Connection, statistics: &Statistics) {
    match db.totals() {
        Ok(totals) => {
            statistics.counted(totals.files, totals.bytes);
            log::info!(
                "{} stored, {} in all",
                quantity::count(totals.files, "file"),
                quantity::bytes(totals.bytes)
            );
        }
        Err(error) => log_failure("count the files", &error),
    }
}

/// Keeps up with the bytes of all files.
fn add_up(
    db: &mut Connection,
    others: &mut OtherServers,
    count: &mut Timer,
    statistics: &Statistics,
) {
    others.tick(db, &statistics.stored_bytes);
    if count.is_due() {
        count_bytes(db, statistics);
    }
}

fn count_bytes(db: &mut Connection, statistics: &Statistics) {
    statistics.stored_bytes.count_begins();
    match db.totals() {
        Ok(totals) => {
            statistics.stored_bytes.counted(totals.bytes);
            statistics.counted(totals.files, totals.bytes);
        }
        Err(error) => log_failure("count the bytes of the files", &error),
    }
}

/// Reads when each project was last checked, for the metrics.
fn note_last_checks(db: &mut Connection, config: &Config, statistics: &Statistics) {
    if !config.versions.enabled {
        return;
    }
    match db.last_checks(&config.versions.projects.all()) {
        Ok(checks) => *lock(&statistics.last_checks) = checks,
        Err(error) => log::debug!("it wasn't read when GitHub was last checked: {error}"),
    }
}
