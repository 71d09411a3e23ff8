//! Bodies in chunks, over direct HTTP.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{Connection, Database, Onion, Response, Server, bytes, eventually};
use common::{new_exchange, nonce};
use serde_json::json;
use session_file_server::protocol::onion::client::v4_plaintext;

/// The header field of a body in chunks.
const CHUNKED: (&str, &str) = ("Transfer-Encoding", "chunked");

/// Encodes a body in chunks of `size` bytes.
fn in_chunks(body: &[u8], size: usize) -> Vec<u8> {
    let mut encoded = Vec::new();
    for chunk in body.chunks(size) {
        encoded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        encoded.extend_from_slice(chunk);
        encoded.extend_from_slice(b"\r\n");
    }
    encoded.extend_from_slice(b"0\r\n\r\n");
    encoded
}

/// Sends a body that is encoded already, and returns the answer.
fn post(connection: &mut Connection, path: &str, encoded: &[u8]) -> Response {
    connection.head("POST", path, &[CHUNKED]);
    // A server that refuses the body need not take all of it.
    let _ = connection.send(encoded);
    connection.answer("POST")
}

#[test]
fn a_body_in_chunks_is_stored_as_it_was_and_the_connection_goes_on() {
    let database = Database::new();
    for settings in ["", "listen = 'unix:http.sock'"] {
        let server = Server::with(&database, settings);
        let mut connection = server.connect();
        for (seed, length, size) in [
            (1, 1, 1),
            (2, 1000, 1000),
            (3, 5000, 1),
            (4, 65_536, 65_536),
            (5, 65_537, 8192),
            (6, 1_048_576, 1 << 20),
            (7, 1_048_577, 100_000),
            (8, 10_223_616, 16_384),
            (9, 10_223_616, 1 << 30),
        ] {
            let file = bytes(seed, length);
            let stored = post(&mut connection, "/file", &in_chunks(&file, size));
            assert_eq!(stored.status, 200, "{length} by {size}: {stored:?}");
            assert_eq!(stored.json()["size"], length);
            let path = format!("/file/{}", stored.json()["id"].as_str().expect("an id"));
            // On a Unix socket the connection may end with each answer.
            if stored.header("Connection") == Some("close") {
                assert!(server.get(&path).body == file);
                connection = server.connect();
            } else {
                assert!(connection.request("GET", &path, &[], b"").body == file);
            }
        }
    }
}

#[test]
fn chunks_may_be_written_in_any_way_that_http_allows() {
    let server = Server::start(&Database::new());
    let mut connection = server.connect();
    for encoded in [
        "6\r\na file\r\n0\r\n\r\n",
        "006\r\na file\r\n000\r\n\r\n",
        "2;a\r\na \r\n4;b=c;d=\"e\"\r\nfile\r\n0;f\r\n\r\n",
        "2 ; a\r\na \r\n4\r\nfile\r\n0\r\n\r\n",
    ] {
        let stored = post(&mut connection, "/file", encoded.as_bytes());
        assert_eq!(stored.json()["size"], 6, "{encoded:?}: {stored:?}");
    }
    for size in ["a", "A"] {
        let encoded = format!("{size}\r\n0123456789\r\n0\r\n\r\n");
        assert_eq!(
            post(&mut connection, "/file", encoded.as_bytes()).json()["size"],
            10
        );
    }
    // The body is sent a byte at a time.
    connection.head("POST", "/file", &[CHUNKED]);
    for byte in in_chunks(b"a file", 4) {
        connection.send(&[byte]).expect("the server listens");
    }
    assert_eq!(connection.answer("POST").json()["size"], 6);
    // The names of header fields and codings may be in upper or lower case.
    connection.head("POST", "/file", &[("transfer-encoding", "Chunked")]);
    connection
        .send(&in_chunks(b"a file", 4))
        .expect("the server listens");
    assert_eq!(connection.answer("POST").json()["size"], 6);
    // The next request may come before this one is answered.
    connection.head("POST", "/file", &[CHUNKED]);
    let ahead = [
        &in_chunks(b"a file", 4)[..],
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    .concat();
    connection.send(&ahead).expect("the server listens");
    assert_eq!(connection.answer("POST").json()["size"], 6);
    assert_eq!(connection.answer("GET").json()["status"], "ok");
}

#[test]
fn every_endpoint_takes_its_body_in_chunks() {
    let onion = Onion::start("");
    let mut connection = onion.server.connect();
    let file = bytes(1, 500_000);
    let old = json!({ "file": STANDARD.encode(&file) }).to_string();
    let stored = post(
        &mut connection,
        "/files",
        &in_chunks(old.as_bytes(), 10_000),
    );
    assert_eq!(stored.status, 200, "{stored:?}");
    let id = onion.server.upload(&file);
    for nothing in [&b"0\r\n\r\n"[..], b"1\r\nx\r\n0\r\n\r\n"] {
        let extended = post(&mut connection, &format!("/file/{id}/extend"), nothing);
        assert_eq!(extended.json()["size"], 500_000);
    }
    for path in ["/oxen/v4/lsrpc", "//oxen/v4/lsrpc"] {
        let exchange = new_exchange(&onion.public_keys[0], Some("xchacha20"));
        let request = exchange.seal(&v4_plaintext("POST", "/file", &[], Some(&file)), nonce());
        let answer = post(
            &mut connection,
            path,
            &in_chunks(&request.expect("sealed"), 9999),
        );
        assert!(exchange.open(answer.body).is_some());
    }
}

#[test]
fn a_body_in_chunks_that_is_empty_or_too_large_is_413() {
    let server = Server::with(&Database::new(), "files.max_size = 100_000");
    post(&mut server.connect(), "/file", b"0\r\n\r\n").assert_error(413);
    for size in [1000, 1 << 20] {
        let mut connection = server.connect();
        let fits = in_chunks(&bytes(1, 100_000), size);
        assert_eq!(post(&mut connection, "/file", &fits).status, 200);
        for length in [100_001, 20_000_000] {
            // The client gets its answer although it sends the whole body before it reads.
            let refused = post(
                &mut server.connect(),
                "/file",
                &in_chunks(&bytes(1, length), size),
            );
            refused.assert_error(413);
            assert_eq!(refused.header("Connection"), Some("upgrade"));
        }
    }
    for size in ["186a1", "fffffffff", "ffffffffffffffff"] {
        let mut connection = server.connect();
        connection.head("POST", "/file", &[CHUNKED]);
        let _ = connection.send(format!("{size}\r\n").as_bytes());
        let _ = connection.send(&[&bytes(1, 100_001)[..], b"\r\n"].concat());
        connection.answer("POST").assert_error(413);
    }
    assert_eq!(server.upload(b"a file").len(), 44);
}

#[test]
fn broken_chunks_are_400_and_the_connection_is_closed() {
    let database = Database::new();
    let server = Server::start(&database);
    let broken = [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "10000000000000000\r\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhel\r\n0\r\n\r\n",
        "5\r\nhello\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n",
        "5\r\nhello\r\n0\r\nX",
        "hello\r\nGET /health HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    // The server goes on reading for some seconds after each refusal.
    std::thread::scope(|scope| {
        for broken in broken {
            let server = &server;
            scope.spawn(move || {
                let mut connection = server.connect();
                post(&mut connection, "/file", broken.as_bytes()).assert_error(400);
                assert!(connection.is_closed(), "{broken:?}");
            });
        }
    });
    assert_eq!(database.number("SELECT count(*) FROM files"), 0);
}

#[test]
fn a_body_in_chunks_that_ends_early_stores_nothing() {
    let database = Database::new();
    let server = Server::start(&database);
    for start in [
        "",
        "5",
        "5\r",
        "5\r\n",
        "5\r\nhel",
        "5\r\nhello",
        "5\r\nhello\r\n",
        "5\r\nhello\r\n0",
        "5\r\nhello\r\n0\r\n",
    ] {
        let mut connection = server.connect();
        connection.head("POST", "/file", &[CHUNKED]);
        connection
            .send(start.as_bytes())
            .expect("the server listens");
        connection.finish();
        connection.answer("POST").assert_error(400);
        // The same by a client whose process ends.
        let mut connection = server.connect();
        connection.head("POST", "/file", &[CHUNKED]);
        connection
            .send(start.as_bytes())
            .expect("the server listens");
    }
    let large = in_chunks(&bytes(1, 3_000_000), 1_000_000);
    for length in [500_000, 1_500_000, large.len() - 4] {
        let mut connection = server.connect();
        connection.head("POST", "/file", &[CHUNKED]);
        connection
            .send(&large[..length])
            .expect("the server listens");
    }
    server.upload(b"another file");
    eventually("all were given up", || !server.has_thread("linger"));
    assert_eq!(database.number("SELECT count(*) FROM files"), 1);
}

#[test]
fn a_body_in_chunks_of_http_1_0_is_refused() {
    let server = Server::start(&Database::new());
    let mut connection = server.connect();
    let head = b"POST /file HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    connection.send(head).expect("the server listens");
    connection.answer("POST").assert_error(400);
}

#[test]
fn a_client_with_chunks_that_waits_for_100_continue_is_told_to_go_on() {
    let server = Server::start(&Database::new());
    let mut connection = server.connect();
    connection.head("POST", "/file", &[CHUNKED, ("Expect", "100-continue")]);
    let mut interim = [0; 12];
    connection.read_exact(&mut interim);
    assert_eq!(&interim, b"HTTP/1.1 100");
    connection.skip_head();
    connection
        .send(&in_chunks(b"a file", 4))
        .expect("the server listens");
    assert_eq!(connection.answer("POST").json()["size"], 6);
}

#[test]
fn many_slow_uploads_in_chunks_leave_memory_for_others() {
    let server = Server::start(&Database::new());
    // So many that they would take all memory for bodies, if each took the most that it may have.
    let mut slow: Vec<Connection> = (0..40).map(|_| server.connect()).collect();
    for connection in &mut slow {
        connection.head("POST", "/file", &[CHUNKED]);
        connection
            .send(b"ffff\r\na beginning")
            .expect("the server listens");
    }
    let file = bytes(1, 10_000_000);
    let mut connection = server.connect();
    assert_eq!(
        post(&mut connection, "/file", &in_chunks(&file, 100_000)).status,
        200
    );
    server.upload(&bytes(2, 10_000_000));
}

#[test]
fn curl_uploads_what_it_reads_from_a_pipe() {
    let server = Server::start(&Database::new());
    let folder = server.folder.path();
    for (seed, length) in [(1, 6), (2, 70_000), (3, 3_000_000), (4, 10_223_616)] {
        let file = bytes(seed, length);
        std::fs::write(folder.join("file"), &file).expect("writable");
        let url = format!("http://{}//file", server.address);
        for arguments in [
            &["-X", "POST", "-T", "-"][..],
            &["-X", "POST", "-T", "-", "-H", "Expect: 100-continue"],
            &["-X", "POST", "-T", "-", "-H", "Expect:"],
            &["-H", "Transfer-Encoding: chunked", "--data-binary", "@file"],
        ] {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--show-error", "--fail"])
                .args(arguments)
                .arg(&url);
            curl.current_dir(folder)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped());
            let mut running = curl.spawn().expect("curl is installed");
            let mut input = running.stdin.take().expect("a pipe");
            if arguments.contains(&"-") {
                input.write_all(&file).expect("curl reads");
            }
            drop(input);
            let output = running.wait_with_output().expect("it ends");
            assert!(output.status.success(), "{arguments:?}: {output:?}");
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_eq!(answer["size"], length, "{arguments:?}");
            let id = answer["id"].as_str().expect("an id");
            assert!(server.get(&format!("/file/{id}")).body == file);
        }
    }
}
