//! The timer thread: deletes expired files, keeps Session's versions fresh, logs
//! statistics.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::db::{self, Claim, Connection, ServerRow};
use crate::github::{self, Answer, Failure, GitHub};
use crate::github_list::shown;
use crate::quantity;
use crate::releases;
use crate::server::Stop;
use crate::statistics::{Statistics, StoredBytes};
use crate::versions;

/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_secs(1);
/// How often the number of files and their bytes are logged.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(3600);
/// How often their bytes are counted if `files.max_total_size` bounds them.
const BOUND_INTERVAL: Duration = Duration::from_secs(60);
/// How often it is noted what this server has done.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);
/// How often old version checks are deleted.
const CHECKS_INTERVAL: Duration = Duration::from_secs(3600);
/// A question without an answer after this time is given up; its thread may go on for as
/// long as GitHub sends a byte in each second.
const GIVE_UP: Duration = github::TIMEOUT.saturating_add(Duration::from_secs(1));
/// Threads that may go on like that; with so many, nothing more is asked.
const MAX_ABANDONED: usize = 4;
/// The pause after a failure for which GitHub names none; it doubles with each further
/// one, up to `versions.refresh_interval`.
const FIRST_RETRY: Duration = Duration::from_secs(60);
/// The longest that GitHub is obeyed: after a day without an answer nothing is served.
const LONGEST_RETRY: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs until `stop` is requested. Errors of the database are logged, and the work is
/// tried again when it is due next.
pub fn run(
    config: &Arc<Config>,
    mut db: Connection,
    cache: Arc<versions::Cache>,
    counts: &Statistics,
    stop: &Stop,
) {
    let mut bound = Timer::every(BOUND_INTERVAL);
    let mut expiry = Timer::every(config.files.cleanup_interval);
    let mut statistics = Timer::every(STATISTICS_INTERVAL);
    let mut row = ServerRow::new(server_name(config));
    let mut note = Timer::every(NOTE_INTERVAL);
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
        if stop.wait(TICK.min(config.files.cleanup_interval)) {
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

fn delete_expired(db: &mut Connection, stored: &StoredBytes, stop: &Stop) {
    let mut deleted = 0;
    let outcome = db.delete_expired(
        || stop.is_requested(),
        |files, bytes| {
            deleted += files;
            stored.deleted(bytes);
        },
    );
    if deleted > 0 {
        log::debug!("{deleted} expired files deleted");
    }
    if let Err(error) = outcome {
        log_failure("delete expired files", &error);
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

fn delete_old_version_checks(db: &mut Connection) {
    match db.delete_old_version_checks() {
        Ok(0) => {}
        Ok(deleted) => log::debug!("{deleted} old version checks deleted"),
        Err(error) => log_failure("delete old version checks", &error),
    }
}

/// Asks GitHub, one project at a time. The asking has a thread of its own while it lasts,
/// so that a slow GitHub delays nothing else; the database is the timer thread's.
struct Refresher {
    config: Arc<Config>,
    cache: Arc<versions::Cache>,
    /// `None` if it must not be asked.
    github: Option<Arc<GitHub>>,
    projects: Vec<String>,
    /// Whether the database knows our projects.
    registered: bool,
    asking: Option<Asking>,
    /// Threads whose answers nobody waits for any more.
    abandoned: Vec<JoinHandle<Result<Answer, Failure>>>,
    /// How often each project has failed since it last succeeded.
    failures: HashMap<String, u32>,
}

struct Asking {
    claim: Claim,
    since: Instant,
    thread: JoinHandle<Result<Answer, Failure>>,
}

impl Refresher {
    fn new(config: &Arc<Config>, cache: Arc<versions::Cache>) -> Refresher {
        let versions = &config.versions;
        let github = GitHub::new(versions).inspect_err(|error| {
            if versions.enabled {
                log::warn!("GitHub is not asked, and the known versions are kept: {error}");
            }
        });
        Refresher {
            config: config.clone(),
            cache,
            github: github.ok().map(Arc::new),
            projects: versions.projects.to_vec(),
            registered: false,
            asking: None,
            abandoned: Vec::new(),
            failures: HashMap::new(),
        }
    }

    fn tick(&mut self, db: &mut Connection) {
        self.abandoned.retain(|thread| !thread.is_finished());
        match self.asking.take() {
            Some(asking) if asking.thread.is_finished() => {
                let outcome = asking
                    .thread
                    .join()
                    .unwrap_or_else(|_| Err(Failure::panicked()));
                self.keep(&asking.claim.project, outcome, db);
            }
            Some(asking) if asking.since.elapsed() > GIVE_UP => {
                self.abandoned.push(asking.thread);
                self.keep(&asking.claim.project, Err(Failure::too_slow()), db);
            }
            waiting => self.asking = waiting,
        }
        if self.asking.is_none() && self.abandoned.len() < MAX_ABANDONED {
            self.ask(db);
        }
    }

    /// Claims a project, if one is due, and starts asking for it.
    fn ask(&mut self, db: &mut Connection) {
        let Some(github) = self.github.clone() else {
            return;
        };
        if !self.registered {
            if let Err(error) = db.register_projects(&self.projects) {
                return log_failure("note whose versions are to be checked", &error);
            }
            self.registered = true;
        }
        let interval = self.config.versions.refresh_interval;
        let claim = match db.claim_project(&self.projects, interval) {
            Ok(Some(claim)) => claim,
            Ok(None) => return,
            Err(error) => return log_failure("see which versions are to be checked", &error),
        };
        let asked = claim.clone();
        let thread = thread::Builder::new()
            .name("github".into())
            .spawn(move || github.releases(&asked.project, asked.etag.as_deref()));
        match thread {
            Ok(thread) => {
                let since = Instant::now();
                self.asking = Some(Asking {
                    claim,
                    since,
                    thread,
                });
            }
            Err(error) => log::warn!("no thread to ask GitHub with: {error}"),
        }
    }

    fn keep(&mut self, project: &str, outcome: Result<Answer, Failure>, db: &mut Connection) {
        let kept = match outcome {
            Ok(Answer::Unchanged) => db.project_is_unchanged(project),
            Ok(Answer::Releases { etag, listed }) => {
                let (newest, skipped) = releases::newest(listed.releases);
                let tags: Vec<String> = skipped.iter().map(|tag| shown(tag)).collect();
                log_skipped(project, &listed.malformed, &tags);
                db.replace_releases(project, etag.as_deref(), &newest)
            }
            Err(failure) => return self.postpone(project, &failure, db),
        };
        match kept {
            Ok(()) => {
                self.cache.forget(project);
                if self.failures.remove(project).is_some() {
                    log::info!("GitHub answers for {project} again");
                }
            }
            Err(error) => log_failure("keep what GitHub answered", &error),
        }
    }

    /// Keeps what is known, says so once, and asks again no sooner than GitHub wants.
    fn postpone(&mut self, project: &str, failure: &Failure, db: &mut Connection) {
        let failures = self.failures.entry(project.to_string()).or_default();
        let delay = retry_delay(failure, *failures, self.config.versions.refresh_interval);
        if *failures == 0 {
            let reason = &failure.reason;
            log::warn!("GitHub has no answer for {project}: {reason}; the known versions are kept");
        }
        *failures = failures.saturating_add(1);
        if let Err(error) = db.postpone_project(project, delay) {
            log_failure("postpone a version check", &error);
        }
    }
}

/// Tags and items that are shown in a line; more are only counted.
const SHOWN: usize = 5;

/// Says what of GitHub's list was of no use.
fn log_skipped(project: &str, malformed: &[String], tags: &[String]) {
    for (what, skipped) in [
        ("what is malformed", malformed),
        ("releases whose tags are no versions", tags),
    ] {
        if !skipped.is_empty() {
            let shown: Vec<&str> = skipped.iter().take(SHOWN).map(String::as_str).collect();
            let more = match skipped.len() - shown.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            log::info!("{project}: skipped {what}: {}{more}", shown.join(", "));
        }
    }
}

fn retry_delay(failure: &Failure, earlier: u32, interval: Duration) -> Duration {
    let own = FIRST_RETRY
        .saturating_mul(1 << earlier.min(10))
        .min(interval);
    failure
        .retry_after
        .map_or(own, |wanted| wanted.max(own))
        .min(LONGEST_RETRY)
}

fn log_failure(what: &str, error: &db::Error) {
    match error {
        // The outage itself was logged when it began.
        db::Error::Unavailable(_) => log::debug!("could not {what}: {error}"),
        _ => log::warn!("could not {what}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_retried_later_and_later_and_no_sooner_than_github_wants() {
        let delay = |retry_after: Option<u64>, earlier| {
            let retry_after = retry_after.map(Duration::from_secs);
            let failure = Failure {
                reason: String::new(),
                retry_after,
            };
            retry_delay(&failure, earlier, Duration::from_secs(1800)).as_secs()
        };
        assert_eq!(delay(None, 0), 60);
        assert_eq!(delay(None, 3), 480);
        assert_eq!(delay(None, 5), 1800);
        assert_eq!(delay(None, u32::MAX), 1800);
        assert_eq!(delay(Some(3600), 0), 3600);
        assert_eq!(delay(Some(0), 0), 60);
        assert_eq!(delay(Some(u64::MAX), 0), 86_400);
    }
}
