//! The command line of the load generator.

use std::error::Error;
use std::ffi::OsString;
use std::str::FromStr;

use lexopt::{Arg, Parser, ValueExt};

use crate::door::Door;

/// What `--help` prints.
pub const HELP: &str = "\
cargo bench --bench load -- [table] [OPTION...]
    What the server does of each kind of work, beside what the database alone does.
    --only TEXT       only rows whose name contains this
    --rounds N        rounds of which the median counts (5)
    --seconds N       of each measurement (2)
    --chart FILE      also measure the memory, and draw both
cargo bench --bench load -- compare --with PROGRAM [OPTION...]
    Another build of the server beside this one: what they do of the table's work and of uploads
    by onion requests, in turn, and the processor time that a request costs the server.
    --via DOOR        tcp, unix or nginx (tcp)
    --only TEXT, --rounds N (5), --seconds N (1)
cargo bench --bench load -- mix [OPTION...]
    Avatars, pictures and files, as clients upload and fetch them.
    --clients N       connections (8)
    --rate N          an open loop: requests in a second, however long they take
    --seconds N       (20)
    --via DOOR        tcp, unix or nginx (tcp)
    --direct          plain HTTP instead of onion requests
    --reconnect       a connection for each request
    --set LINE        a line of config.toml, 'KEY = VALUE' with spaces; may be given again
cargo bench --bench load -- peers [--only TEXT] [--rounds N] [--seconds N] [--chart FILE]
    The server through nginx, beside a sample in Python through nginx and nginx's own files: in 5
    rounds of 2 seconds. Needs uwsgi-plugin-python3, python3-flask and python3-psycopg.
cargo bench --bench load -- limits [--rounds N] [--seconds N]
    The library that speaks HTTP and the ciphers of onion requests, each alone, beside the server:
    in 5 rounds of 2 seconds, the ciphers of 1 at most.
cargo bench --bench load -- rows [--seconds N]
    GET and POST of 1 KB in tables of 100 to 1,000,000 rows, for 3 seconds each.
cargo bench --bench load -- connections [--seconds N]
    GET of 1 KB and of 1 MB by 1 to 64 clients, for 2 seconds each.
cargo bench --bench load -- days [--files N] [--only ours]
    Days on which a tenth of N files (5,000, of 100 KB) expire and as many come: the size of
    the table with PostgreSQL's settings for vacuuming it, and with those of schema.pgsql.
cargo bench --bench load -- disk [--files N] [--only TEXT]
    What N files (4,800, of 1 MB; a multiple of 400) that are stored and expire cost in WAL, writes
    and space, with several settings of PostgreSQL.
cargo bench --bench load -- small [--seconds N]
    Everything but the clients in one core and 512 MB, through nginx, for 20 seconds each. For
    root, on a machine with control groups; as the package has it and with larger settings.
Each starts a PostgreSQL of its own, which waits for the disk, and all but disk the server. What goes
through nginx needs nginx.
";

/// The modes, each with the options that it has.
const MODES: &[(&str, &[&str])] = &[
    ("table", &["only", "rounds", "seconds", "chart"]),
    ("compare", &["with", "via", "only", "rounds", "seconds"]),
    (
        "mix",
        &[
            "clients",
            "rate",
            "seconds",
            "via",
            "direct",
            "reconnect",
            "set",
        ],
    ),
    ("peers", &["only", "rounds", "seconds", "chart"]),
    ("limits", &["rounds", "seconds"]),
    ("rows", &["seconds"]),
    ("connections", &["seconds"]),
    ("days", &["files", "only"]),
    ("disk", &["files", "only"]),
    ("small", &["seconds"]),
];

/// What the command line asks for, with the defaults of what it doesn't name.
pub struct Asked {
    pub mode: String,
    /// A part of the names of the rows that are wanted.
    pub only: String,
    /// The file to draw into.
    pub chart: Option<OsString>,
    /// The other build.
    pub with: Option<String>,
    pub via: Door,
    pub rounds: usize,
    pub seconds: Option<f64>,
    pub files: Option<usize>,
    pub clients: usize,
    /// Requests in a second.
    pub rate: Option<f64>,
    pub direct: bool,
    pub reconnects: bool,
    /// Further settings of the server, TOML.
    pub settings: String,
}

/// Reads the command line; `None` if it asks for help.
///
/// # Errors
/// The mistake.
pub fn read() -> Result<Option<Asked>, Box<dyn Error>> {
    let mut asked = Asked {
        mode: "table".into(),
        only: String::new(),
        chart: None,
        with: None,
        via: Door::Tcp,
        rounds: 5,
        seconds: None,
        files: None,
        clients: 8,
        rate: None,
        direct: false,
        reconnects: false,
        settings: String::new(),
    };
    let (mut given, mut modes) = (Vec::new(), Vec::new());
    let mut parser = Parser::from_env();
    while let Some(argument) = parser.next()? {
        let name = match argument {
            // Cargo adds this option.
            Arg::Long("bench") => continue,
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Value(value) => {
                modes.push(value.string()?);
                continue;
            }
            Arg::Long(name) => name.to_string(),
            other => return Err(other.unexpected().into()),
        };
        asked.take(&name, &mut parser)?;
        given.push(name);
    }
    if modes.len() > 1 {
        return Err("there are two modes; see --help".into());
    }
    asked.mode = modes.pop().unwrap_or(asked.mode);
    let mode = MODES.iter().find(|(mode, _)| *mode == asked.mode);
    let (mode, options) = mode.ok_or_else(|| format!("there is no {}; see --help", asked.mode))?;
    match given.iter().find(|name| !options.contains(&name.as_str())) {
        Some(name) => Err(format!("{mode} has no --{name}; see --help").into()),
        None => Ok(Some(asked)),
    }
}

impl Asked {
    /// Takes the option of that name, with its value.
    fn take(&mut self, name: &str, parser: &mut Parser) -> Result<(), Box<dyn Error>> {
        match name {
            "only" => self.only = parser.value()?.string()?,
            "chart" => self.chart = Some(parser.value()?),
            "with" => self.with = Some(program(&parser.value()?)?),
            "via" => self.via = parser.value()?.parse()?,
            "rounds" => self.rounds = positive(name, parser)?,
            "seconds" => self.seconds = Some(positive(name, parser)?),
            "files" => self.files = Some(positive(name, parser)?),
            "clients" => self.clients = positive(name, parser)?,
            "rate" => self.rate = Some(positive(name, parser)?),
            "direct" => self.direct = true,
            "reconnect" => self.reconnects = true,
            "set" => self.settings += &(parser.value()?.string()? + "\n"),
            other => return Err(format!("there is no --{other}; see --help").into()),
        }
        Ok(())
    }
}

/// The path of a program, by which it is found from any folder.
fn program(path: &OsString) -> Result<String, Box<dyn Error>> {
    let named = |error| format!("--with {}: {error}", path.to_string_lossy());
    let whole = std::fs::canonicalize(path).map_err(named)?;
    Ok(whole.to_str().ok_or("--with: not UTF-8")?.to_string())
}

/// An option's number, which must be finite and above 0.
fn positive<N>(name: &str, parser: &mut Parser) -> Result<N, Box<dyn Error>>
where
    N: FromStr + Copy + PartialOrd + From<u8> + ToString,
    N::Err: Error + Send + Sync + 'static,
{
    let number: N = parser.value()?.parse()?;
    if number > N::from(0) && number.to_string() != "inf" {
        Ok(number)
    } else {
        Err(format!("--{name}: must be a number above 0").into())
    }
}
