//! Clients that upload, extend and read for as long as a test runs, and what was acknowledged to
//! them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use session_file_server::protocol::keys::ServerKeys;
use session_file_server::protocol::onion::client::v4_plaintext;

use super::service::Service;
use super::{Connection, Reply, bytes, eventually, new_exchange, nonce};

/// The pause of a client between two requests.
const PAUSE: Duration = Duration::from_millis(100);
/// Counted as a status, if there is nothing to ask for yet.
const NOTHING: u16 = 1;
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
    /// The number of the server that acknowledged it.
    pub server: usize,
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
    /// What the servers together did, and what each did.
    pub service: Service,
    pub service_of: Vec<Service>,
}

impl Seen {
    /// For so many servers.
    pub fn of(servers: usize) -> Seen {
        Seen {
            started: Instant::now(),
            stored: Vec::new(),
            bytes: 0,
            extended: 0,
            statuses: BTreeMap::new(),
            missing: Vec::new(),
            service: Service::new(),
            service_of: (0..servers).map(|_| Service::new()).collect(),
        }
    }

    /// Measures the time without service from now on.
    pub fn begin(&mut self) {
        let servers = self.service_of.len();
        self.service = Service::new();
        self.service_of = (0..servers).map(|_| Service::new()).collect();
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
        // Ten requests to one server, then ten to the next.
        let server = (number / 2 + count / 10) as usize % site.addresses.len();
        let kind = if number % 3 == 2 { 9 } else { count % 10 };
        let (what, status) = match kind {
            0..=2 => ("upload", upload(seed, server, site)),
            3 => ("onion upload", upload_by_onion(seed, server, site)),
            4 => ("extend", extend(count, server, site)),
            _ => ("read", read(count, server, site)),
        };
        let mut seen = site.seen.lock().expect("no panic");
        *seen.statuses.entry((what, status)).or_default() += 1;
        let service = &mut seen.service_of[server];
        service.asked += 1;
        service.failed += u64::from(status != 200 && status != NOTHING);
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

fn upload(seed: u64, server: usize, site: &Site) -> u16 {
    let file = file(seed);
    let headers = [("X-FS-TTL", &*LIFE.to_string())];
    let (status, body) = ask(&site.addresses[server], "POST", "/file", &headers, &file);
    if status == 200 {
        let answer = serde_json::from_slice(&body).expect("JSON");
        note(seed, &file, &answer, server, site);
    }
    status
}

fn upload_by_onion(seed: u64, server: usize, site: &Site) -> u16 {
    let file = bytes(seed, 20_000);
    let exchange = new_exchange(&site.public_key, None);
    let plaintext = v4_plaintext("POST", "/file", &[], Some(&file));
    let request = exchange.seal(&plaintext, nonce()).expect("sealed");
    let (status, body) = ask(
        &site.addresses[server],
        "POST",
        "/oxen/v4/lsrpc",
        &[],
        &request,
    );
    if status != 200 {
        return status;
    }
    let reply = Reply::read(&exchange.open(body).expect("encrypted for us"));
    if reply.status == 200 {
        note(seed, &file, &reply.json(), server, site);
    }
    reply.status
}

/// Notes an upload that was acknowledged.
fn note(seed: u64, file: &[u8], answer: &serde_json::Value, server: usize, site: &Site) {
    let mut seen = site.seen.lock().expect("no panic");
    seen.stored.push(Stored {
        seed,
        id: answer["id"].as_str().expect("an id").to_string(),
        server,
        expires: answer["expires"].as_f64().expect("a time"),
    });
    seen.bytes += file.len() as u64;
    seen.service.uploads.works();
    seen.service_of[server].uploads.works();
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

fn extend(count: u64, server: usize, site: &Site) -> u16 {
    let Some((_, stored)) = any(count, site) else {
        return NOTHING;
    };
    let life = (LIFE * (2 + count % 18)).to_string();
    let path = format!("/file/{}/extend", stored.id);
    let (status, body) = ask(
        &site.addresses[server],
        "POST",
        &path,
        &[("X-FS-TTL", &life)],
        b"",
    );
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

fn read(count: u64, server: usize, site: &Site) -> u16 {
    let Some((_, stored)) = any(count, site) else {
        return NOTHING;
    };
    let (status, body) = ask(
        &site.addresses[server],
        "GET",
        &format!("/file/{}", stored.id),
        &[],
        b"",
    );
    assert!(status != 200 || is_content(&stored, &body), "{stored:?}");
    let mut seen = site.seen.lock().expect("no panic");
    if status == 200 {
        seen.service.reads.works();
        seen.service_of[server].reads.works();
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

/// The answer at a server that may be restarting, or have other clients' work to do.
fn ask_until_answered(address: &str, path: &str) -> (u16, Vec<u8>) {
    let mut answer = (0, Vec::new());
    eventually("an answer", || {
        answer = ask(address, "GET", path, &[], b"");
        !matches!(answer.0, 0 | 503)
    });
    answer
}

/// What is wrong with a file that was acknowledged, asked for at one of the servers.
fn fault_of(stored: &Stored, address: &str) -> Option<String> {
    let path = format!("/file/{}", stored.id);
    let (status, body) = ask_until_answered(address, &path);
    if status != 200 {
        return Some(format!("it is answered {status}"));
    }
    if !is_content(stored, &body) {
        return Some("it has other bytes".into());
    }
    let (_, info) = ask_until_answered(address, &format!("{path}/info"));
    let info: serde_json::Value = serde_json::from_slice(&info).expect("JSON");
    // The database's times have microseconds, and the answer's fewer digits.
    let expires = info["expires"].as_f64().unwrap_or_default();
    (expires < stored.expires - 0.01)
        .then(|| format!("it expires at {expires}, {} was said", stored.expires))
}

impl Site {
    /// Servers that use a key which is the same byte everywhere.
    pub fn new(addresses: Vec<String>, key: u8) -> Site {
        Site {
            public_key: *ServerKeys::from_secrets(&[key; 32], None).pairs()[0].public(),
            seen: Seen::of(addresses.len()).into(),
            addresses,
        }
    }

    /// The acknowledged files with the numbers `from` to `to` that aren't there at a server as they
    /// were acknowledged, with what is wrong. The clients forget them.
    pub fn forget_missing(&self, server: usize, from: usize, to: usize) -> Vec<(Stored, String)> {
        let files = self.seen.lock().expect("no panic").stored[from..to].to_vec();
        let address = &self.addresses[server];
        let faulty = files.into_iter().filter_map(|stored| {
            let fault = fault_of(&stored, address)?;
            Some((stored, fault))
        });
        let faulty: Vec<_> = faulty.collect();
        let mut seen = self.seen.lock().expect("no panic");
        let is_faulty = |id: &str| faulty.iter().any(|(stored, _)| stored.id == id);
        seen.stored.retain(|stored| !is_faulty(&stored.id));
        faulty
    }
}
