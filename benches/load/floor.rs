//! What the database alone does for somebody who asks it plainly: one statement for each file,
//! in a loop, without HTTP.

use std::io;
use std::io::Write;
use std::process::Command;
use std::time::SystemTime;

use postgres::{Client, NoTls, Statement};

use crate::common::{Database, bytes, tool};
use crate::work::{CLIENTS, Outcome, Random, Step, closed_loop, stamp};

/// Fetches a file as one value; the server fetches it in pieces.
const SELECT: &str = "SELECT data, expiry FROM files WHERE id = $1 AND expiry > now()";

/// Stores a file.
const INSERT: &str = "INSERT INTO files (id, data, expiry) \
     VALUES ($1, $2, now() + interval '1 day') RETURNING length(data), uploaded, expiry";

/// Fetches files of those ids by the `postgres` crate, the driver that the server has, and the first
/// of them by pgbench, which has libpq. Returns the outcome of the faster one. pgbench gets bytes as
/// hexadecimal digits, so that with large files it is the slower one.
pub fn get(database: &Database, ids: &[String], seconds: f64) -> Outcome {
    let by_driver = closed_loop(CLIENTS, seconds, |number| {
        let (mut client, statement) = connect(database, SELECT);
        let mut random = Random::new(number);
        Box::new(move || {
            let row = client.query_one(&statement, &[&ids[random.below(ids.len())]]);
            let row = row.map_err(io::Error::other)?;
            let _: (&[u8], SystemTime) = (row.get(0), row.get(1));
            Ok(())
        })
    });
    match pgbench(database, &ids[0], seconds) {
        Some(by_libpq) if by_libpq.rate() > by_driver.rate() => by_libpq,
        _ => by_driver,
    }
}

/// Stores files of that size, each with other bytes.
pub fn post(database: &Database, size: usize, seconds: f64) -> Outcome {
    closed_loop(CLIENTS, seconds, |number| insert(database, size, number))
}

fn insert<'a>(database: &Database, size: usize, number: usize) -> Step<'a> {
    let (mut client, statement) = connect(database, INSERT);
    let mut content = bytes(number as u64, size);
    let mut count = 0u32;
    Box::new(move || {
        count += 1;
        stamp(&mut content, number, count);
        let id = format!("floor-{number}-{count}");
        let stored = client.query_one(&statement, &[&id, &content]);
        stored.map(drop).map_err(io::Error::other)
    })
}

fn connect(database: &Database, sql: &str) -> (Client, Statement) {
    let mut client = Client::connect(&database.url, NoTls).expect("PostgreSQL runs");
    let statement = client.prepare(sql).expect("valid SQL");
    (client, statement)
}

/// Fetches a file by pgbench. `None` where pgbench is not installed.
fn pgbench(database: &Database, id: &str, seconds: f64) -> Option<Outcome> {
    let mut script = tempfile::NamedTempFile::new().ok()?;
    writeln!(script, "{}", SELECT.replace("$1", &format!("'{id}'"))).ok()?;
    let clients = CLIENTS.to_string();
    let seconds = seconds.ceil();
    let output = Command::new(tool("pgbench"))
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--client"])
        .args([&clients, "--time", &seconds.to_string(), "--file"])
        .arg(script.path())
        .arg("--host")
        .arg(&database.host)
        .args(["--username=tester", &database.name])
        .output()
        .ok()?;
    let output = String::from_utf8(output.stdout).ok()?;
    let rate = output
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))?;
    let rate: f64 = rate.split(' ').next()?.parse().ok()?;
    Some(Outcome {
        done: (rate * seconds) as usize,
        elapsed: std::time::Duration::from_secs_f64(seconds),
        ..Outcome::default()
    })
}
