//! Work as clients bring it: avatars, pictures and files, each uploaded once and fetched by
//! one to a hundred recipients.

use std::io;
use std::sync::Mutex;

use crate::arguments::Asked;
use crate::client::Client;
use crate::common::{Cluster, Server, bytes};
use crate::process;
use crate::table::DEFAULT_CACHE;
use crate::work::{Random, Step, Transport, closed_loop, id_of, open_loop, stamp};

/// The number of avatars in a hundred uploads.
const AVATARS: usize = 70;
/// The number of pictures in a hundred uploads. The rest are files.
const PICTURES: usize = 27;

/// The number of uploads with recipients to come, below which clients upload further ones.
const MIN_WANTED: usize = 16;

/// An uploaded file that further recipients will fetch.
pub struct Wanted {
    id: String,
    size: usize,
    /// The number of recipients to come.
    recipients: usize,
}

/// Runs the mix as it was asked for, and returns the result as a line of text.
pub fn run(asked: &Asked, seconds: f64) -> String {
    let mut cluster = Cluster::durable();
    let database = cluster.database();
    let mut settings = asked.settings.clone();
    if !settings.contains("files.cache_size") {
        settings += DEFAULT_CACHE;
    }
    settings += "\n";
    settings += asked.via.settings();
    let server = Server::with(&database, &settings);
    let door = asked.via.open(&server);
    let transport = if asked.direct {
        Transport::Direct
    } else {
        Transport::Onion(process::x25519_key(&server))
    };
    let wanted = Mutex::new(Vec::new());
    let before = process::processor_time(server.pid());
    let client = |number| {
        step(
            Client::new(&door.address, asked.reconnects),
            &transport,
            &wanted,
            number,
        )
    };
    let outcome = match asked.rate {
        Some(rate) => open_loop(asked.clients, seconds, rate, client),
        None => closed_loop(asked.clients, seconds, client),
    };
    let used = process::processor_time(server.pid()) - before;
    let text = format!(
        "{} requests, {:.1} in a second, {} errors; p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms; \
         processor {:.0} % of a core; memory {} MB at most, {} MB now\n",
        outcome.done,
        outcome.rate(),
        outcome.errors,
        outcome.percentile(0.5),
        outcome.percentile(0.99),
        outcome.percentile(0.999),
        100.0 * used.as_secs_f64() / outcome.elapsed.as_secs_f64(),
        process::most_memory(server.pid()) / 1_000_000,
        server.memory() / 1_000_000,
    );
    drop((door, server));
    cluster.stop();
    text
}

/// A client that mostly fetches, and uploads if too few files are wanted.
pub fn step<'a>(
    mut client: Client,
    transport: &'a Transport,
    wanted: &'a Mutex<Vec<Wanted>>,
    number: usize,
) -> Step<'a> {
    let mut random = Random::new(number);
    let mut content = bytes(number as u64, 10_000_000);
    let mut count = 0u32;
    Box::new(move || match take(wanted, &mut random) {
        Some((id, size)) => transport
            .get(&format!("/file/{id}"))
            .send(&mut client, size),
        None => {
            count += 1;
            stamp(&mut content, number, count);
            let size = size(&mut random);
            let answer = transport.post(&content[..size]).fetch(&mut client)?;
            let entry = Wanted {
                id: id_of(&answer),
                size,
                recipients: random.between(1, 101),
            };
            wanted.lock().map_err(|_| lost())?.push(entry);
            Ok(())
        }
    })
}

/// Picks a random one of the wanted files, for one of its recipients.
fn take(wanted: &Mutex<Vec<Wanted>>, random: &mut Random) -> Option<(String, usize)> {
    let mut wanted = wanted.lock().ok()?;
    if wanted.len() < MIN_WANTED {
        return None;
    }
    let index = random.below(wanted.len());
    let entry = &mut wanted[index];
    entry.recipients -= 1;
    let taken = (entry.id.clone(), entry.size);
    if entry.recipients == 0 {
        wanted.swap_remove(index);
    }
    Some(taken)
}

fn size(random: &mut Random) -> usize {
    match random.below(100) {
        part if part < AVATARS => random.between(5_000, 60_000),
        part if part < AVATARS + PICTURES => random.between(200_000, 2_000_000),
        _ => 10_000_000,
    }
}

fn lost() -> io::Error {
    io::Error::other("another client has failed")
}
