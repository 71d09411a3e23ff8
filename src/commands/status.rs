//! `status`: what the server has, for its operator.

use std::fmt::Write;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::explain::explain;
use crate::config::{Config, Platform};
use crate::db::{self, Connection, Database, KnownReleases, NotedServer, Totals};
use crate::output::{self, print, printable};
use crate::protocol::http::unix_seconds;
use crate::protocol::releases::Channel;
use crate::quantity;

/// Prints it, for people or as JSON.
///
/// # Errors
/// A sentence for the operator.
pub fn run(config: &Config, json: bool) -> Result<(), String> {
    let mut db = Database::new(config.database.clone()).connection();
    let status = db
        .check_schema()
        .and_then(|()| Status::gather(&mut db, config));
    let status = status.map_err(|error| explain(&error, config))?;
    if json {
        print(&format!("{:#}\n", status.to_json()))
    } else {
        print(&printable(&status.describe()))
    }
}

/// What is stored, and what is known of Session's versions.
#[derive(Clone, Debug)]
pub struct Status {
    database: String,
    database_bytes: u64,
    files: Totals,
    /// For each platform, in order: its project and what is known of it.
    versions: Vec<(Platform, String, KnownReleases)>,
    servers: Vec<NotedServer>,
    /// What doesn't keep the server from running and should be known.
    warnings: Vec<String>,
    now: SystemTime,
}

impl Status {
    /// Asks the database.
    ///
    /// # Errors
    /// Those of the database.
    pub fn gather(db: &mut Connection, config: &Config) -> Result<Status, db::Error> {
        let projects = Platform::ALL.into_iter().zip(&config.versions.projects);
        let versions = projects.map(|(platform, project)| {
            let known = db.known_releases(project)?;
            Ok((platform, project.clone(), known))
        });
        Ok(Status {
            versions: versions.collect::<Result<_, db::Error>>()?,
            database: config.database.database_name().to_string(),
            database_bytes: db.database_size()?,
            files: db.totals()?,
            servers: db.noted_servers()?,
            warnings: db.schema_warnings()?,
            now: SystemTime::now(),
        })
    }

    /// For people.
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
        text += &format!(
            "database     {}, {}, schema version {}\n",
            self.database,
            quantity::bytes(self.database_bytes),
            db::schema::SCHEMA_VERSION
        );
        for (platform, _, known) in &self.versions {
            text += &format!("{:<12} {}\n", platform.as_str(), self.describe_known(known));
        }
        for server in &self.servers {
            let noted = quantity::distance(server.noted, self.now);
            let counts = server.counts.describe();
            // Another server on the same database may have any name.
            let name = output::one_line(&server.name);
            text += &format!("server       {name}: {counts} (as of {noted})\n");
        }
        for warning in &self.warnings {
            text += &format!("warning      {warning}\n");
        }
        text
    }

    fn describe_time(&self, time: Option<SystemTime>) -> String {
        let Some(time) = time else {
            return "none".into();
        };
        let mut shown = String::new();
        // The library knows no times before 1970, and fails for those beyond the year 9999.
        let in_range = time >= SystemTime::UNIX_EPOCH
            && write!(shown, "{}", humantime::format_rfc3339_seconds(time)).is_ok();
        match in_range {
            true => format!("{shown} ({})", quantity::distance(time, self.now)),
            false => "never".into(),
        }
    }

    fn describe_known(&self, known: &KnownReleases) -> String {
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

    /// For programs: times are Unix times, seconds; `null` is none.
    pub fn to_json(&self) -> Value {
        let time = |time: Option<SystemTime>| time.map(unix_seconds);
        let mut versions = json!({});
        for (platform, project, known) in &self.versions {
            let mut entry = json!({ "project": project, "checked": time(known.checked) });
            for newest in &known.newest {
                entry[newest.channel.as_str()] = json!(newest.version);
            }
            versions[platform.as_str()] = entry;
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
        json!({
            "files": {
                "count": self.files.files,
                "bytes": self.files.bytes,
                "oldest": time(self.files.oldest),
                "next_expiry": time(self.files.next_expiry),
            },
            "database": {
                "name": self.database,
                "bytes": self.database_bytes,
                "schema_version": db::schema::SCHEMA_VERSION,
            },
            "versions": versions,
            "servers": servers.collect::<Vec<_>>(),
            "warnings": self.warnings,
        })
    }
}
