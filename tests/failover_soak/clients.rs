//! Clients that upload, extend and read, and what they have seen.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use session_file_server::protocol::onion::client::v4_plaintext;

use crate::common::{Connection, Reply, bytes, new_exchange, nonce};

/// The pause of a client between two requests.
const PAUSE: Duration = Duration::from_millis(100);
/// The life that is asked for at the upload, seconds; extending asks for more.
const LIFE: u64 = 24 * 3600;

/// The servers as clients know them.
pub struct Site {
    /// The address of each server.
    pub addresses: Vec<String>,
    /// The key with which the servers decrypt onion requests.
    pub public_key: [u8; 32],
    pub seen: Mutex<Seen>,
}

/// A file that was acknowledged.
#[derive(Clone, Debug)]
pub struct Stored {
    pub seed: u64,
    pub id: String,
    /// The latest time that the server said it expires, seconds since 1970.
    pub expires: f64,
}

/// What the clients have seen.
pub struct Seen {
    pub started: Instant,
    pub stored: Vec<Stored>,
    pub bytes: u64,
    pub extended: u64,
    /// How often each status was answered to what; 0 for a connection that broke.
    pub statuses: BTreeMap<(&'static str, u16), u64>,
    /// Files that were answered 404 once, with the time in seconds since the start.
    pub missing: Vec<(String, f64)>,
    pub uploads: Service,
    pub reads: Service,
}

/// How long nothing was answered 200.
pub struct Service {
    last: Instant,
    longest: Duration,
}

impl Service {
    fn works(&mut self) {
        self.longest = self.longest.max(self.last.elapsed());
        self.last = Instant::now();
    }

    /// Begins anew.
    pub fn begin(&mut self) {
        self.last = Instant::now();
        self.longest = Duration::ZERO;
    }

    /// The longest time without service since the beginning.
    pub fn longest(&self) -> Duration {
        self.longest.max(self.last.elapsed())
    }
}

impl Seen {
    pub fn new() -> Seen {
        let service = || Service {
            last: Instant::now(),
            longest: Duration::ZERO,
        };
        Seen {
            started: Instant::now(),
            stored: Vec::new(),
            bytes: 0,
            extended: 0,
            statuses: BTreeMap::new(),
            missing: Vec::new(),
            uploads: service(),
            reads: service(),
        }
    }

    fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

/// Avatars, pictures and files, as clients produce them.
fn file(seed: u64) -> Vec<u8> {
    let length = match seed % 200 {
        0 => 10_000_000,
        1..=10 => 200_000 + (seed as usize * 7919) % 1_800_000,
        _ => 1_000 + (seed as usize * 7919) % 59_000,
    };
    bytes(seed, length)
}

/// What client `number` does, again and again. Every third one only reads, so that it never waits
/// for an upload.
pub fn client(number: u64, site: &Site) -> impl FnMut(u64) {
    move |count| {
        let seed = (number << 32) | count;
        let address = &site.addresses[(number + count) as usize % site.addresses.len()];
        let kind = if number % 3 == 2 { 9 } else { count % 10 };
        let (what, status) = match kind {
            0..=2 => ("upload", upload(seed, address, site)),
            3 => ("onion upload", upload_by_onion(seed, address, site)),
            4 => ("extend", extend(count, address, site)),
            _ => ("read", read(count, address, site)),
        };
        let mut seen = site.seen.lock().expect("no panic");
        *seen.statuses.entry((what, status)).or_default() += 1;
        drop(seen);
        std::thread::sleep(PAUSE);
    }
}

/// The status and the body of an answer; 0 if the connection breaks.
fn ask(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, Vec<u8>) {
    let answer = Connection::try_open(address)
        .and_then(|mut connection| connection.try_request(method, path, headers, body));
    answer.map_or((0, Vec::new()), |answer| (answer.status, answer.body))
}

fn upload(seed: u64, address: &str, site: &Site) -> u16 {
    let file = file(seed);
    let headers = [("X-FS-TTL", &*LIFE.to_string())];
    let (status, body) = ask(address, "POST", "/file", &headers, &file);
    if status == 200 {
        let answer = serde_json::from_slice(&body).expect("JSON");
        note(seed, &file, &answer, site);
    }
    status
}

fn upload_by_onion(seed: u64, address: &str, site: &Site) -> u16 {
    let file = bytes(seed, 20_000);
    let exchange = new_exchange(&site.public_key, None);
    let plaintext = v4_plaintext("POST", "/file", &[], Some(&file));
    let request = exchange.seal(&plaintext, nonce()).expect("sealed");
    let (status, body) = ask(address, "POST", "/oxen/v4/lsrpc", &[], &request);
    if status != 200 {
        return status;
    }
    let reply = Reply::read(&exchange.open(body).expect("encrypted for us"));
    if reply.status == 200 {
        note(seed, &file, &reply.json(), site);
    }
    reply.status
}

/// Notes an upload that was acknowledged.
fn note(seed: u64, file: &[u8], answer: &serde_json::Value, site: &Site) {
    let mut seen = site.seen.lock().expect("no panic");
    seen.stored.push(Stored {
        seed,
        id: answer["id"].as_str().expect("an id").to_string(),
        expires: answer["expires"].as_f64().expect("a time"),
    });
    seen.bytes += file.len() as u64;
    seen.uploads.works();
}

/// One of the files that are there; one of the latest, every other time.
fn any(count: u64, site: &Site) -> Option<(usize, Stored)> {
    let seen = site.seen.lock().expect("no panic");
    let number = seen.stored.len();
    let back = (count * 7919) as usize % number.max(1);
    let back = if count % 2 == 0 { back } else { back % 20 };
    let index = number.checked_sub(1 + back % number.max(1))?;
    Some((index, seen.stored[index].clone()))
}

fn extend(count: u64, address: &str, site: &Site) -> u16 {
    let Some((_, stored)) = any(count, site) else {
        return 1;
    };
    let life = (LIFE * (2 + count % 18)).to_string();
    let path = format!("/file/{}/extend", stored.id);
    let (status, body) = ask(address, "POST", &path, &[("X-FS-TTL", &life)], b"");
    let mut seen = site.seen.lock().expect("no panic");
    if status == 200 {
        let answer: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let expires = answer["expires"].as_f64().expect("a time");
        seen.extended += 1;
        // It may have moved, if files were lost.
        let found = seen.stored.iter_mut().rev().find(|s| s.id == stored.id);
        if let Some(found) = found {
            found.expires = found.expires.max(expires);
        }
    } else if status == 404 {
        let at = seen.now();
        seen.missing.push((stored.id, at));
    }
    status
}

fn read(count: u64, address: &str, site: &Site) -> u16 {
    let Some((_, stored)) = any(count, site) else {
        return 1;
    };
    let (status, body) = ask(address, "GET", &format!("/file/{}", stored.id), &[], b"");
    assert!(status != 200 || is_content(&stored, &body), "{stored:?}");
    let mut seen = site.seen.lock().expect("no panic");
    if status == 200 {
        seen.reads.works();
    } else if status == 404 {
        let at = seen.now();
        seen.missing.push((stored.id, at));
    }
    status
}

fn is_content(stored: &Stored, body: &[u8]) -> bool {
    // An upload by onion has another length.
    body == file(stored.seed) || body == bytes(stored.seed, 20_000)
}

/// What is wrong with a file that was acknowledged, asked for at one of the servers.
pub fn fault_of(stored: &Stored, connection: &mut Connection) -> Option<String> {
    let path = format!("/file/{}", stored.id);
    let answer = connection.request("GET", &path, &[], b"");
    if answer.status != 200 {
        return Some(format!("it is answered {}", answer.status));
    }
    if !is_content(stored, &answer.body) {
        return Some("it has other bytes".into());
    }
    let info = connection.request("GET", &format!("{path}/info"), &[], b"");
    // The database's times have microseconds, and the answer's fewer digits.
    let expires = info.number("expires");
    (expires < stored.expires - 0.01)
        .then(|| format!("it expires at {expires}, {} was said", stored.expires))
}
