//! `config.toml` → one [`Config`], every value checked.
//!
//! [`Config::parse`] reports *all* mistakes of a file at once, each with its key, its
//! line and what would be right; nothing else in the program checks a setting again.
//! [`source`] reads the text, [`file`] its keys and lines, [`values`] knows what each may be,
//! and [`warnings`] what may not be meant.

mod file;
mod key_files;
mod source;
mod values;
mod warnings;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::db;
use file::TomlReader;
use values::{
    CACHE_SIZES, MAX_SIZES, TOTAL_SIZES, WORKERS, api_url, boolean, database_url, duration,
    id_prefix, integer, interval, listen, log_level, max_ttl, project_name, socket_mode, token,
};

pub use file::Mistake;
pub use key_files::KeyFiles;
pub use source::ConfigSource;

/// Where `serve` looks without `--config`, in this order.
pub const DEFAULT_PATHS: [&str; 2] = ["config.toml", "/etc/session-file-server/config.toml"];

const DEFAULT_LISTEN: &str = "127.0.0.1:8000";
/// The web server in front is in the socket's group; nobody else has business there.
const DEFAULT_SOCKET_MODE: u32 = 0o660;
/// Workers wait for the database, not for the processor: a few per core.
const DEFAULT_WORKERS: usize = 8;
/// The original's: 9.75 MiB leave room for the wrapping within the 10 MiB of an onion
/// request.
const DEFAULT_MAX_SIZE: usize = 10_223_616;
const DEFAULT_CACHE_SIZE: usize = 16_000_000;
const DEFAULT_EXPIRY: Duration = Duration::from_secs(3 * WEEK);
const DEFAULT_GITHUB_API: &str = "https://api.github.com";
/// Three projects twice an hour are a tenth of what GitHub grants without a token.
const DEFAULT_REFRESH_INTERVAL: Duration = Duration::from_secs(30 * 60);
const DEFAULT_CLEANUP_INTERVAL: Duration = Duration::from_secs(15);

const DAY: u64 = 24 * 60 * 60;
const WEEK: u64 = 7 * DAY;

/// Everything that an operator can set.
#[derive(Clone, Debug)]
pub struct Config {
    /// `listen`: where requests come in.
    pub listen: Listen,
    /// `socket_mode`: permissions of a Unix socket's file.
    pub socket_mode: u32,
    /// `workers`: threads that answer requests, each with a database connection.
    pub workers: usize,
    /// `log_level`
    pub log_level: log::LevelFilter,
    /// `database.url`
    pub database: db::Settings,
    /// The table `files`.
    pub files: Files,
    /// The table `keys`.
    pub keys: KeyFiles,
    /// The table `versions`.
    pub versions: Versions,
}

/// The table `versions` of the configuration.
#[derive(Clone, Debug)]
pub struct Versions {
    /// `versions.enabled`: whether GitHub is asked at all.
    pub enabled: bool,
    /// `versions.github_api`: where, without a slash at its end.
    pub github_api: String,
    /// `versions.github_token`: as whom.
    pub github_token: Option<Token>,
    /// `versions.projects`: `owner/name` for each [`Platform`], in its order.
    pub projects: [String; 3],
    /// `versions.refresh_interval`: how often each project is asked for.
    pub refresh_interval: Duration,
    /// `versions.record_checks`: whether signed version checks are counted.
    pub record_checks: bool,
}

/// A secret that is never shown.
#[derive(Clone)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// What Session runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// `desktop`
    Desktop,
    /// `android`
    Android,
    /// `ios`
    Ios,
}

impl Platform {
    /// All platforms, in the order of [`Versions::projects`].
    pub const ALL: [Platform; 3] = [Platform::Desktop, Platform::Android, Platform::Ios];

    /// The platform of that name.
    pub fn parse(name: &str) -> Option<Platform> {
        Platform::ALL
            .into_iter()
            .find(|platform| platform.as_str() == name)
    }

    /// The platform's name, in requests and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Platform::Desktop => "desktop",
            Platform::Android => "android",
            Platform::Ios => "ios",
        }
    }
}

impl Versions {
    fn take(keys: &mut TomlReader) -> Versions {
        let mut project = |key, default: &str| keys.take(key, default.to_string(), project_name);
        let projects = [
            project(
                "versions.projects.desktop",
                "session-foundation/session-desktop",
            ),
            project(
                "versions.projects.android",
                "session-foundation/session-android",
            ),
            project("versions.projects.ios", "session-foundation/session-ios"),
        ];
        Versions {
            enabled: keys.take("versions.enabled", true, boolean),
            github_api: keys.take("versions.github_api", DEFAULT_GITHUB_API.into(), api_url),
            github_token: keys.take("versions.github_token", None, token),
            projects,
            refresh_interval: keys.take(
                "versions.refresh_interval",
                DEFAULT_REFRESH_INTERVAL,
                interval,
            ),
            record_checks: keys.take("versions.record_checks", false, boolean),
        }
    }
}

/// The table `files` of the configuration.
#[derive(Clone, Debug)]
pub struct Files {
    /// `files.max_size`: the largest file, bytes.
    pub max_size: usize,
    /// `files.max_total_size`: bytes of all files beyond which no more are taken; `None` for
    /// no such bound.
    pub max_total_size: Option<u64>,
    /// `files.cache_size`: bytes of recent files that are kept in memory; 0 keeps none.
    pub cache_size: usize,
    /// `files.expiry`: how long a file lives.
    pub expiry: Duration,
    /// `files.max_ttl`: the most that `X-FS-TTL` may ask for; `None` ignores the header.
    pub max_ttl: Option<Duration>,
    /// `files.numeric_ids`: random decimal ids instead of content ids.
    pub numeric_ids: bool,
    /// `files.numeric_id_prefix`: the leading bits of every numeric id.
    pub numeric_id_prefix: Vec<bool>,
    /// `files.cleanup_interval`: the pause between two deletions of expired files.
    pub cleanup_interval: Duration,
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `host:port`, resolved when the server starts.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => f.write_str(address),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        // The empty file has no mistakes: every key has a default that its own check admits.
        Config::parse("", Path::new("config.toml")).expect("the defaults are valid")
    }
}

impl Config {
    /// Reads the text of a configuration file; relative paths in it start at the folder
    /// of `path`.
    ///
    /// # Errors
    /// All mistakes, by line.
    pub fn parse(text: &str, path: &Path) -> Result<Config, Vec<Mistake>> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut keys = TomlReader::parse(text)?;
        let mut files = Files {
            max_size: keys.take("files.max_size", DEFAULT_MAX_SIZE, |value| {
                integer(value, MAX_SIZES, "bytes", "10_223_616")
            }),
            max_total_size: keys.take("files.max_total_size", None, |value| {
                integer(value, TOTAL_SIZES, "bytes", "50_000_000_000").map(|size| Some(size as u64))
            }),
            cache_size: keys.take("files.cache_size", DEFAULT_CACHE_SIZE, |value| {
                integer(value, CACHE_SIZES, "bytes", "16_000_000")
            }),
            expiry: keys.take("files.expiry", DEFAULT_EXPIRY, duration),
            max_ttl: None,
            numeric_ids: keys.take("files.numeric_ids", false, boolean),
            numeric_id_prefix: keys.take("files.numeric_id_prefix", Vec::new(), id_prefix),
            cleanup_interval: keys.take(
                "files.cleanup_interval",
                DEFAULT_CLEANUP_INTERVAL,
                interval,
            ),
        };
        files.max_ttl = keys.take("files.max_ttl", Some(files.expiry), max_ttl);
        let config = Config {
            listen: keys.take("listen", Listen::Tcp(DEFAULT_LISTEN.into()), |value| {
                listen(value, folder)
            }),
            socket_mode: keys.take("socket_mode", DEFAULT_SOCKET_MODE, socket_mode),
            workers: keys.take("workers", DEFAULT_WORKERS, |value| {
                integer(value, WORKERS, "threads", "8")
            }),
            log_level: keys.take("log_level", log::LevelFilter::Info, log_level),
            database: keys.take("database.url", db::Settings::default(), database_url),
            files,
            keys: KeyFiles::take(&mut keys, folder),
            versions: Versions::take(&mut keys),
        };
        keys.finish().map(|()| config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        match Config::parse(text, Path::new("/etc/x/config.toml")) {
            Ok(_) => Vec::new(),
            Err(mistakes) => mistakes.iter().map(Mistake::to_string).collect(),
        }
    }

    #[test]
    fn an_empty_file_means_the_documented_defaults() {
        let config = Config::default();
        assert_eq!(config.listen, Listen::Tcp("127.0.0.1:8000".into()));
        assert_eq!(config.socket_mode, 0o660);
        assert_eq!(config.workers, 8);
        assert_eq!(config.files.max_size, 10_223_616);
        assert_eq!(config.files.expiry, Duration::from_secs(21 * 86_400));
        assert_eq!(config.files.max_ttl, Some(config.files.expiry));
        assert_eq!(config.files.cleanup_interval, Duration::from_secs(15));
    }

    #[test]
    fn the_sample_holds_every_key_and_changes_nothing() {
        let sample = include_str!("../../config.sample.toml");
        let config = Config::parse(sample, Path::new("config.toml")).expect("the sample is valid");
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
        // With every key's comment sign taken away it is the same configuration again.
        let uncommented: String = sample
            .lines()
            .map(|line| match line.strip_prefix("#") {
                Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => setting,
                _ => line,
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        let config = Config::parse(&uncommented, Path::new("config.toml"))
            .unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
        let mut keys =
            TomlReader::parse(&uncommented).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
        for key in [
            "listen",
            "socket_mode",
            "workers",
            "log_level",
            "database.url",
            "files.max_size",
            "files.cache_size",
            "files.expiry",
            "files.max_ttl",
            "files.numeric_ids",
            "files.numeric_id_prefix",
            "files.cleanup_interval",
            "keys.ed25519",
            "keys.x25519",
            "versions.enabled",
            "versions.github_api",
            "versions.projects.desktop",
            "versions.projects.android",
            "versions.projects.ios",
            "versions.refresh_interval",
            "versions.record_checks",
        ] {
            assert!(
                keys.take(key, false, |_| Ok(true)),
                "{key} is not in the sample"
            );
        }
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_key_and_line() {
        let found = mistakes(
            "listen = 8000\nsocket_mode = \"999\"\nworkers = 0\nlog_level = \"loud\"\n\
             max_size = 5\n[files]\nmax_size = \"big\"\nexpiry = \"soon\"\nmax_ttl = -1\n\
             numeric_ids = 1\nnumeric_id_prefix = \"012\"\ncleanup_interval = \"2 days\"\n\
             colour = 1\n[database]\nurl = 1.5\n",
        );
        let expected = [
            "1: listen: 8000",
            "2: socket_mode: \"999\"",
            "3: workers: 0",
            "4: log_level: \"loud\"",
            "5: max_size: unknown key; did you mean files.max_size?",
            "7: files.max_size: \"big\"",
            "8: files.expiry: \"soon\"",
            "9: files.max_ttl: -1",
            "10: files.numeric_ids: 1",
            "11: files.numeric_id_prefix: \"012\"",
            "12: files.cleanup_interval: \"2 days\"",
            "13: files.colour: unknown key",
            "15: database.url: a number with a fraction",
        ];
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found:?} is not {expected:?}");
        }
    }

    #[test]
    fn a_text_that_is_not_toml_names_its_line() {
        assert!(mistakes("workers = 8\nlisten = [\n")[0].contains("not TOML"));
        assert!(mistakes("workers = 8\n\nworkers = 9\n")[0].starts_with("3: "));
    }

    #[test]
    fn dotted_keys_and_tables_are_the_same() {
        let config = Config::parse("files.max_size = 7\n", Path::new("c")).expect("valid");
        assert_eq!(config.files.max_size, 7);
    }

    #[test]
    fn relative_socket_paths_start_at_the_files_folder() {
        let config = Config::parse("listen = \"unix:a.sock\"", Path::new("/etc/x/config.toml"))
            .expect("valid");
        assert_eq!(config.listen, Listen::Unix("/etc/x/a.sock".into()));
        assert_eq!(
            mistakes(&format!("listen = \"unix:{}\"", "a".repeat(101))).len(),
            1
        );
    }

    #[test]
    fn max_ttl_follows_expiry_and_zero_turns_it_off() {
        let max_ttl = |text: &str| {
            Config::parse(text, Path::new("c"))
                .expect("valid")
                .files
                .max_ttl
        };
        let hour = Duration::from_secs(3600);
        assert_eq!(max_ttl("files.expiry = '1 h'"), Some(hour));
        assert_eq!(
            max_ttl("files.expiry = '1 h'\nfiles.max_ttl = '2 h'"),
            Some(2 * hour)
        );
        assert_eq!(max_ttl("files.max_ttl = 0"), None);
        assert_eq!(max_ttl("files.max_ttl = '0'"), None);
    }

    #[test]
    fn a_password_in_the_database_url_is_not_repeated_in_the_mistake() {
        let found = mistakes("database.url = 'postgresql://u:secret@h:port/db'");
        assert_eq!(found.len(), 1);
        assert!(!found[0].contains("secret"), "{found:?}");
    }
}
