//! The load generator: `cargo bench --bench load -- [OPTION…]`. See [`HELP`].

mod chart;
mod client;
#[path = "../../tests/common/mod.rs"]
mod common;
mod compare;
mod disk;
mod door;
mod floor;
mod growth;
mod limits;
mod mix;
mod peers;
mod process;
mod small;
mod table;
mod web;
mod work;

use std::error::Error;
use std::ffi::OsString;

use lexopt::{Arg, ValueExt};

use door::Door;

const HELP: &str = "\
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
    --only, --rounds, --seconds (1)
cargo bench --bench load -- mix [OPTION...]
    Avatars, pictures and files, as clients upload and fetch them.
    --clients N       connections (8)
    --rate N          an open loop: requests in a second, however long they take
    --seconds N       (20)
    --via DOOR        tcp, unix or nginx (tcp)
    --direct          plain HTTP instead of onion requests
    --reconnect       a connection for each request
    --set LINE        a line of config.toml; may be given again
cargo bench --bench load -- peers [--only TEXT] [--rounds N] [--seconds N] [--chart FILE]
    The server through nginx, beside a Python server through nginx and nginx's own files. Needs
    nginx, uwsgi-plugin-python3, python3-flask and python3-psycopg.
cargo bench --bench load -- limits [--rounds N] [--seconds N]
    The library that speaks HTTP and the ciphers of onion requests, each alone, beside the server.
cargo bench --bench load -- rows|connections [--seconds N]
    The same work in tables of 100 to 1,000,000 rows, and by 1 to 64 clients.
cargo bench --bench load -- days [--files N] [--only ours]
    Days on which a tenth of N files (5,000, of 100 KB) expire and as many come: the size of
    the table with PostgreSQL's settings for vacuuming it, and with those of schema.pgsql.
cargo bench --bench load -- disk [--files N] [--only TEXT]
    What N files (5,000, of 1 MB) that are stored and expire cost in WAL, writes and space, with
    several settings of PostgreSQL.
cargo bench --bench load -- small [--seconds N]
    Everything but the clients in one core and 512 MB, through nginx. For root, on a machine
    with control groups; as the package has it and with larger settings.
Each starts a PostgreSQL of its own, which waits for the disk, and the server.
";

/// What the command line asks for.
struct Asked {
    mode: String,
    only: String,
    chart: Option<OsString>,
    with: Option<String>,
    rounds: usize,
    seconds: Option<f64>,
    files: usize,
    mix: mix::Options,
}

/// Reads the command line; `None` if it asks for help.
fn arguments() -> Result<Option<Asked>, Box<dyn Error>> {
    let mix = mix::Options {
        clients: 8,
        seconds: 20.0,
        rate: None,
        via: Door::Tcp,
        direct: false,
        reconnects: false,
        settings: String::new(),
    };
    let mut asked = Asked {
        mode: "table".into(),
        only: String::new(),
        chart: None,
        with: None,
        rounds: 5,
        seconds: None,
        files: 5_000,
        mix,
    };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            // Cargo adds this option.
            Arg::Long("bench") => {}
            Arg::Value(value) => asked.mode = value.string()?,
            Arg::Long("only") => asked.only = arguments.value()?.string()?,
            Arg::Long("rounds") => asked.rounds = arguments.value()?.parse()?,
            Arg::Long("seconds") => asked.seconds = Some(arguments.value()?.parse()?),
            Arg::Long("chart") => asked.chart = Some(arguments.value()?),
            Arg::Long("with") => asked.with = Some(arguments.value()?.string()?),
            Arg::Long("files") => asked.files = arguments.value()?.parse()?,
            Arg::Long("clients") => asked.mix.clients = arguments.value()?.parse()?,
            Arg::Long("rate") => asked.mix.rate = Some(arguments.value()?.parse()?),
            Arg::Long("via") => asked.mix.via = arguments.value()?.parse()?,
            Arg::Long("direct") => asked.mix.direct = true,
            Arg::Long("reconnect") => asked.mix.reconnects = true,
            Arg::Long("set") => asked.mix.settings += &(arguments.value()?.string()? + "\n"),
            Arg::Long("help") => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(asked))
}

/// Measures the table, and draws it into a file if one is named.
fn table(asked: &Asked) -> Result<(), Box<dyn Error>> {
    let measured = table::measure(&asked.only, asked.rounds, asked.seconds.unwrap_or(2.0));
    println!("{}\n\n{}", process::machine(), table::describe(&measured));
    let Some(path) = &asked.chart else {
        return Ok(());
    };
    let memory = table::memory(10.0);
    println!(
        "resident memory: idle {:.1} MB, with files of 10 MB {:.0} MB, 30 s later {:.1} MB",
        memory.idle as f64 / 1e6,
        memory.busy as f64 / 1e6,
        memory.after as f64 / 1e6,
    );
    std::fs::write(path, chart::draw(&measured, &memory))?;
    Ok(())
}

/// Compares the server with its peers, and draws the table into a file if one is named.
fn peers(asked: &Asked) -> Result<(), Box<dyn Error>> {
    let seconds = asked.seconds.unwrap_or(2.0);
    let compared = peers::measure_all(&asked.only, asked.rounds, seconds);
    println!("{}\n\n{}", process::machine(), peers::table(&compared));
    if let Some(path) = &asked.chart {
        std::fs::write(path, chart::draw_peers(&compared))?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let Some(mut asked) = arguments()? else {
        print!("{HELP}");
        return Ok(());
    };
    let seconds = asked.seconds;
    match asked.mode.as_str() {
        "table" => table(&asked)?,
        "mix" => {
            asked.mix.seconds = seconds.unwrap_or(asked.mix.seconds);
            print!("{}", mix::run(&asked.mix));
        }
        "peers" => peers(&asked)?,
        "compare" => {
            let with = asked.with.ok_or("compare needs --with PROGRAM")?;
            let seconds = seconds.unwrap_or(1.0);
            let table = compare::run(&with, asked.mix.via, &asked.only, asked.rounds, seconds);
            print!("{}\n\n{table}", process::machine());
        }
        "rows" => print!("{}", growth::rows(seconds.unwrap_or(3.0))),
        "connections" => print!("{}", growth::connections(seconds.unwrap_or(2.0))),
        "small" => {
            let table = small::run(seconds.unwrap_or(20.0))?;
            println!("\n{table}");
        }
        "limits" => print!(
            "{}\n\n{}",
            process::machine(),
            limits::run(asked.rounds, seconds.unwrap_or(2.0))
        ),
        "disk" => print!("{}", disk::run(asked.files, &asked.only)),
        "days" => print!("{}", growth::days(asked.files, &asked.only)),
        other => return Err(format!("there is no {other}; see --help").into()),
    }
    Ok(())
}
