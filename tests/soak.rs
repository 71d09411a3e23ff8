//! A long run of mixed load while everything around the server fails in turn: whatever was
//! acknowledged must be there at the end.
//!
//! `cargo test --release --test soak -- --ignored --nocapture`, for `SOAK_SECONDS`, or for
//! twenty minutes.

mod common;

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::{Cluster, Connection, Database, Server, bytes, eventually, under_load};
use socket2::SockRef;

/// The number of clients.
const CLIENTS: u64 = 6;
/// The time between two faults.
const BETWEEN_FAULTS: Duration = Duration::from_secs(12);

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    /// Seed and id of each file that was acknowledged.
    acknowledged: Vec<(u64, String)>,
    bytes: u64,
    /// How often each status was answered, 0 for a connection that broke.
    statuses: BTreeMap<u16, u64>,
}

/// Avatars, pictures and files, as clients produce them.
fn file(seed: u64) -> Vec<u8> {
    let length = match seed % 40 {
        0 => 10_000_000,
        1..=9 => 200_000 + (seed as usize * 7919) % 1_800_000,
        _ => 5_000 + (seed as usize * 7919) % 55_000,
    };
    bytes(seed, length)
}

/// What client `number` does, again and again.
fn client(number: u64, address: &str, seen: &Mutex<Seen>) -> impl FnMut(u64) {
    move |count| {
        let seed = (number << 32) | count;
        let status = match count % 5 {
            0 | 1 => upload(seed, address, seen),
            4 if count % 25 == 4 => reset(address),
            _ => download(count, address, seen),
        };
        let mut seen = seen.lock().expect("no panic");
        *seen.statuses.entry(status).or_default() += 1;
        drop(seen);
        std::thread::sleep(Duration::from_millis(80));
    }
}

fn upload(seed: u64, address: &str, seen: &Mutex<Seen>) -> u16 {
    let file = file(seed);
    let answer = Connection::try_open(address)
        .and_then(|mut connection| connection.try_request("POST", "/file", &[], &file));
    let Ok(answer) = answer else { return 0 };
    if answer.status == 200 {
        let id = answer.json()["id"].as_str().expect("an id").to_string();
        let mut seen = seen.lock().expect("no panic");
        seen.acknowledged.push((seed, id));
        seen.bytes += file.len() as u64;
    }
    answer.status
}

fn download(count: u64, address: &str, seen: &Mutex<Seen>) -> u16 {
    let known = {
        let seen = seen.lock().expect("no panic");
        let index = (count * 7919) as usize % seen.acknowledged.len().max(1);
        seen.acknowledged.get(index).cloned()
    };
    let Some((seed, id)) = known else { return 1 };
    let answer = Connection::try_open(address)
        .and_then(|mut c| c.try_request("GET", &format!("/file/{id}"), &[], b""));
    let Ok(answer) = answer else { return 0 };
    assert!(answer.status != 200 || answer.body == file(seed), "{id}");
    assert_ne!(answer.status, 404, "{id} was acknowledged");
    answer.status
}

fn reset(address: &str) -> u16 {
    use std::io::Write;
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = stream.write_all(b"POST /file HTTP/1.1\r\nContent-Length: 100000\r\n\r\nabc");
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
    2
}

/// One of the faults that the database may have.
fn harm_database(number: usize, cluster: &mut Cluster, database: &Database) {
    match number {
        0 => {
            cluster.stop();
            std::thread::sleep(Duration::from_secs(2));
            cluster.resume();
        }
        2 => {
            cluster.crash();
            cluster.resume();
        }
        _ => {
            let broken = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()";
            let _ = database.client().query(broken, &[]);
        }
    }
}

/// Fails unless the server has every file that it has acknowledged, by its seed.
fn assert_all_there(server: &Server, acknowledged: &[(u64, String)]) {
    let mut connection = server.connect();
    for (seed, id) in acknowledged {
        let answer = connection.request("GET", &format!("/file/{id}"), &[], b"");
        let is_there = answer.status == 200 && answer.body == file(*seed);
        assert!(is_there, "{id} was lost: {answer:?}");
    }
}

/// Lets one fault follow another until the deadline. Returns how many there were, the most memory
/// that the server had, bytes, and the last server.
fn harm(
    cluster: &mut Cluster,
    database: &Database,
    start: &dyn Fn() -> Server,
    deadline: Instant,
) -> (usize, u64, Server) {
    let (mut server, mut faults, mut memory) = (start(), 0, 0);
    while Instant::now() < deadline {
        std::thread::sleep(BETWEEN_FAULTS);
        memory = memory.max(server.memory());
        match faults % 5 {
            1 => {
                server.kill();
                server = start();
            }
            3 => {
                server.signal("TERM");
                let (status, log) = server.ended();
                assert_eq!(status.code(), Some(0), "{log}");
                server = start();
            }
            number => harm_database(number, cluster, database),
        }
        faults += 1;
    }
    (faults, memory, server)
}

#[test]
#[ignore = "takes SOAK_SECONDS, or twenty minutes"]
fn nothing_that_was_acknowledged_is_lost_whatever_fails() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(1200, |text| text.parse().expect("digits"));
    let mut cluster = Cluster::durable();
    let database = cluster.database();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let start = || {
        let socket = listener.try_clone().expect("a descriptor");
        Server::under_systemd(&database, Some(socket.into()), &[]).expect("started")
    };
    let seen = Mutex::new(Seen::default());
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let client = |number| client(number, &address, &seen);
    let (faults, memory, server) = under_load(CLIENTS, client, |_| {
        harm(&mut cluster, &database, &start, deadline)
    });
    let seen = seen.into_inner().expect("no panic");
    eventually("it is well", || server.get("/health").status == 200);
    assert_all_there(&server, &seen.acknowledged);
    println!(
        "{seconds} s, {faults} faults, {} files of {} MB acknowledged and there; statuses {:?} \
         (0: the connection broke, 1: nothing to ask for, 2: reset by the client); at most {} MB \
         resident, {} descriptors and {} threads at the end",
        seen.acknowledged.len(),
        seen.bytes / 1_000_000,
        seen.statuses,
        memory / 1_000_000,
        server.descriptors(),
        server.threads()
    );
    assert!(
        seen.acknowledged.len() > 100,
        "hardly anything was uploaded"
    );
}
