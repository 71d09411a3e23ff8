//! Sends onion requests to a running server, as Session's clients do, but without service nodes in
//! between. Every request is encrypted for the server, and so is every answer.
//!
//! ```text
//! cargo run --example onion -- 127.0.0.1:8000 X25519_PUBLIC_KEY upload FILE
//! cargo run --example onion -- 127.0.0.1:8000 X25519_PUBLIC_KEY download ID COPY
//! cargo run --example onion -- 127.0.0.1:8000 X25519_PUBLIC_KEY extend ID
//! ```
//!
//! `session-file-server keys` prints the public key.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;

use session_file_server::protocol::onion::cipher::FreshNonce;
use session_file_server::protocol::onion::client::{OnionRequest, read_v4_reply, v4_plaintext};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [host, key, "upload", path] => {
            let answer = ask(host, key, "POST", "/file", Some(&std::fs::read(path)?))?;
            println!("{}", String::from_utf8(answer)?);
        }
        [host, key, "download", id, path] => {
            let file = ask(host, key, "GET", &format!("/file/{id}"), None)?;
            std::fs::write(path, &file)?;
            println!("{} bytes", file.len());
        }
        [host, key, "extend", id] => {
            let answer = ask(host, key, "POST", &format!("/file/{id}/extend"), Some(b""))?;
            println!("{}", String::from_utf8(answer)?);
        }
        _ => {
            return Err(
                "usage: onion HOST:PORT KEY upload FILE | download ID COPY | extend ID".into(),
            );
        }
    }
    Ok(())
}

/// Sends a sub-request through `/oxen/v4/lsrpc`, and returns the body of its answer.
fn ask(
    host: &str,
    key: &str,
    method: &str,
    endpoint: &str,
    body: Option<&[u8]>,
) -> Outcome<Vec<u8>> {
    let mut server = [0; 32];
    hex::decode_to_slice(key, &mut server)?;
    let (mut ephemeral_secret, mut nonce) = ([0; 32], [0; 24]);
    getrandom::getrandom(&mut ephemeral_secret)?;
    getrandom::getrandom(&mut nonce)?;

    let onion_request = OnionRequest::new(&server, Some("xchacha20"), ephemeral_secret)
        .ok_or("that is no server's public key")?;
    let plaintext = v4_plaintext(method, endpoint, &[], body);
    let request = onion_request
        .seal(&plaintext, FreshNonce(nonce))
        .ok_or("too long")?;
    let reply = post(host, "/oxen/v4/lsrpc", &request)?;
    let reply = onion_request
        .open(reply)
        .ok_or("the reply can't be decrypted")?;
    let (status, _, body) = read_v4_reply(&reply).ok_or("the reply is malformed")?;
    match status {
        200 => Ok(body.to_vec()),
        status => Err(format!(
            "{method} {endpoint}: {status} {}",
            String::from_utf8_lossy(body)
        )
        .into()),
    }
}

/// Sends a POST request, and returns the body of its answer. The status must be 200.
fn post(host: &str, path: &str, body: &[u8]) -> Outcome<Vec<u8>> {
    let mut stream = TcpStream::connect(host)?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .ok_or("no answer")?;
    let status = String::from_utf8_lossy(&answer[..end])
        .lines()
        .next()
        .unwrap_or("")
        .to_string();
    if status.starts_with("HTTP/1.1 200") {
        Ok(answer.split_off(end + 4))
    } else {
        Err(status.into())
    }
}
