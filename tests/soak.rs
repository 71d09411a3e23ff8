//! A long run of mixed load while everything around the server fails in turn: whatever was
//! acknowledged must be there at the end.
//!
//! `cargo test --release --test soak -- --ignored --nocapture`, for `SOAK_SECONDS`, or for
//! twenty minutes.

mod common;

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Cluster, Connection, Database, Server, bytes, eventually};
use socket2::SockRef;

const CLIENTS: u64 = 6;
/// How long each fault is waited for.
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

fn client(number: u64, address: &str, seen: &Mutex<Seen>, stop: &AtomicBool) {
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
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

#[test]
#[ignore = "takes SOAK_SECONDS, or twenty minutes"]
fn nothing_that_was_acknowledged_is_lost_whatever_fails() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(1200, |text| text.parse().expect("digits"));
    let mut cluster = Cluster::durable();
    let database = cluster.database();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let start = |database: &Database| {
        let socket = listener.try_clone().expect("a descriptor");
        Server::under_systemd(database, Some(socket.into()), &[]).expect("started")
    };
    let (seen, stop) = (Mutex::new(Seen::default()), AtomicBool::new(false));
    let (mut server, mut faults, mut memory) = (start(&database), 0, 0);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let server = std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (address, seen, stop) = (&address, &seen, &stop);
            scope.spawn(move || client(number, address, seen, stop));
        }
        while Instant::now() < deadline {
            std::thread::sleep(BETWEEN_FAULTS);
            memory = memory.max(server.memory());
            match faults % 5 {
                0 => {
                    cluster.stop();
                    std::thread::sleep(Duration::from_secs(2));
                    cluster.resume();
                }
                1 => server.kill(),
                2 => {
                    cluster.crash();
                    cluster.resume();
                }
                3 => server.signal("TERM"),
                _ => {
                    let broken = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                         WHERE datname = current_database() AND pid <> pg_backend_pid()";
                    let _ = database.client().query(broken, &[]);
                }
            }
            if matches!(faults % 5, 1 | 3) {
                if faults % 5 == 3 {
                    let (status, log) = server.ended();
                    assert_eq!(status.code(), Some(0), "{log}");
                }
                server = start(&database);
            }
            faults += 1;
        }
        stop.store(true, Ordering::Relaxed);
        server
    });
    let seen = seen.into_inner().expect("no panic");
    eventually("it is well", || server.get("/health").status == 200);
    let mut connection = server.connect();
    for (seed, id) in &seen.acknowledged {
        let answer = connection.request("GET", &format!("/file/{id}"), &[], b"");
        assert!(
            answer.status == 200 && answer.body == file(*seed),
            "{id} was lost: {answer:?}"
        );
    }
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
