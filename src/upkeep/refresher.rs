//! Keeps the known releases of Session current by asking GitHub.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::failures::log_failure;
use super::github::{self, Answer, Failure, GitHub};
use super::github_list::shown;
use crate::cache::releases::ReleaseCache;
use crate::config::Config;
use crate::db::{Claim, Connection};
use crate::protocol::releases;

/// The time after which a request without an answer is abandoned. Its thread goes on for as long
/// as GitHub sends a byte per second.
const ANSWER_TIMEOUT: Duration = github::TIMEOUT.saturating_add(Duration::from_secs(1));
/// The number of threads with abandoned requests at which no further request is started.
const MAX_ABANDONED: usize = 4;
/// The pause after a failure, unless GitHub asks for a longer one. It doubles with each further
/// failure, up to `versions.refresh_interval`.
const FIRST_RETRY: Duration = Duration::from_secs(60);
/// The longest pause after a failure, whatever GitHub asks for. Versions are no longer served when
/// the last check was a day ago.
const LONGEST_RETRY: Duration = Duration::from_secs(24 * 60 * 60);
/// The number of tags or malformed items that a line of the log shows. Further ones are counted.
const MAX_SHOWN_ITEMS: usize = 5;

/// Asks GitHub for the releases of one project at a time. Each request runs in a thread of its
/// own, so that a slow GitHub doesn't delay the timer thread, which does the rest.
pub struct Refresher {
    config: Arc<Config>,
    /// The cache, whose entries are dropped when there are new releases.
    cache: Arc<ReleaseCache>,
    /// The client; `None` if its proxy can't be used.
    github: Option<Arc<GitHub>>,
    projects: Vec<String>,
    /// Whether the projects have been registered in the database.
    is_registered: bool,
    /// The request in flight.
    pending: Option<PendingAnswer>,
    /// The threads of abandoned requests.
    abandoned: Vec<JoinHandle<Result<Answer, Failure>>>,
    /// The number of failures of each project since its last success.
    failures: HashMap<String, u32>,
}

/// A request in flight.
struct PendingAnswer {
    /// The project that was claimed for the request.
    claim: Claim,
    since: Instant,
    thread: JoinHandle<Result<Answer, Failure>>,
}

impl Refresher {
    /// A refresher for the projects of the configuration.
    pub fn new(config: &Arc<Config>, cache: Arc<ReleaseCache>) -> Refresher {
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
            projects: versions.projects.all(),
            is_registered: false,
            pending: None,
            abandoned: Vec::new(),
            failures: HashMap::new(),
        }
    }

    /// Handles the answer of the request in flight, or starts a request if one is due. Never waits
    /// for GitHub. Returns whether a request has ended.
    pub fn tick(&mut self, db: &mut Connection) -> bool {
        self.abandoned.retain(|thread| !thread.is_finished());
        let was_pending = self.pending.is_some();
        match self.pending.take() {
            Some(pending) if pending.thread.is_finished() => {
                let outcome = pending
                    .thread
                    .join()
                    .unwrap_or_else(|_| Err(Failure::panicked()));
                self.keep(&pending.claim.project, outcome, db);
            }
            Some(pending) if pending.since.elapsed() > ANSWER_TIMEOUT => {
                self.abandoned.push(pending.thread);
                self.keep(&pending.claim.project, Err(Failure::too_slow()), db);
            }
            waiting => self.pending = waiting,
        }
        let has_ended = was_pending && self.pending.is_none();
        if self.pending.is_none() && self.abandoned.len() < MAX_ABANDONED {
            self.ask(db);
        }
        has_ended
    }

    /// Claims a project, if one is due, and starts a request for it.
    fn ask(&mut self, db: &mut Connection) {
        let Some(github) = self.github.clone() else {
            return;
        };
        if !self.is_registered {
            if let Err(error) = db.register_projects(&self.projects) {
                return log_failure("note whose versions are to be checked", &error);
            }
            self.is_registered = true;
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
                self.pending = Some(PendingAnswer {
                    claim,
                    since,
                    thread,
                });
            }
            Err(error) => log::warn!("no thread to ask GitHub with: {error}"),
        }
    }

    /// Stores the outcome of a request.
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

    /// Postpones the next request after a failure. The first failure in a row is logged. The known
    /// releases are kept.
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

/// Logs the parts of GitHub's list that were skipped.
fn log_skipped(project: &str, malformed: &[String], tags: &[String]) {
    for (what, skipped) in [
        ("what is malformed", malformed),
        ("releases whose tags are no versions", tags),
    ] {
        if !skipped.is_empty() {
            let shown: Vec<&str> = skipped
                .iter()
                .take(MAX_SHOWN_ITEMS)
                .map(String::as_str)
                .collect();
            let more = match skipped.len() - shown.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            log::info!("{project}: skipped {what}: {}{more}", shown.join(", "));
        }
    }
}

/// The pause after a failure that follows so many `earlier` ones.
fn retry_delay(failure: &Failure, earlier: u32, interval: Duration) -> Duration {
    let own = FIRST_RETRY
        .saturating_mul(1 << earlier.min(10))
        .min(interval);
    failure
        .retry_after
        .map_or(own, |wanted| wanted.max(own))
        .min(LONGEST_RETRY)
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
