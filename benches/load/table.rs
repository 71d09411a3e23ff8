//! The table: the server's throughput for each kind of work, beside that of the database alone,
//! measured in the same minute; and the server's memory.

use std::fmt::Write;
use std::time::Duration;

use crate::client::Client;
use crate::common::{Cluster, Database, Server, bytes};
use crate::work::{
    CLIENTS, Outcome, Prepared, Random, Step, Transport, closed_loop, id_of, stamp, uploads,
};
use crate::{floor, process};

/// The setting for the default cache, because servers of the test fixture have none.
pub const DEFAULT_CACHE: &str = "files.cache_size = 16_000_000";

/// A row of the table.
pub struct Row {
    pub name: &'static str,
    work: Work,
    /// The size of the files, bytes.
    size: usize,
    /// The ratio for the Python server, measured before this server was written.
    pub original: f64,
    /// The ratio that this server should reach.
    target: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Work {
    Get,
    OnionGet,
    Cached,
    Post,
    OnionPost,
}

const fn row(name: &'static str, work: Work, size: usize, original: f64, target: f64) -> Row {
    Row {
        name,
        work,
        size,
        original,
        target,
    }
}

/// Bytes of a kilobyte.
const KB: usize = 1000;
/// Bytes of a megabyte.
const MB: usize = 1_000_000;

/// The rows of the table, each with its ratios for the Python server and for this one.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row("GET 1 KB",               Work::Get,      KB,      0.07, 0.25),
    row("GET 1 MB",               Work::Get,      MB,      0.57, 0.75),
    row("GET 10 MB",              Work::Get,      10 * MB, 0.37, 0.6),
    row("GET 1 MB, cached",       Work::Cached,   MB,      0.5,  1.5),
    row("onion GET 1 KB",         Work::OnionGet, KB,      0.04, 0.12),
    row("onion GET 1 MB",         Work::OnionGet, MB,      0.4,  0.55),
    row("onion GET 10 MB",        Work::OnionGet, 10 * MB, 0.2,  0.35),
    row("POST 1 KB",              Work::Post,     KB,      0.19, 0.7),
    row("POST 1 MB",              Work::Post,     MB,      0.72, 0.9),
    row("POST 10 MB",             Work::Post,     10 * MB, 0.9,  0.9),
];

/// Rows of which the server's processor time says something, but not the throughput: the clients
/// encrypt each upload before they send it. They have no ratios.
pub const ENCRYPTING: &[Row] = &[
    row("onion POST 1 KB", Work::OnionPost, KB, 0.0, 0.0),
    row("onion POST 1 MB", Work::OnionPost, MB, 0.0, 0.0),
    row("onion POST 10 MB", Work::OnionPost, 10 * MB, 0.0, 0.0),
];

impl Row {
    /// The row's server, of one without a cache and one with it.
    pub fn server<'a, S>(&self, plain: &'a S, caching: &'a S) -> &'a S {
        match self.work {
            Work::Cached => caching,
            _ => plain,
        }
    }

    /// Whether the row stores files.
    pub fn is_upload(&self) -> bool {
        matches!(self.work, Work::Post | Work::OnionPost)
    }

    /// Stores between 1 and 80 MB in files of the row's size, if it fetches any, and fetches one of
    /// them by the row's kind of request, both at the server itself. Returns their ids.
    pub fn fill(&self, server: &Server, onion: &Transport) -> Vec<String> {
        if self.is_upload() {
            return Vec::new();
        }
        let (size, mut client) = (self.size, Client::new(&server.address, false));
        let count = (40 * MB / size).clamp(8, 1000);
        let content = |number: usize| bytes((size + number) as u64, size);
        let ids: Vec<String> = (0..count)
            .map(|number| {
                let answer = Transport::Direct.post(&content(number)).fetch(&mut client);
                id_of(&answer.expect("stored"))
            })
            .collect();
        let first = self.request(onion, &ids[0]).fetch(&mut client);
        assert!(first.expect("a file") == content(0), "another file");
        ids
    }

    /// The request for the file with that id.
    fn request(&self, onion: &Transport, id: &str) -> Prepared {
        let transport = match self.work {
            Work::OnionGet => onion,
            _ => &Transport::Direct,
        };
        transport.get(&format!("/file/{id}"))
    }

    /// One client's way to do the work of the row at the server's `address`; `onion` is its transport.
    pub fn step<'a>(
        &self,
        address: &str,
        onion: &Transport,
        ids: &[String],
        number: usize,
    ) -> Step<'a> {
        let (size, mut client) = (self.size, Client::new(address, false));
        let mut random = Random::new(number);
        if self.work == Work::Post {
            return uploads(address, size, number);
        }
        if self.work == Work::OnionPost {
            let (onion, mut content) = (onion.clone(), bytes(number as u64, size));
            let mut count = 0;
            return Box::new(move || {
                count += 1;
                stamp(&mut content, number, count);
                onion.post(&content).fetch(&mut client).map(drop)
            });
        }
        // All clients fetch the same file, so that it comes from the cache.
        let ids = if self.work == Work::Cached {
            &ids[..1]
        } else {
            ids
        };
        let requests: Vec<Prepared> = (0..ids.len().max(32))
            .map(|index| self.request(onion, &ids[index % ids.len()]))
            .collect();
        Box::new(move || requests[random.below(requests.len())].send(&mut client, size))
    }
}

/// The measurements of a row.
pub struct Measured {
    pub row: &'static Row,
    /// The rate of the database alone in each round, files per second.
    floor: Vec<f64>,
    /// The rate of the server in each round, files per second.
    rates: Vec<f64>,
    /// The outcome of all rounds together.
    total: Outcome,
    /// The server's processor time per request, milliseconds.
    processor: f64,
}

impl Measured {
    /// The median of the rounds' ratios.
    pub fn ratio(&self) -> f64 {
        let ratios = self.rates.iter().zip(&self.floor);
        median(ratios.map(|(rate, floor)| rate / floor).collect())
    }
}

/// The servers and their database.
struct Bench {
    cluster: Cluster,
    database: Database,
    /// The server without a cache.
    plain: Server,
    /// The server with the default cache.
    caching: Server,
    transport: Transport,
}

/// Measures the rows whose name contains `only`, each in `rounds` of that many seconds.
pub fn measure(only: &str, rounds: usize, seconds: f64) -> Vec<Measured> {
    let bench = Bench::start();
    let rows = ROWS.iter().filter(|row| row.name.contains(only));
    let measured = rows.map(|row| {
        let measured = bench.measure(row, rounds, seconds);
        eprintln!(
            "{:<24} {:.2} (aim: {})",
            row.name,
            measured.ratio(),
            row.target
        );
        measured
    });
    measured.collect()
}

impl Bench {
    fn start() -> Bench {
        let cluster = Cluster::durable();
        let database = cluster.database();
        let plain = Server::with(&database, "files.cache_size = 0");
        let caching = Server::with(&database, DEFAULT_CACHE);
        let transport = Transport::Onion(process::x25519_key(&plain));
        Bench {
            cluster,
            database,
            plain,
            caching,
            transport,
        }
    }

    fn measure(&self, row: &'static Row, rounds: usize, seconds: f64) -> Measured {
        let ids = row.fill(&self.plain, &self.transport);
        let mut measured = Measured {
            row,
            floor: Vec::new(),
            rates: Vec::new(),
            total: Outcome::default(),
            processor: 0.0,
        };
        let server = row.server(&self.plain, &self.caching);
        let before = process::processor_time(server.pid());
        for _ in 0..rounds {
            let floor = if row.is_upload() {
                floor::post(&self.database, row.size, seconds)
            } else {
                floor::get(&self.database, &ids, seconds)
            };
            self.empty_if(row.is_upload());
            let outcome = closed_loop(CLIENTS, seconds, |number| {
                row.step(&server.address, &self.transport, &ids, number)
            });
            self.empty_if(row.is_upload());
            measured.floor.push(floor.rate());
            measured.rates.push(outcome.rate());
            measured.total.add(outcome);
        }
        let used = process::processor_time(server.pid()) - before;
        measured.processor = measured.total.share_of(used);
        measured
    }

    fn empty_if(&self, condition: bool) {
        if condition {
            self.database.execute("TRUNCATE files; CHECKPOINT");
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.cluster.stop();
    }
}

/// The resident memory of the server, bytes.
pub struct Memory {
    /// The memory after the start, when each worker has answered a request.
    pub idle: u64,
    /// The maximum while half of the clients upload files of 10 MB and half download them.
    pub busy: u64,
    /// The memory 30 seconds after that.
    pub after: u64,
}

/// Measures the memory of a server with its default settings.
pub fn memory(seconds: f64) -> Memory {
    let mut cluster = Cluster::durable();
    let database = cluster.database();
    let server = Server::with(&database, DEFAULT_CACHE);
    let address = server.address.clone();
    let path = "/file/none";
    closed_loop(8, 1.0, |_| {
        let mut client = Client::new(&address, false);
        let request = Transport::Direct.get(path);
        Box::new(move || request.fetch(&mut client).map(drop))
    });
    std::thread::sleep(Duration::from_secs(12));
    let idle = server.memory();
    let size = 10 * MB;
    let id = server.upload(&bytes(1, size));
    closed_loop(CLIENTS, seconds, |number| {
        if number % 2 == 1 {
            return uploads(&address, size, number);
        }
        let mut client = Client::new(&address, false);
        let request = Transport::Direct.get(&format!("/file/{id}"));
        Box::new(move || request.send(&mut client, size))
    });
    let busy = process::most_memory(server.pid());
    std::thread::sleep(Duration::from_secs(30));
    let memory = Memory {
        idle,
        busy,
        after: server.memory(),
    };
    drop(server);
    cluster.stop();
    memory
}

/// The table as Markdown.
pub fn describe(measured: &[Measured]) -> String {
    let mut table = String::from(
        "| work | database alone, /s | this server, /s | ratio | Python server | \
         p50, ms | p99, ms | p99.9, ms | processor, ms |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for row in measured {
        let errors = match row.total.errors {
            0 => String::new(),
            count => format!(" ({count} errors)"),
        };
        let total = &row.total;
        let _ = writeln!(
            table,
            "| {} | {} | {}{errors} | **{:.2}** | {:.2} | {:.2} | {:.2} | {:.2} | {:.3} |",
            row.row.name,
            rounded(median(row.floor.clone())),
            rounded(median(row.rates.clone())),
            row.ratio(),
            row.row.original,
            total.percentile(0.5),
            total.percentile(0.99),
            total.percentile(0.999),
            row.processor,
        );
    }
    table
}

/// Formats a rate with three digits.
pub fn rounded(rate: f64) -> String {
    if rate < 100.0 {
        return format!("{rate:.1}");
    }
    let unit = 10f64.powf(rate.log10().floor() - 2.0);
    format!("{}", ((rate / unit).round() * unit) as u64)
}

/// The median; not a number if there are none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => f64::NAN,
        (count, half) if count % 2 == 0 => (values[half - 1] + values[half]) / 2.0,
        (_, half) => values[half],
    }
}
