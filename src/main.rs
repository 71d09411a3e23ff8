//! The command line.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::prelude::*;
use session_file_server::config::Config;
use session_file_server::db::{Database, Settings};
use session_file_server::keys::Keys;
use session_file_server::output::{self, print, printable};
use session_file_server::status::Status;
use session_file_server::{buffer, import, quantity, serve, signals};

const HELP: &str = "\
Stores, hands out and expires the encrypted files of the Session messenger.

Usage: session-file-server [--config FILE] [--allow-root] [COMMAND]

Commands:
  serve          run the server (the default)
  init-db        create what is missing in the database, or upgrade an older layout;
                 safe to repeat
  check-config   read the config, report every mistake, exit 1 if there is one; warn of
                 what loses files
  keys           print the public keys, and the ending of the URLs that clients need
  status         files, bytes, oldest and next expiry, versions known and when checked,
                 database size, what each server has done
  import directory DIR
                 take over the oldest server's files, DIR/files/main_files/ID
  import pools DIR --from DATABASE_URL
                 take over the storage pools in DIR that an older server's database knows
  import database --from DATABASE_URL
                 take over the files in another database

Options:
  --config FILE  default: config.toml here, then /etc/session-file-server/config.toml;
                 without any, the defaults
  --allow-root   let serve run as root
  --from DATABASE_URL
                 the older server's database, written as database.url is
  --json         let status print JSON
  -h, --help     print this
  -V, --version  print the version

Exit status: 0 fine, 1 failed, 2 wrong usage.
";

fn main() -> ExitCode {
    // Without it a full log would end the program; nothing else would be different.
    let _ = signals::survive_full_files();
    match Arguments::parse(lexopt::Parser::from_env()) {
        Err(error) => {
            output::complain(&format!("{error}; see --help"));
            ExitCode::from(2)
        }
        Ok(arguments) => match arguments.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                output::complain(&message);
                ExitCode::FAILURE
            }
        },
    }
}

enum Command {
    Serve { allow_root: bool },
    InitDb,
    CheckConfig,
    Keys,
    Status { json: bool },
    Import(Box<import::Origin>),
    Help,
    Version,
}

struct Arguments {
    command: Command,
    config: Option<PathBuf>,
}

impl Arguments {
    fn parse(mut parser: lexopt::Parser) -> Result<Arguments, lexopt::Error> {
        let mut words = Vec::new();
        let mut options = Options::default();
        let mut config = None;
        while let Some(argument) = parser.next()? {
            match argument {
                Long("config") => config = Some(PathBuf::from(parser.value()?)),
                Long("allow-root") => options.allow_root = true,
                Long("json") => options.json = true,
                Long("from") => options.from = Some(database_url(&parser.value()?)?),
                Short('h') | Long("help") => options.instead = Some(Command::Help),
                Short('V') | Long("version") => options.instead = Some(Command::Version),
                Value(word) => words.push(word),
                other => return Err(other.unexpected()),
            }
        }
        let command = options.command(words)?;
        Ok(Arguments { command, config })
    }

    fn run(self) -> Result<(), String> {
        match &self.command {
            Command::Help => return print(HELP),
            Command::Version => {
                return print(concat!(
                    "session-file-server ",
                    env!("CARGO_PKG_VERSION"),
                    "\n"
                ));
            }
            _ => {}
        }
        let config = Config::load(self.config.as_deref())?;
        if !matches!(self.command, Command::CheckConfig) {
            output::start_logging(config.log_level);
        }
        match self.command {
            Command::Help | Command::Version => Ok(()),
            Command::CheckConfig => check_config(&config),
            Command::Keys => keys(&config),
            Command::InitDb => init_db(&config),
            Command::Status { json } => status(&config, json),
            Command::Import(from) => import::run(*from, &config),
            Command::Serve { allow_root } => {
                if !allow_root && is_root() {
                    return Err(
                        "will not serve as root: run it as a user of its own, or give \
                                --allow-root"
                            .into(),
                    );
                }
                return_large_buffers();
                serve::serve(config)
            }
        }
    }
}

/// The options of all commands, until it is known which command it is.
#[derive(Default)]
struct Options {
    allow_root: bool,
    json: bool,
    from: Option<Settings>,
    instead: Option<Command>,
}

impl Options {
    /// What the words on the command line ask for.
    fn command(mut self, words: Vec<OsString>) -> Result<Command, lexopt::Error> {
        if let Some(command) = self.instead {
            return Ok(command);
        }
        let mut words = words.into_iter();
        let name = words.next().unwrap_or_else(|| "serve".into());
        let command = match name.to_str() {
            Some("serve") => Command::Serve {
                allow_root: self.allow_root,
            },
            Some("init-db") => Command::InitDb,
            Some("check-config") => Command::CheckConfig,
            Some("keys") => Command::Keys,
            Some("status") => Command::Status {
                json: std::mem::take(&mut self.json),
            },
            Some("import") => Command::Import(Box::new(self.import(&mut words)?)),
            _ => return Err(format!("unknown command {name:?}").into()),
        };
        match (words.next(), self.json, self.from) {
            (Some(word), _, _) => Err(Value(word).unexpected()),
            (_, true, _) => Err("--json is for status alone".into()),
            (_, _, Some(_)) => Err("--from is for import pools and import database".into()),
            _ => Ok(command),
        }
    }

    fn import(
        &mut self,
        words: &mut impl Iterator<Item = OsString>,
    ) -> Result<import::Origin, lexopt::Error> {
        let kind = words.next().unwrap_or_default();
        let mut folder = || {
            let folder = words.next().map(PathBuf::from);
            folder.ok_or_else(|| lexopt::Error::from("import needs the older server's folder"))
        };
        let mut from = || {
            let from = self.from.take();
            from.ok_or_else(|| lexopt::Error::from("import needs --from DATABASE_URL"))
        };
        match kind.to_str() {
            Some("directory") => Ok(import::Origin::Directory(folder()?)),
            Some("pools") => Ok(import::Origin::Pools(folder()?, from()?)),
            Some("database") => Ok(import::Origin::Database(from()?)),
            _ => Err("import takes over a directory, pools or a database".into()),
        }
    }
}

/// Its error doesn't repeat it: it may hold a password.
fn database_url(value: &OsStr) -> Result<Settings, lexopt::Error> {
    let url = value.to_str().ok_or("--from is not UTF-8")?;
    Settings::parse(url).map_err(|error| format!("--from can't be read: {error}").into())
}

fn check_config(config: &Config) -> Result<(), String> {
    for warning in config.warnings() {
        output::complain(&format!("warning: {warning}"));
    }
    output::mention("the configuration is fine\n");
    Ok(())
}

fn keys(config: &Config) -> Result<(), String> {
    if !config.keys.ed25519.exists() {
        let path = config.keys.ed25519.display();
        return Err(format!(
            "there is no key in {path} yet; serve makes it when it first starts"
        ));
    }
    print(&Keys::load(&config.keys)?.describe())
}

fn init_db(config: &Config) -> Result<(), String> {
    let mut db = Database::new(config.database.clone()).connection();
    let leftovers = db.apply_schema();
    let leftovers = leftovers.map_err(|error| serve::explain(&error, config))?;
    let mut text = format!(
        "the database {} is ready\n",
        config.database.database_name()
    );
    if leftovers.checks > 0 {
        let checks = quantity::count(leftovers.checks, "version check");
        text += &format!("{checks} of the older server were copied\n");
    }
    if let Some(statement) = leftovers.removal() {
        text += &format!(
            "what else the older server has there is kept, so that you can go back to it; \
             when you won't:\n  {statement}\n"
        );
    }
    output::mention(&printable(&text));
    Ok(())
}

fn status(config: &Config, json: bool) -> Result<(), String> {
    let mut db = Database::new(config.database.clone()).connection();
    let status = db
        .check_schema()
        .and_then(|()| Status::gather(&mut db, config));
    let status = status.map_err(|error| serve::explain(&error, config))?;
    match json {
        true => print(&format!("{:#}\n", status.to_json())),
        false => print(&printable(&status.describe())),
    }
}

/// Files under /proc/self belong to the process's effective user.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The size from which glibc's malloc takes a buffer from the system, and gives it back
/// when it is freed, bytes. Files below it are most of the traffic and cost no system call.
const MMAP_THRESHOLD: (&str, usize) = ("MALLOC_MMAP_THRESHOLD_", buffer::LARGE);
/// Memory that malloc keeps apart for threads: what one part keeps, no other can use (seen:
/// 160 MB after eight heads without end, 80 MB with this).
const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "2");
/// What malloc keeps at the end of each part for the next buffer, bytes: with less, each
/// buffer of a megabyte costs the system hundreds of pages, a tenth of the throughput.
const TRIM_THRESHOLD: (&str, &str) = ("MALLOC_TRIM_THRESHOLD_", "8388608");

/// Keeps malloc from raising that size when it meets a larger buffer, as it does by itself
/// up to 32 MiB: then the buffers of large files stay with the process for ever (seen: 290 MB
/// after a burst of 10 MB files over all workers, 19 MB with this and a full cache). Only the
/// environment can say so without unsafe code, and only before the program starts: so it starts
/// once more, in its place.
fn return_large_buffers() {
    let (name, value) = MMAP_THRESHOLD;
    if std::env::var_os(name).is_some() {
        return;
    }
    let failed = std::env::current_exe().map(|program| {
        let mut again = std::process::Command::new(program);
        again
            .args(std::env::args_os().skip(1))
            .env(name, value.to_string())
            .env(TRIM_THRESHOLD.0, TRIM_THRESHOLD.1)
            .env(ARENAS.0, ARENAS.1)
            .exec()
    });
    // Without it the server needs more memory and is the same otherwise.
    log::debug!("not started once more: {failed:?}");
}
