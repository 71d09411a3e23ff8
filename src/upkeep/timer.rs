//! The timer thread: has expired files deleted and Session's versions refreshed, counts and
//! notes what there is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::expiry::{delete_expired, delete_old_version_checks};
use super::failures::log_failure;
use super::refresher::Refresher;
use crate::cache::releases::ReleaseCache;
use crate::config::Config;
use crate::db::{Connection, ServerRow};
use crate::quantity;
use crate::statistics::{Statistics, StoredBytes};
use crate::stop::Stop;

/// How often it is looked whether something is due.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often the number of files and their bytes are logged.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(3600);
/// How often their bytes are counted if `files.max_total_size` bounds them.
const COUNT_INTERVAL: Duration = Duration::from_secs(60);
/// How often it is noted what this server has done.
const SERVER_ROW_INTERVAL: Duration = Duration::from_secs(60);
/// How often old version checks are deleted.
const CHECKS_INTERVAL: Duration = Duration::from_secs(3600);

/// Runs until `stop` is requested. Errors of the database are logged, and the work is
/// tried again when it is due next.
pub fn run(
    config: &Arc<Config>,
    mut db: Connection,
    cache: Arc<ReleaseCache>,
    counts: &Statistics,
    stop: &Stop,
) {
    let mut bound = Timer::every(COUNT_INTERVAL);
    let mut expiry = Timer::every(config.files.cleanup_interval);
    let mut statistics = Timer::every(STATISTICS_INTERVAL);
    let mut row = ServerRow::new(server_name(config));
    let mut note = Timer::every(SERVER_ROW_INTERVAL);
    let mut checks = Timer::every(CHECKS_INTERVAL);
    let mut refresher = Refresher::new(config, cache);
    loop {
        if expiry.is_due() {
            delete_expired(&mut db, &counts.stored_bytes, stop);
        }
        if config.files.max_total_size.is_some() && bound.is_due() {
            count_bytes(&mut db, &counts.stored_bytes);
        }
        if statistics.is_due() {
            log_statistics(&mut db);
        }
        if note.is_due() {
            if let Err(error) = db.note_server(&mut row, &counts.counts()) {
                log_failure("note what the server has done", &error);
            }
        }
        if checks.is_due() {
            delete_old_version_checks(&mut db);
        }
        if config.versions.enabled {
            refresher.tick(&mut db);
        }
        if stop.wait(POLL_INTERVAL.min(config.files.cleanup_interval)) {
            return;
        }
    }
}

/// What tells this server from others on the same database: its machine, and where it listens.
/// The kernel is asked for the machine's name, because our own unit hides /proc/sys.
fn server_name(config: &Config) -> String {
    let system = rustix::system::uname();
    format!("{} {}", system.nodename().to_string_lossy(), config.listen)
}

/// Something that is due at once, and then again after each interval.
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

    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = now >= self.due;
        if is_due {
            self.due = now + self.interval;
        }
        is_due
    }
}

fn log_statistics(db: &mut Connection) {
    match db.totals() {
        Ok(totals) => log::info!(
            "{} stored, {} in all",
            quantity::count(totals.files, "file"),
            quantity::bytes(totals.bytes)
        ),
        Err(error) => log_failure("count the files", &error),
    }
}

fn count_bytes(db: &mut Connection, stored: &StoredBytes) {
    stored.count_begins();
    match db.totals() {
        Ok(totals) => stored.counted(totals.bytes),
        Err(error) => log_failure("count the bytes of the files", &error),
    }
}
