//! `status`: prints what the server stores and knows, for its operator.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::explain::explain;
use super::running::Running;
use crate::config::{Config, Platform};
use crate::db::{
    self, Connection, Database, KnownReleases, NotedServer, ReplicaReport, ReplicaState, Totals,
};
use crate::output::{self, print, printable};
use crate::protocol::http::unix_seconds;
use crate::protocol::releases::Channel;
use crate::quantity;

/// Prints the status, as text or as JSON: what the database has, and what the server tells that
/// runs with this configuration if it has `metrics.listen`.
///
/// # Errors
/// A sentence for the operator.
pub fn run(config: &Config, json: bool) -> Result<(), String> {
    let replicas = config.replicas.as_ref();
    let mut db = Database::with_replicas(config.database.clone(), replicas).connection();
    let status = db
        .check_schema()
        .and_then(|()| Status::gather(&mut db, config));
    let status = status.map_err(|error| explain(&error, config))?;
    let running = config.metrics.listen.as_ref().map(Running::ask);
    if json {
        let mut shown = status.to_json();
        shown["running"] = running.map_or(Value::Null, |running| running.to_json());
        print(&format!("{shown:#}\n"))
    } else {
        let running = running.map(|running| running.describe(status.now));
        print(&printable(
            &(status.describe() + &running.unwrap_or_default()),
        ))
    }
}

/// The state of the server, as its database has it.
#[derive(Clone, Debug)]
pub struct Status {
    /// The name of the database.
    database: String,
    /// The size of the database on its disk, bytes.
    database_bytes: u64,
    files: Totals,
    /// The number of blocked ids.
    blocked: u64,
    versions: Vec<PlatformStatus>,
    replicas: Vec<ReplicaReport>,
    servers: Vec<NotedServer>,
    /// Problems that don't keep the server from running.
    warnings: Vec<String>,
    /// When the status was read.
    now: SystemTime,
}

/// The known releases of a platform.
#[derive(Clone, Debug)]
struct PlatformStatus {
    platform: Platform,
    /// The platform's project on GitHub.
    project: String,
    releases: KnownReleases,
}

impl Status {
    /// Reads the status from the database.
    ///
    /// # Errors
    /// Those of the database.
    pub fn gather(db: &mut Connection, config: &Config) -> Result<Status, db::Error> {
        let versions = Platform::ALL.into_iter().map(|platform| {
            let project = config.versions.projects.of(platform).to_string();
            let releases = db.known_releases(&project)?;
            Ok(PlatformStatus {
                platform,
                project,
                releases,
            })
        });
        Ok(Status {
            versions: versions.collect::<Result<_, db::Error>>()?,
            database: config.database.database_name().to_string(),
            database_bytes: db.database_size()?,
            files: db.totals()?,
            blocked: db.count_blocked_files()?,
            replicas: db.report_on_replicas(),
            servers: db.noted_servers()?,
            warnings: db.schema_warnings()?,
            now: SystemTime::now(),
        })
    }

    /// The status as text.
    pub fn describe(&self) -> String {
        let files = quantity::count(self.files.files, "file");
        let mut text = format!(
            "files        {files}, {}\n",
            quantity::bytes(self.files.bytes)
        );
        for (label, time) in [
            ("oldest", self.files.oldest),
            ("next expiry", self.files.next_expiry),
        ] {
            text += &format!("{label:<12} {}\n", self.describe_time(time));
        }
        if self.blocked > 0 {
            let ids = quantity::count(self.blocked, "id");
            text += &format!("blocked      {ids}\n");
        }
        text += &format!(
            "database     {}, {}, schema version {}\n",
            self.database,
            quantity::bytes(self.database_bytes),
            db::SCHEMA_VERSION
        );
        for replica in &self.replicas {
            let state = replica.state.describe();
            let state = output::one_line(&state);
            text += &format!("replica      {}: {state}\n", replica.name);
        }
        for version in &self.versions {
            let platform = version.platform.as_str();
            let releases = self.describe_releases(&version.releases);
            text += &format!("{platform:<12} {releases}\n");
        }
        for server in &self.servers {
            let noted = quantity::distance(server.noted, self.now);
            let counts = server.counts.describe();
            // The name may come from another server on the same database.
            let name = output::one_line(&server.name);
            text += &format!("server       {name}: {counts} (as of {noted})\n");
        }
        for warning in &self.warnings {
            text += &format!("warning      {warning}\n");
        }
        text
    }

    fn describe_time(&self, time: Option<SystemTime>) -> String {
        time.map_or("none".into(), |time| quantity::moment(time, self.now))
    }

    fn describe_releases(&self, known: &KnownReleases) -> String {
        let Some(checked) = known.checked else {
            return "never checked".into();
        };
        let mut versions: Vec<String> = Channel::ALL
            .into_iter()
            .filter_map(|channel| {
                let newest = known.newest.iter().find(|n| n.channel == channel)?;
                Some(format!("{} {}", channel.as_str(), newest.version))
            })
            .collect();
        if versions.is_empty() {
            versions.push("no release".into());
        }
        let checked = quantity::distance(checked, self.now);
        format!("{}, checked {checked}", versions.join(", "))
    }

    /// The status as JSON. Times are Unix times in seconds, or `null`.
    pub fn to_json(&self) -> Value {
        let time = |time: Option<SystemTime>| time.map(unix_seconds);
        let mut versions = json!({});
        for version in &self.versions {
            let checked = time(version.releases.checked);
            let mut entry = json!({ "project": version.project, "checked": checked });
            for newest in &version.releases.newest {
                entry[newest.channel.as_str()] = json!(newest.version);
            }
            versions[version.platform.as_str()] = entry;
        }
        let servers = self.servers.iter().map(|server| {
            json!({
                "name": server.name,
                "noted": unix_seconds(server.noted),
                "requests": server.counts.requests,
                "bytes_up": server.counts.bytes_up,
                "bytes_down": server.counts.bytes_down,
                "files_stored": server.counts.files_stored,
                "downloads": server.counts.downloads,
                "cache_hits": server.counts.cache_hits,
            })
        });
        let replicas = self.replicas.iter().map(|replica| {
            let (behind, reason) = match &replica.state {
                ReplicaState::Behind(bytes) => (Some(*bytes), None),
                other => (None, Some(other.describe())),
            };
            json!({ "name": replica.name, "bytes_behind": behind, "unused": reason })
        });
        json!({
            "files": {
                "count": self.files.files,
                "bytes": self.files.bytes,
                "blocked": self.blocked,
                "oldest": time(self.files.oldest),
                "next_expiry": time(self.files.next_expiry),
            },
            "database": {
                "name": self.database,
                "bytes": self.database_bytes,
                "schema_version": db::SCHEMA_VERSION,
            },
            "replicas": replicas.collect::<Vec<_>>(),
            "versions": versions,
            "servers": servers.collect::<Vec<_>>(),
            "warnings": self.warnings,
        })
    }
}
