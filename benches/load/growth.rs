//! The growth of cost with the number of rows, with connections, and over days on which files come
//! and expire.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postgres::types::ToSql;

use crate::client::Client;
use crate::common::{Cluster, Database, Server, bytes, eventually};
use crate::work::{
    CLIENTS, Outcome, Prepared, Random, Step, Transport, closed_loop, id_of, uploads,
};

/// The settings of a server without a cache, which deletes expired files every second.
const NO_CACHE: &str = "files.cache_size = 0\nfiles.cleanup_interval = '1 s'";
/// Bytes of a kilobyte.
const KB: usize = 1000;
/// Fills the table with files that nobody asks for. They are small, so that a million fit the disk.
const FILLER: &str = "INSERT INTO files (id, data, expiry) \
     SELECT 'filler-' || n, decode(repeat('07', 300), 'hex'), now() + n * interval '1 s' \
     FROM generate_series($1::int8 + 1, $2) n";

/// Removes the files of clients but for those.
const REMOVE_UPLOADS: &str =
    "DELETE FROM files WHERE NOT (id LIKE 'filler-%' OR id = ANY ($1::text[]))";

/// Measures GET and POST of 1 KB in tables of 100 to 1,000,000 rows.
pub fn rows(seconds: f64) -> String {
    let mut text = String::from("| rows | GET 1 KB, /s | p99, ms | POST 1 KB, /s | p99, ms |\n");
    text += "| ---: | ---: | ---: | ---: | ---: |\n";
    let mut cluster = Cluster::durable();
    let database = cluster.database();
    let server = Server::with(&database, NO_CACHE);
    let ids = fill(&server, 100, KB);
    let mut there = 0i64;
    for wanted in [0, 10_000, 1_000_000] {
        let mut client = database.client();
        client.execute(FILLER, &[&there, &wanted]).expect("filled");
        client
            .batch_execute("ANALYZE files; CHECKPOINT")
            .expect("analyzed");
        there = wanted;
        let get = closed_loop(CLIENTS, seconds, |number| getter(&server, &ids, KB, number));
        let post = closed_loop(CLIENTS, seconds, |number| {
            uploads(&server.address, KB, number)
        });
        client.execute(REMOVE_UPLOADS, &[&ids]).expect("removed");
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.2} | {:.0} | {:.2} |",
            wanted.max(100),
            get.rate(),
            get.percentile(0.99),
            post.rate(),
            post.percentile(0.99),
        );
    }
    drop(server);
    cluster.stop();
    text
}

/// Measures GET of 1 KB and of 1 MB by 1 to 64 clients.
pub fn connections(seconds: f64) -> String {
    let mut text = String::from("| clients | GET 1 KB, /s | p99, ms | GET 1 MB, /s | p99, ms |\n");
    text += "| ---: | ---: | ---: | ---: | ---: |\n";
    let mut cluster = Cluster::durable();
    let database = cluster.database();
    let server = Server::with(&database, NO_CACHE);
    let small = fill(&server, 100, KB);
    let large = fill(&server, 20, 1000 * KB);
    for clients in [1, 2, 4, 8, 16, 32, 64] {
        let get = |ids: &[String], size| {
            closed_loop(clients, seconds, |number| {
                getter(&server, ids, size, number)
            })
        };
        let (small, large) = (get(&small, KB), get(&large, 1000 * KB));
        let _ = writeln!(
            text,
            "| {clients} | {:.0} | {:.2} | {:.0} | {:.2} |",
            small.rate(),
            small.percentile(0.99),
            large.rate(),
            large.percentile(0.99),
        );
    }
    drop(server);
    cluster.stop();
    text
}

/// Simulates days on which a tenth of the files expire and as many are uploaded. Measures the size
/// of the table and the latency of clients, with PostgreSQL's own settings for vacuuming the table
/// and with ours.
pub fn days(files: usize, only: &str) -> String {
    let mut text = String::from(
        "| vacuuming | files | at first, MB | at most, MB | at last, MB | GET 1 KB p99, ms: quiet | while files expire |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for ours in [false, true] {
        if !settings(ours).contains(only) {
            continue;
        }
        let mut cluster = Cluster::durable();
        let database = cluster.database();
        text += &live(&database, files, ours);
        cluster.stop();
    }
    text
}

/// Whose settings for vacuuming the table.
pub fn settings(ours: bool) -> &'static str {
    if ours { "ours" } else { "PostgreSQL's" }
}

/// The size of the files that come and go.
const SIZE: usize = 100 * KB;
/// How many days pass.
const DAYS: usize = 6;

fn live(database: &Database, files: usize, ours: bool) -> String {
    let server = Server::with(database, NO_CACHE);
    if !ours {
        database.execute(
            "ALTER TABLE files RESET (autovacuum_vacuum_scale_factor, \
             toast.autovacuum_vacuum_scale_factor)",
        );
    }
    // Autovacuum looks every second, because a day of the simulation takes only seconds.
    database.execute("ALTER SYSTEM SET autovacuum_naptime = '1 s'");
    database.execute("SELECT pg_reload_conf()");
    let kept = fill(&server, 10, KB);
    (0..10).for_each(|day| bring(database, day, files / 10));
    let megabytes = || database.number("SELECT pg_total_relation_size('files')") / 1_000_000;
    let first = megabytes();
    let quiet = closed_loop(2, 5.0, |number| getter(&server, &kept, KB, number));
    let (mut most, mut busy) = (first, Outcome::default());
    for day in 10..10 + DAYS {
        busy.add(expire(database, &server, day - 10, &kept));
        settle(database);
        bring(database, day, files / 10);
        let size = megabytes();
        eprintln!("day {} of {DAYS}: {size} MB", day - 9);
        most = most.max(size);
    }
    format!(
        "| {} | {files} of {} KB | {first} | {most} | {} | {:.2} | {:.2} |\n",
        settings(ours),
        SIZE / KB,
        megabytes(),
        quiet.percentile(0.99),
        busy.percentile(0.99),
    )
}

/// The files that come on a day.
fn bring(database: &Database, day: usize, count: usize) {
    let statement = "INSERT INTO files (id, data, expiry) \
         SELECT 'day-' || $1::int8 || '-' || n, decode(repeat('07', $2), 'hex'), 'infinity' \
         FROM generate_series(1, $3::int8) n";
    let parameters: [&(dyn ToSql + Sync); 3] = [&(day as i64), &(SIZE as i32), &(count as i64)];
    let brought = database.client().execute(statement, &parameters);
    brought.expect("stored");
}

/// Lets the files of a day expire, while clients ask for those that are kept. Returns the outcome
/// of these clients.
fn expire(database: &Database, server: &Server, day: usize, kept: &[String]) -> Outcome {
    database.execute(&format!(
        "UPDATE files SET expiry = now() WHERE id LIKE 'day-{day}-%'"
    ));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut outcome = Outcome::default();
            while !over.load(Ordering::Relaxed) {
                let get = |number| getter(server, kept, KB, number);
                outcome.add(closed_loop(2, 0.2, get));
            }
            outcome
        });
        eventually("they are deleted", || {
            database.number("SELECT count(*) FROM files WHERE expiry <= now()") == 0
        });
        over.store(true, Ordering::Relaxed);
        asking.join().expect("no panic")
    })
}

/// Waits until autovacuum has had time to start, and has finished.
fn settle(database: &Database) {
    let started = Instant::now();
    let busy = "SELECT count(*) FROM pg_stat_progress_vacuum";
    while started.elapsed() < Duration::from_secs(4) || database.number(busy) > 0 {
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn fill(server: &Server, count: usize, size: usize) -> Vec<String> {
    let mut client = Client::new(&server.address, false);
    (0..count)
        .map(|number| {
            let content = bytes((size + number) as u64, size);
            id_of(
                &Transport::Direct
                    .post(&content)
                    .fetch(&mut client)
                    .expect("stored"),
            )
        })
        .collect()
}

fn getter<'a>(server: &Server, ids: &[String], size: usize, number: usize) -> Step<'a> {
    let mut client = Client::new(&server.address, false);
    let mut random = Random::new(number);
    let requests: Vec<Prepared> = ids
        .iter()
        .map(|id| Transport::Direct.get(&format!("/file/{id}")))
        .collect();
    Box::new(move || requests[random.below(requests.len())].send(&mut client, size))
}
