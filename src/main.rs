//! The command line.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::prelude::*;
use session_file_server::config::Config;
use session_file_server::db::Database;
use session_file_server::keys::Keys;
use session_file_server::serve;

const HELP: &str = "\
Stores, hands out and expires the encrypted files of the Session messenger.

Usage: session-file-server [--config FILE] [--allow-root] [COMMAND]

Commands:
  serve          run the server (the default)
  init-db        create what is missing in the database; safe to repeat
  check-config   read the config, report every mistake, exit 1 if there is one
  keys           print the public keys, and the ending of the URLs that clients need

Options:
  --config FILE  default: config.toml here, then /etc/session-file-server/config.toml;
                 without any, the defaults
  --allow-root   let serve run as root
  -h, --help     print this
  -V, --version  print the version
";

fn main() -> ExitCode {
    match Arguments::parse(lexopt::Parser::from_env()) {
        Err(error) => {
            eprintln!("session-file-server: {error}; see --help");
            ExitCode::from(2)
        }
        Ok(arguments) => match arguments.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                eprintln!("session-file-server: {message}");
                ExitCode::FAILURE
            }
        },
    }
}

enum Command {
    Serve,
    InitDb,
    CheckConfig,
    Keys,
    Help,
    Version,
}

struct Arguments {
    command: Command,
    config: Option<PathBuf>,
    allow_root: bool,
}

impl Arguments {
    fn parse(mut parser: lexopt::Parser) -> Result<Arguments, lexopt::Error> {
        let mut command = None;
        let mut config = None;
        let mut allow_root = false;
        while let Some(argument) = parser.next()? {
            match argument {
                Long("config") => config = Some(PathBuf::from(parser.value()?)),
                Long("allow-root") => allow_root = true,
                Short('h') | Long("help") => command = Some(Command::Help),
                Short('V') | Long("version") => command = Some(Command::Version),
                Value(name) if command.is_none() => command = Some(command_named(name)?),
                other => return Err(other.unexpected()),
            }
        }
        Ok(Arguments {
            command: command.unwrap_or(Command::Serve),
            config,
            allow_root,
        })
    }

    fn run(self) -> Result<(), String> {
        match self.command {
            Command::Help => print(HELP),
            Command::Version => print(&format!(
                "session-file-server {}\n",
                env!("CARGO_PKG_VERSION")
            )),
            Command::CheckConfig => {
                Config::load(self.config.as_deref())?;
                print("the configuration is fine\n")
            }
            Command::Keys => {
                let config = Config::load(self.config.as_deref())?;
                start_logging(&config);
                if !config.keys.ed25519.exists() {
                    let path = config.keys.ed25519.display();
                    return Err(format!(
                        "there is no key in {path} yet; serve makes it when it first starts"
                    ));
                }
                print(&Keys::load(&config.keys)?.describe())
            }
            Command::InitDb => {
                let config = Config::load(self.config.as_deref())?;
                start_logging(&config);
                let mut db = Database::new(config.database.clone()).connection();
                db.apply_schema()
                    .map_err(|error| serve::explain(&error, &config))?;
                print(&format!(
                    "the database {} is ready\n",
                    config.database.database_name()
                ))
            }
            Command::Serve => {
                let config = Config::load(self.config.as_deref())?;
                if !self.allow_root && is_root() {
                    return Err(
                        "will not serve as root: run it as a user of its own, or give \
                                --allow-root"
                            .into(),
                    );
                }
                start_logging(&config);
                return_large_buffers();
                serve::serve(config)
            }
        }
    }
}

fn command_named(name: OsString) -> Result<Command, lexopt::Error> {
    match name.to_str() {
        Some("serve") => Ok(Command::Serve),
        Some("init-db") => Ok(Command::InitDb),
        Some("check-config") => Ok(Command::CheckConfig),
        Some("keys") => Ok(Command::Keys),
        _ => Err(format!("unknown command {name:?}").into()),
    }
}

fn print(text: &str) -> Result<(), String> {
    // Not `print!`, which panics when nobody reads.
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| format!("cannot write: {error}"))
}

/// Files under /proc/self belong to the process's effective user.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The size from which glibc's malloc takes a buffer from the system, and gives it back
/// when it is freed, bytes. Files below it are most of the traffic and cost no system call.
const MMAP_THRESHOLD: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "1048576");

/// Keeps malloc from raising that size when it meets a larger buffer, as it does by itself
/// up to 32 MiB: then the buffers of large files stay with the process for ever (seen: 290 MB
/// after a burst of 10 MB files over all workers, 8 MB with this). Only the environment can say so without
/// unsafe code, and only before the program starts: so it starts once more, in its place.
fn return_large_buffers() {
    let (name, value) = MMAP_THRESHOLD;
    if std::env::var_os(name).is_some() {
        return;
    }
    let failed = std::env::current_exe().map(|program| {
        let mut again = std::process::Command::new(program);
        again
            .args(std::env::args_os().skip(1))
            .env(name, value)
            .exec()
    });
    // Without it the server needs more memory and is the same otherwise.
    log::debug!("not started once more: {failed:?}");
}

/// Log lines go to standard error; under systemd without the time, which the journal adds.
fn start_logging(config: &Config) {
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let mut builder = env_logger::Builder::new();
    match std::env::var("RUST_LOG") {
        Ok(filters) => builder.parse_filters(&filters),
        // The libraries' own lines are of interest to nobody but a developer.
        Err(_) => builder
            .filter_level(log::LevelFilter::Error)
            .filter_module("session_file_server", config.log_level),
    };
    builder
        .format(move |out, record| {
            if !in_journal {
                let now = humantime::format_rfc3339_millis(std::time::SystemTime::now());
                write!(out, "{now} ")?;
            }
            writeln!(out, "{:<5} {}", record.level(), record.args())
        })
        .init();
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
}
