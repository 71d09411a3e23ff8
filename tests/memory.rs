//! The memory that the server takes for files, which the setting `memory` bounds.

mod common;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Onion, Response, Server, bytes};
use session_file_server::config::Config;

/// The size of each file, bytes: nearly the largest.
const SIZE: usize = 10_000_000;
/// What the server takes beside the memory for files, bytes: itself, its threads, and what malloc
/// keeps.
const BESIDE: u64 = 40_000_000;

/// A server with a cache of that many bytes and the least memory that its other settings admit,
/// which is returned too.
fn small_server(cache: usize) -> (Onion, u64) {
    let others = &format!("files.cache_size = {cache}");
    let config = Config::parse(others, Path::new("config.toml")).expect("valid");
    let memory = config.least_memory();
    // With many workers it matters what each holds.
    let onion = Onion::start(&format!("memory = {memory}\nworkers = 32\n{others}"));
    (onion, memory as u64)
}

/// The most memory that the server ever had, bytes.
fn most_memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

/// Whether a request was answered 200. Fails if it was refused for another reason than memory.
fn is_served(answer: &Response) -> bool {
    if answer.status == 503 {
        assert_eq!(answer.header("Retry-After"), Some("5"));
    } else {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    answer.status == 200
}

/// Runs `work` for each of so many clients at once.
fn at_once(clients: u64, work: impl Fn(u64) + Sync) {
    std::thread::scope(|scope| {
        for client in 0..clients {
            let work = &work;
            scope.spawn(move || work(client));
        }
    });
}

#[test]
fn many_large_files_at_once_stay_within_the_memory_and_what_finds_none_gets_503() {
    // What the cache keeps is copied into its reply. What it doesn't is encrypted where it lies.
    for cache in [16_000_000, 0] {
        ask_for_many_large_files(cache);
    }
}

fn ask_for_many_large_files(cache: usize) {
    let (onion, memory) = small_server(cache);
    let server = &onion.server;
    let paths = Mutex::new(Vec::new());
    let (served, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let count = |is_served: bool| {
        let counter = if is_served { &served } else { &refused };
        counter.fetch_add(1, Ordering::Relaxed);
    };
    at_once(24, |client| {
        let mut connection = server.connect();
        let answer = connection.request("POST", "/file", &[], &bytes(client, SIZE));
        count(is_served(&answer));
        if answer.status == 200 {
            let path = format!("/file/{}", answer.json()["id"].as_str().expect("an id"));
            paths.lock().expect("no panic").push(path);
        }
    });
    let paths = paths.into_inner().expect("no panic");
    assert!(!paths.is_empty());
    // The clients ask for different files, in several ways.
    at_once(40, |client| {
        let path = &paths[client as usize % paths.len()];
        match client % 8 {
            0 => count(is_served(&server.get(path))),
            1 => count(is_served(
                &server.get(&path.replacen("/file/", "/files/", 1)),
            )),
            _ => {
                let reply = onion.v4_request("GET", path, None);
                let is_served = reply.status == 200 && reply.body.len() == SIZE;
                assert!(is_served || reply.status == 503, "{}", reply.status);
                count(is_served);
            }
        }
    });
    let most = most_memory(server);

    assert!(most < memory + BESIDE, "{most} of {memory}");
    let (served, refused) = (served.into_inner(), refused.into_inner());
    assert!(served > 2, "{served} served, {refused} refused");
    server.assert_no_500();
}
