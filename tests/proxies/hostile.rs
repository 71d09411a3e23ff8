//! Requests that nobody should send, some of which our server, or tiny_http in it, answers by
//! closing the connection: behind a web server they harm no other request.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Connection, Web, bytes};
use crate::requests::requests;
use crate::site::Site;

/// How often each hostile request is sent at least.
const ROUNDS: usize = 2;
/// How many ordinary requests are answered meanwhile at least.
const ORDINARY: usize = 1000;

pub fn requests_cost_no_other_a_thing(kind: Web) {
    let site = Site::with_two_servers(kind);
    let file = bytes(8, 5_000);
    let answer = site.connect().request("POST", "/file", &[], &file);
    let path = format!("/file/{}", answer.json()["id"].as_str().expect("an id"));
    let (address, stop) = (&*site.address, AtomicBool::new(false));
    let (asked, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let mut mute = Vec::new();
    // A test that has failed meanwhile tells nobody to stop.
    let deadline = Instant::now() + Duration::from_secs(180);
    std::thread::scope(|scope| {
        for client in 0..3u64 {
            let (path, file, stop, asked, failed) = (&path, &file, &stop, &asked, &failed);
            scope.spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) && Instant::now() < deadline {
                    number += 1;
                    let outcome = ordinary(address, path, file, (client << 32) | number);
                    asked.fetch_add(1, Ordering::Relaxed);
                    failed.lock().expect("no panic").extend(outcome.err());
                }
            });
        }
        let is_enough = |round| round >= ROUNDS && asked.load(Ordering::Relaxed) >= ORDINARY;
        let rounds = (0..).take_while(|round| !is_enough(*round));
        for hostile in rounds.flat_map(|_| requests(&path)) {
            let line = hostile.send(Connection::open(address));
            if hostile.has_status && !line.starts_with("HTTP/1.") {
                mute.push(format!("{}: {line:?}", hostile.name));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let failed: Vec<String> = failed.into_inner().expect("no panic");
    assert!(
        failed.is_empty(),
        "{} of {} ordinary requests: {:?}…",
        failed.len(),
        asked.into_inner(),
        &failed[..failed.len().min(5)]
    );
    assert_eq!(mute, Vec::<String>::new(), "answered without a status");
}

/// An upload or a download, which must succeed.
fn ordinary(address: &str, path: &str, file: &[u8], number: u64) -> Result<(), String> {
    let mut connection = Connection::try_open(address).map_err(|error| error.to_string())?;
    let is_upload = number % 2 == 0;
    let answer = match is_upload {
        true => connection.try_request("POST", "/file", &[], &bytes(number, 2_000)),
        false => connection.try_request("GET", path, &[], b""),
    };
    let answer = answer.map_err(|error| error.to_string())?;
    match answer.status == 200 && (is_upload || answer.body == file) {
        true => Ok(()),
        false => Err(answer.status.to_string()),
    }
}
