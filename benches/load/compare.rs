//! Another build of the server beside this one, on the same cluster and in the same minute: what a
//! change costs or saves. Processor time is compared, because it varies less than throughput.

use std::fmt::Write;

use crate::common::{Cluster, Database, Server};
use crate::door::{Door, Open};
use crate::process;
use crate::table::{DEFAULT_CACHE, ENCRYPTING, ROWS, Row, median, rounded};
use crate::work::{CLIENTS, Transport, closed_loop};

/// A build of the server, with a database of its own: each may know another schema.
struct Build {
    database: Database,
    /// Without a cache.
    plain: Behind,
    /// With the default cache.
    caching: Behind,
    onion: Transport,
}

/// A server and the way to it.
struct Behind {
    server: Server,
    door: Open,
}

/// What a build did of one kind of work in each round.
#[derive(Default)]
struct Did {
    /// Requests in a second.
    rates: Vec<f64>,
    /// The processor time per request, milliseconds.
    processor: Vec<f64>,
}

/// Measures the rows whose name contains `only`, for the program `other` and for this build, each
/// in `rounds` of that many seconds. The clients come through `door`. Returns the table as Markdown.
pub fn run(other: &str, door: Door, only: &str, rounds: usize, seconds: f64) -> String {
    let mut text = String::from(
        "| work | the other, /s | this, /s | the other, processor, ms | this, processor, ms | \
         this / the other |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let mut cluster = Cluster::durable();
    let builds = [
        // Of the arguments, the first is this build's program.
        Build::start(
            cluster.database(),
            door,
            &["sh", "-c", "shift; exec \"$0\" \"$@\"", other],
        ),
        Build::start(cluster.database(), door, &["env"]),
    ];
    for row in rows().filter(|row| row.name.contains(only)) {
        let [before, now] = measure(row, &builds, rounds, seconds);
        let ratios = now.processor.iter().zip(&before.processor);
        let ratio = median(ratios.map(|(now, before)| now / before).collect());
        let line = format!(
            "| {} | {} | {} | {:.3} | {:.3} | **{ratio:.2}** |",
            row.name,
            rounded(median(before.rates)),
            rounded(median(now.rates)),
            median(before.processor),
            median(now.processor),
        );
        eprintln!("{line}");
        let _ = writeln!(text, "{line}");
    }
    drop(builds);
    cluster.stop();
    text
}

/// The rows that two builds are compared by.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().chain(ENCRYPTING)
}

impl Build {
    /// Starts the program to which that wrapper leads.
    fn start(database: Database, door: Door, wrapper: &[&str]) -> Build {
        let start = |cache| {
            let settings = format!("{cache}\n{}", door.settings());
            let started = Server::within(&database, &settings, wrapper);
            let server = started.unwrap_or_else(|log| panic!("the server did not start: {log}"));
            let door = door.open(&server);
            Behind { server, door }
        };
        let plain = start("files.cache_size = 0");
        Build {
            onion: Transport::Onion(process::x25519_key(&plain.server)),
            caching: start(DEFAULT_CACHE),
            plain,
            database,
        }
    }
}

fn measure(row: &Row, builds: &[Build; 2], rounds: usize, seconds: f64) -> [Did; 2] {
    let ids = [&builds[0], &builds[1]].map(|build| row.fill(&build.plain.server, &build.onion));
    let mut did = [Did::default(), Did::default()];
    for round in 0..rounds {
        // Who comes first changes from round to round.
        for number in [round % 2, 1 - round % 2] {
            let build = &builds[number];
            let Behind { server, door } = row.server(&build.plain, &build.caching);
            let before = process::processor_time(server.pid());
            let outcome = closed_loop(CLIENTS, seconds, |client| {
                row.step(&door.address, &build.onion, &ids[number], client)
            });
            let used = process::processor_time(server.pid()) - before;
            if row.is_upload() {
                build.database.execute("TRUNCATE files; CHECKPOINT");
            }
            did[number].rates.push(outcome.rate());
            did[number].processor.push(outcome.share_of(used));
            assert_eq!(outcome.errors, 0, "{}: requests failed", row.name);
        }
    }
    did
}
