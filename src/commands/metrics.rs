//! The metrics of what answers the requests: the counters, the cache, the database, GitHub.

use std::time::SystemTime;

use crate::cache::files::FileCache;
use crate::config::{Config, Platform};
use crate::db::{Database, Replicas};
use crate::exposition::{Exposition, Kind};
use crate::lock::lock;
use crate::statistics::Statistics;

/// What the metrics are taken from.
pub struct Sources<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The counters.
    pub statistics: &'a Statistics,
    /// The cache of recent files.
    pub cache: &'a FileCache,
    /// The database, which is not asked anything.
    pub database: &'a Database,
    /// When the server was started, or last restarted itself.
    pub started: SystemTime,
    /// How often the server has restarted itself (`exec`).
    pub restarts: u32,
}

impl Sources<'_> {
    /// Writes the metrics.
    pub fn expose(&self, exposition: &mut Exposition) {
        self.expose_program(exposition);
        self.statistics.expose(exposition);
        let help = "The most bytes of all files, beyond which uploads are refused.";
        if let Some(limit) = self.config.files.max_total_size {
            exposition.gauge("stored_limit_bytes", help, limit);
        }
        let help = "Memory that the file cache takes.";
        exposition.gauge("file_cache_bytes", help, self.cache.bytes());
        let help = "The most memory that the file cache takes.";
        exposition.gauge("file_cache_limit_bytes", help, self.cache.capacity());
        let help = "Whether the database could be reached when it was last tried.";
        exposition.gauge("database_up", help, u8::from(!self.database.is_away()));
        let help = "Outages of the database, with the present one.";
        exposition.counter("database_outages_total", help, self.database.outages());
        if let Some(replicas) = self.database.replicas() {
            expose_replicas(replicas, exposition);
        }
        if self.config.versions.enabled {
            self.expose_checks(exposition);
        }
    }

    fn expose_program(&self, exposition: &mut Exposition) {
        let help = "The program's version.";
        let mut family = exposition.family("build_info", Kind::Gauge, help);
        family.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        let help =
            "When the server was started, or last restarted itself; all counters began then.";
        exposition
            .standard_family("process_start_time_seconds", Kind::Gauge, help)
            .sample(&[], seconds(self.started));
        let help = "How often the server has restarted itself in its own place.";
        exposition.counter("restarts_total", help, self.restarts.into());
    }

    /// Writes when each platform's versions were last checked. It is 0 for never, so that an alert
    /// on old checks has it too.
    fn expose_checks(&self, exposition: &mut Exposition) {
        let checks = lock(&self.statistics.last_checks).clone();
        if checks.is_empty() {
            return;
        }
        let help = "When GitHub last told a platform's versions, to any server on this database; 0 \
                    for never.";
        let name = "github_last_check_timestamp_seconds";
        let mut family = exposition.family(name, Kind::Gauge, help);
        for (platform, checked) in Platform::ALL.into_iter().zip(checks) {
            let labels = [("platform", platform.as_str())];
            family.sample(&labels, checked.map_or(0, seconds));
        }
    }
}

/// Writes whether the replicas are used, and what became of the reads from them.
fn expose_replicas(replicas: &Replicas, exposition: &mut Exposition) {
    let help = "Whether files are read from the replica.";
    let mut family = exposition.family("replica_used", Kind::Gauge, help);
    for (name, is_used) in replicas.states() {
        family.sample(&[("replica", name)], u8::from(is_used));
    }
    let help = "Reads of files by what a replica had: the file; nothing, so that the database of \
                database.url was asked as well; or no answer, so that it was asked instead.";
    let mut family = exposition.family("replica_reads_total", Kind::Counter, help);
    for (outcome, count) in replicas.reads() {
        family.sample(&[("outcome", outcome)], count);
    }
}

/// A time as Prometheus has it: whole seconds of Unix time.
fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
