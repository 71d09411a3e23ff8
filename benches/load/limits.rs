//! What limits the server: the library that speaks HTTP, and the ciphers of onion requests, each
//! alone, beside the server with the file in its cache.

use std::fmt::Write;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use session_file_server::buffer::Buffer;
use session_file_server::protocol::keys::KeyPair;
use session_file_server::protocol::onion::cipher::{Cipher, EncType, FreshNonce};

use crate::client::Client;
use crate::common::{Cluster, Server, bytes};
use crate::process;
use crate::table::{DEFAULT_CACHE, median, rounded};
use crate::work::{CLIENTS, Outcome, Transport, closed_loop};

/// The sizes of the files that are fetched, with their names.
const SIZES: [(&str, usize); 3] = [("1 KB", 1_000), ("1 MB", 1_000_000), ("10 MB", 10_000_000)];
/// The threads that answer for the library alone, as many as the server has workers by default.
const THREADS: usize = 8;

/// Measures each size, and returns the table as Markdown.
pub fn run(rounds: usize, seconds: f64) -> String {
    let mut text = String::from(
        "| file | tiny_http alone, /s | GET, cached, /s | share | ciphers alone, ms | \
         onion GET, cached: processor, ms | share |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let mut cluster = Cluster::durable();
    let server = Server::with(&cluster.database(), DEFAULT_CACHE);
    for (name, size) in SIZES {
        let alone = tiny_http(size);
        let mut rates = [Vec::new(), Vec::new()];
        let (mut ciphers, mut onions) = (Vec::new(), Vec::new());
        let path = format!("/file/{}", server.upload(&bytes(size as u64, size)));
        let onion = Transport::Onion(process::x25519_key(&server));
        for _ in 0..rounds {
            rates[0].push(fetch(&alone, &Transport::Direct, &path, size, seconds).rate());
            rates[1].push(fetch(&server.address, &Transport::Direct, &path, size, seconds).rate());
            ciphers.push(cipher_time(size, seconds));
            let before = process::processor_time(server.pid());
            let outcome = fetch(&server.address, &onion, &path, size, seconds);
            let used = process::processor_time(server.pid()) - before;
            onions.push(outcome.share_of(used));
        }
        let [library, ours] = rates.map(median);
        let (ciphers, onion) = (median(ciphers), median(onions));
        let _ = writeln!(
            text,
            "| {name} | {} | {} | **{:.2}** | {ciphers:.3} | {onion:.3} | **{:.2}** |",
            rounded(library),
            rounded(ours),
            ours / library,
            ciphers / onion,
        );
    }
    drop(server);
    cluster.stop();
    text
}

/// Starts the library alone, which answers each request with `size` bytes. Returns its address.
fn tiny_http(size: usize) -> String {
    let server = Arc::new(tiny_http::Server::http("127.0.0.1:0").expect("a port"));
    let address = server.server_addr().to_string();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
    let answer: &'static [u8] = [head.into_bytes(), bytes(1, size)].concat().leak();
    for _ in 0..THREADS {
        let server = server.clone();
        // These threads end with the program.
        std::thread::spawn(move || {
            while let Ok(request) = server.recv() {
                // Not `respond`, which writes head and body apart and copies 8 KB at a time.
                let _ = request.into_writer().write_all(answer);
            }
        });
    }
    address
}

fn fetch(address: &str, by: &Transport, path: &str, size: usize, seconds: f64) -> Outcome {
    closed_loop(CLIENTS, seconds, |_| {
        let mut client = Client::new(address, false);
        let request = by.get(path);
        Box::new(move || request.send(&mut client, size))
    })
}

/// The time that the key agreement and the encryption of an answer of `size` bytes take on one
/// thread, milliseconds.
fn cipher_time(size: usize, seconds: f64) -> f64 {
    let ours = KeyPair::of_secret([7; 32].into());
    let theirs = *KeyPair::of_secret([9; 32].into()).public();
    let enc_type = EncType::parse(Some("xchacha20")).expect("a type");
    let mut answer = Buffer::with_capacity(size + 100);
    answer.extend_from_slice(&vec![0; size + 24]);
    let (mut done, began) = (0u32, Instant::now());
    while began.elapsed().as_secs_f64() < seconds.min(1.0) {
        let cipher = Cipher::agree(enc_type, &ours, &theirs).expect("a key");
        answer.truncate(cipher.nonce_length() + size);
        let sealed = cipher.seal(&mut answer, FreshNonce([done as u8; 24]));
        sealed.expect("not too long");
        done += 1;
    }
    began.elapsed().as_secs_f64() * 1000.0 / f64::from(done)
}
