//! The parser of the command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use lexopt::prelude::*;

use super::files::Action;
use super::import;
use crate::db::Settings;
use crate::protocol::file_id::FileId;

/// The output of `--help`.
pub const HELP_TEXT: &str = "\
Stores, hands out and expires the encrypted files of the Session messenger.

Usage: session-file-server [--config FILE] [--allow-root] [COMMAND]

Commands:
  serve          run the server (the default)
  init-db        create what is missing in the database, or upgrade an older layout;
                 safe to repeat
  check-config   read the config, report every mistake, exit 1 if there is one; warn of
                 what loses files; with --system say also what doesn't fit this machine
  keys           print the public keys, and the ending of the URLs that clients need
  health         ask the server that listens where the config says whether it is well:
                 exit 0 if it is
  status         files, bytes, oldest and next expiry, versions known and when checked,
                 database size, what each server has done
  import directory DIR
                 take over the oldest server's files, DIR/files/main_files/ID
  import pools DIR [--from DATABASE_URL] [--table NAME]
                 take over the storage pools in DIR that an older server's database knows
  import database [--from DATABASE_URL] [--table NAME]
                 take over the files in another database, or in another table
  files show ID...
                 size and times of files, and whether they are blocked
  files delete ID...
                 delete files at once, on every server of this database
  files block ID... [--reason TEXT]
                 the same, and refuse them from now on
  files unblock ID...
                 refuse them no more
  files blocked  list what is blocked

An ID is a file's id or a link to it; - reads them from standard input, one on each line.

Options:
  --config FILE  default: config.toml here, then /etc/session-file-server/config.toml;
                 without any, the defaults
  --allow-root   let serve run as root
  --from DATABASE_URL
                 the older server's database, written as database.url is; default: that
                 database
  --table NAME   the older server's table, written as in SQL; default: files
  --json         let status, files show and files blocked print JSON
  --system       let check-config look at the database's connections, at memory,
                 descriptors and disk space, and exit 1 if something doesn't fit
  --reason TEXT  why files block blocks, for files show and files blocked
  --rebuild-ids  let init-db sort the ids of files as bytes, while they are served: for
                 databases whose collation has changed with the operating system
  -h, --help     print this
  -V, --version  print the version

Exit status: 0 fine, 1 failed, 2 wrong usage.
";

/// The output of `--version`.
pub const VERSION_TEXT: &str = concat!("session-file-server ", env!("CARGO_PKG_VERSION"), "\n");

/// A command.
pub enum Command {
    /// `serve`: runs the server.
    Serve {
        /// `--allow-root`: run even as root.
        allow_root: bool,
    },
    /// `init-db`: prepares the database.
    InitDb {
        /// `--rebuild-ids`: sort the ids as bytes instead.
        rebuild_ids: bool,
    },
    /// `check-config`: checks the configuration.
    CheckConfig {
        /// `--system`: check also whether it fits the machine and the database.
        system: bool,
    },
    /// `keys`: prints the public keys.
    Keys,
    /// `health`: asks a running server how it is.
    Health,
    /// `status`: prints what the server stores and knows.
    Status {
        /// `--json`: print JSON instead of text.
        json: bool,
    },
    /// `files`: deals with reported files, which the words name.
    Files(Action, Vec<String>),
    /// `import`: takes over an older server's files.
    Import(Box<import::Origin>),
    /// `--help`: prints [`HELP_TEXT`].
    Help,
    /// `--version`: prints [`VERSION_TEXT`].
    Version,
}

/// The parsed command line.
pub struct Arguments {
    /// The command.
    pub command: Command,
    /// `--config`: the path of the configuration.
    pub config: Option<PathBuf>,
}

impl Arguments {
    /// Parses the command line.
    ///
    /// # Errors
    /// A description of the mistake.
    pub fn parse(mut parser: lexopt::Parser) -> Result<Arguments, lexopt::Error> {
        let mut words = Vec::new();
        let mut options = Options::default();
        let mut config = None;
        loop {
            if words.first().is_some_and(|word| word == "files") {
                words.extend(content_ids(&mut parser));
            }
            let Some(argument) = parser.next()? else {
                break;
            };
            match argument {
                Long("config") => config = Some(PathBuf::from(parser.value()?)),
                Long("allow-root") => options.allow_root = true,
                Long("json") => options.json = true,
                Long("system") => options.system = true,
                Long("rebuild-ids") => options.rebuild_ids = true,
                Long("reason") => options.reason = Some(reason(&parser.value()?)?),
                Long("from") => options.from = Some(database_url(&parser.value()?)?),
                Long("table") => options.table = Some(table_name(&parser.value()?)?),
                Short('h') | Long("help") => options.instead = Some(Command::Help),
                Short('V') | Long("version") => options.instead = Some(Command::Version),
                Value(word) => words.push(word),
                other => return Err(other.unexpected()),
            }
        }
        let command = options.command(words)?;
        Ok(Arguments { command, config })
    }
}

/// The options of all commands. Whether they fit the command is checked when it is known.
#[derive(Default)]
struct Options {
    allow_root: bool,
    json: bool,
    rebuild_ids: bool,
    system: bool,
    from: Option<Settings>,
    table: Option<String>,
    reason: Option<String>,
    instead: Option<Command>,
}

impl Options {
    /// The command that `words`, the arguments without options, name.
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
            Some("init-db") => Command::InitDb {
                rebuild_ids: std::mem::take(&mut self.rebuild_ids),
            },
            Some("check-config") => Command::CheckConfig {
                system: std::mem::take(&mut self.system),
            },
            Some("keys") => Command::Keys,
            Some("health") => Command::Health,
            Some("status") => Command::Status {
                json: std::mem::take(&mut self.json),
            },
            Some("files") => self.files(&mut words)?,
            Some("import") => Command::Import(Box::new(self.import(&mut words)?)),
            _ => return Err(format!("unknown command {name:?}").into()),
        };
        let is_left = self.from.is_some() || self.table.is_some();
        match (words.next(), self.json, is_left) {
            (Some(word), _, _) => Err(Value(word).unexpected()),
            (_, true, _) => Err("--json is for status, files show and files blocked".into()),
            _ if self.reason.is_some() => Err("--reason is for files block alone".into()),
            _ if self.system => Err("--system is for check-config alone".into()),
            _ if self.rebuild_ids => Err("--rebuild-ids is for init-db alone".into()),
            (_, _, true) => {
                Err("--from and --table are for import pools and import database".into())
            }
            _ => Ok(command),
        }
    }

    fn files(
        &mut self,
        words: &mut impl Iterator<Item = OsString>,
    ) -> Result<Command, lexopt::Error> {
        let action = match words.next().unwrap_or_default().to_str() {
            Some("show") => Action::Show {
                json: std::mem::take(&mut self.json),
            },
            Some("delete") => Action::Delete,
            Some("block") => Action::Block {
                reason: self.reason.take().filter(|reason| !reason.is_empty()),
            },
            Some("unblock") => Action::Unblock,
            Some("blocked") => Action::Blocked {
                json: std::mem::take(&mut self.json),
            },
            _ => return Err("files is followed by show, delete, block, unblock or blocked".into()),
        };
        if matches!(action, Action::Blocked { .. }) {
            return Ok(Command::Files(action, Vec::new()));
        }
        let ids: Vec<String> = words.map(|id| id.to_string_lossy().into_owned()).collect();
        if ids.is_empty() {
            return Err("files needs ids, links, or - for a list on standard input".into());
        }
        Ok(Command::Files(action, ids))
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
        let mut table = || import::OlderTable {
            database: self.from.take(),
            name: self.table.take(),
        };
        match kind.to_str() {
            Some("directory") => Ok(import::Origin::Directory(folder()?)),
            Some("pools") => Ok(import::Origin::Pools(folder()?, table())),
            Some("database") => match table() {
                import::OlderTable {
                    database: None,
                    name: None,
                } => Err("import database needs --from DATABASE_URL, --table NAME, or both".into()),
                table => Ok(import::Origin::Database(table)),
            },
            _ => Err("import takes over a directory, pools or a database".into()),
        }
    }
}

/// Takes the next arguments that are content ids or links to files that have one. One in 64 of
/// these ids begins with a hyphen, and must not be taken for an option; no option is that long.
fn content_ids(parser: &mut lexopt::Parser) -> Vec<OsString> {
    let is_content_id = |word: &OsStr| {
        let id = word.to_str().and_then(FileId::in_link);
        id.is_some_and(|id| id.is_content_id())
    };
    let mut ids = Vec::new();
    // There are no raw arguments while an option waits for its value.
    if let Some(mut arguments) = parser.try_raw_args() {
        ids.extend(std::iter::from_fn(|| arguments.next_if(is_content_id)));
    }
    ids
}

fn reason(value: &OsStr) -> Result<String, lexopt::Error> {
    Ok(value.to_str().ok_or("--reason is not UTF-8")?.to_string())
}

/// Parses the value of `--from`. The error doesn't repeat it, because it may hold a password.
fn database_url(value: &OsStr) -> Result<Settings, lexopt::Error> {
    let url = value.to_str().ok_or("--from is not UTF-8")?;
    Settings::parse(url).map_err(|error| format!("--from can't be read: {error}").into())
}

fn table_name(value: &OsStr) -> Result<String, lexopt::Error> {
    Ok(value.to_str().ok_or("--table is not UTF-8")?.to_string())
}
