//! Reads `config.toml` into one [`Config`], with every value checked.
//!
//! [`Config::parse`] reports *all* mistakes of a file at once, each with its key, its line and
//! what would be right. No other module checks a setting again. [`source`] reads the text,
//! [`reader`] its keys and lines; [`values`] checks the values, and [`warnings`] finds valid values
//! that have consequences. Each table of the file has a module.

mod files;
mod key_files;
mod memory;
mod metrics;
mod reader;
mod source;
mod values;
mod versions;
mod warnings;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::db;
use reader::TomlReader;
use values::{WORKERS, database_url, integer, listen, log_level, replicas, socket_mode};

pub use files::Files;
pub use key_files::KeyFiles;
pub use memory::{Shares, largest_answer};
pub use metrics::Metrics;
pub use reader::Mistake;
pub use source::{ConfigSource, DEFAULT_PATHS};
pub use values::MAX_LISTEN;
pub use versions::{Platform, Projects, Token, Versions};

/// The default of `listen`.
const DEFAULT_LISTEN: &str = "127.0.0.1:8000";
/// The default of `socket_mode`. The web server in front belongs to the socket's group; nobody
/// else needs access.
const DEFAULT_SOCKET_MODE: u32 = 0o660;
/// The default of `workers`. Workers wait for the database rather than for the processor, so a
/// few per core are useful.
const DEFAULT_WORKERS: usize = 8;

/// All settings of the configuration file.
#[derive(Clone, Debug)]
pub struct Config {
    /// `listen`: the addresses on which the server listens, at least one.
    pub listen: Vec<Listen>,
    /// `socket_mode`: permissions of a Unix socket's file.
    pub socket_mode: u32,
    /// `workers`: threads that answer requests, each with a database connection.
    pub workers: usize,
    /// `memory`: the most memory for bodies, answers and the file cache, bytes. `None` if the
    /// machine decides ([`Config::shares`]).
    pub memory: Option<usize>,
    /// `writers`: how many of them may write to the database at once.
    pub writers: usize,
    /// `log_level`: the level of the program's own log lines.
    pub log_level: log::LevelFilter,
    /// `database.url`: how to reach the database.
    pub database: db::Settings,
    /// `database.read_url`: how to reach the replicas of which files are read.
    pub replicas: Option<db::Settings>,
    /// The table `files`.
    pub files: Files,
    /// The table `keys`.
    pub keys: KeyFiles,
    /// The table `metrics`.
    pub metrics: Metrics,
    /// The table `versions`.
    pub versions: Versions,
}

impl Default for Config {
    fn default() -> Config {
        // The empty file has no mistakes: every key has a default that its own check admits.
        Config::parse("", Path::new("config.toml")).expect("the defaults are valid")
    }
}

impl Config {
    /// Parses the text of a configuration file. Relative paths in it start at the folder of
    /// `path`.
    ///
    /// # Errors
    /// All mistakes, ordered by line.
    pub fn parse(text: &str, path: &Path) -> Result<Config, Vec<Mistake>> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut keys = TomlReader::parse(text)?;
        let listen = keys.take(
            "listen",
            vec![Listen::Tcp(DEFAULT_LISTEN.into())],
            |value| listen(value, folder),
        );
        let files = Files::take(&mut keys);
        let least = memory::least(files.max_size, files.cache_size);
        let workers = keys.take("workers", DEFAULT_WORKERS, |value| {
            integer(value, WORKERS, "threads", "8")
        });
        let config = Config {
            memory: keys.take("memory", None, |value| memory::setting(value, least)),
            files,
            metrics: Metrics::take(&mut keys, folder, &listen),
            listen,
            socket_mode: keys.take("socket_mode", DEFAULT_SOCKET_MODE, socket_mode),
            workers,
            writers: keys.take("writers", default_writers(workers), |value| {
                let writers = 1..=(workers as i64 - 1).max(1);
                integer(value, writers, "threads", "1")
            }),
            log_level: keys.take("log_level", log::LevelFilter::Info, log_level),
            database: keys.take("database.url", db::Settings::default(), database_url),
            replicas: keys.take("database.read_url", None, |url| replicas(url).map(Some)),
            keys: KeyFiles::take(&mut keys, folder),
            versions: Versions::take(&mut keys),
        };
        keys.finish().map(|()| config)
    }
}

/// The default of `writers`: three quarters of the workers. The rest is enough to hand out files
/// while all of these wait for the database.
fn default_writers(workers: usize) -> usize {
    (workers - (workers / 4).max(1)).max(1)
}

/// An address on which the server listens.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        assert_eq!(config.listen, [Listen::Tcp("127.0.0.1:8000".into())]);
        assert_eq!(config.socket_mode, 0o660);
        assert_eq!((config.workers, config.writers), (8, 6));
        assert_eq!(config.memory, None);
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
            "writers",
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
            "metrics.listen",
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
        assert_eq!(config.listen, [Listen::Unix("/etc/x/a.sock".into())]);
        assert_eq!(
            mistakes(&format!("listen = \"unix:{}\"", "a".repeat(101))).len(),
            1
        );
    }

    #[test]
    fn addresses_to_listen_on_are_one_or_a_list_without_repetitions() {
        let config = Config::parse(
            "listen = ['127.0.0.1:8000', '[::1]:8000', 'unix:a.sock']",
            Path::new("/etc/x/config.toml"),
        );
        let listen = config.expect("valid").listen;
        let shown: Vec<_> = listen.iter().map(Listen::to_string).collect();
        assert_eq!(
            shown,
            ["127.0.0.1:8000", "[::1]:8000", "unix:/etc/x/a.sock"]
        );
        let many: Vec<_> = (0..=MAX_LISTEN)
            .map(|n| format!("'[::1]:{}'", 80 + n))
            .collect();
        for (wrong, expected) in [
            ("[]", "an empty list"),
            ("['a.b:1', 5]", "5 is not a text"),
            (
                "['[::1]:80', 'unix:/s', '[::1]:80']",
                "\"[::1]:80\" is there twice",
            ),
            ("['unix:s', 'unix:./s']", "\"unix:./s\" is there twice"),
            (
                "['[::]:80', '127.0.0.1:80']",
                "\"127.0.0.1:80\" is in [::]:80 already",
            ),
            (
                "['10.0.0.1:80', '0.0.0.0:80']",
                "10.0.0.1:80 is in \"0.0.0.0:80\" already",
            ),
            (
                &format!("[{}]", many.join(", ")),
                "17 addresses are more than 16",
            ),
        ] {
            let found = mistakes(&format!("listen = {wrong}"));
            assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
        }
    }

    #[test]
    fn replicas_are_of_any_kind_and_bounded_in_number() {
        let hosts = |number: usize| vec!["h"; number].join(",");
        let parse = |hosts: &str| mistakes(&format!("database.read_url = 'host={hosts}'"));
        assert!(parse(&hosts(16)).is_empty());
        let found = parse(&hosts(17));
        assert!(
            found.len() == 1 && found[0].contains("17 hosts"),
            "{found:?}"
        );
        let found = parse("a,b sslnegotiation=direct sslmode=require");
        assert!(found[0].contains("sslnegotiation"), "{found:?}");
        assert!(Config::default().replicas.is_none());
    }

    #[test]
    fn not_all_workers_may_write_unless_there_is_one() {
        let writers = |text: &str| {
            let config = Config::parse(text, Path::new("c"));
            config
                .map(|config| config.writers)
                .map_err(|found| found.len())
        };
        for (workers, expected) in [(1, 1), (2, 1), (3, 2), (8, 6), (256, 192)] {
            assert_eq!(writers(&format!("workers = {workers}")), Ok(expected));
        }
        assert_eq!(writers("workers = 4\nwriters = 3"), Ok(3));
        assert_eq!(writers("workers = 4\nwriters = 4"), Err(1));
        assert_eq!(writers("workers = 1\nwriters = 1"), Ok(1));
        assert_eq!(writers("writers = 0"), Err(1));
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
        for key in ["database.url", "database.read_url"] {
            let found = mistakes(&format!("{key} = 'postgresql://u:secret@h:port/db'"));
            assert_eq!(found.len(), 1);
            assert!(!found[0].contains("secret"), "{found:?}");
            assert!(found[0].starts_with(&format!("1: {key}: ")), "{found:?}");
        }
        let shown = format!(
            "{:?}",
            Config::parse("database.read_url = 'password=secret'", Path::new("c"))
        );
        assert!(!shown.contains("secret"), "{shown}");
    }
}
