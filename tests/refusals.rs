//! What the server answers to what it doesn't take.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::{Connection, Database, Server, bytes};

/// All that comes in answer to `request` until the connection ends.
fn ask(server: &Server, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(&server.address).expect("it listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("settable");
    // A server that refuses need not take all of it.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_wrong_path_is_404_and_a_wrong_method_405_whatever_the_bodys_size() {
    let server = Server::start(&Database::new());
    let refused = |method: &str, path: &str, framing: (&str, &str), body: &[u8]| {
        let mut connection = server.connect();
        connection.head(method, path, &[framing]);
        let _ = connection.send(body);
        let answer = connection.answer(method);
        (answer.status, answer.header("Allow").map(str::to_string))
    };
    for (method, path, status, allow) in [
        ("POST", "/nothing", 404, None),
        ("POST", "//nothing", 404, None),
        ("PUT", "/nothing", 404, None),
        ("POST", "/file/", 404, None),
        ("POST", "/upload?x=/file", 404, None),
        ("POST", "/oxen/v5/lsrpc", 404, None),
        ("PUT", "/file", 405, Some("POST")),
        ("PATCH", "//file", 405, Some("POST")),
        ("POST", "/file/abc", 405, Some("GET, HEAD")),
        ("PUT", "/files", 405, Some("POST")),
        ("PUT", "/oxen/v4/lsrpc", 405, Some("POST")),
    ] {
        let expected = (status, allow.map(str::to_string));
        for length in [0, 10, 1025, 65_536, 65_537, 3_000_000] {
            let body = bytes(1, length);
            let framing = ("Content-Length", length.to_string());
            let answer = refused(method, path, (framing.0, &framing.1), &body);
            assert_eq!(answer, expected, "{method} {path}, {length} bytes");
            let mut chunks = format!("{length:x}\r\n").into_bytes();
            chunks.extend_from_slice(&body);
            chunks.extend_from_slice(if length > 0 {
                b"\r\n0\r\n\r\n"
            } else {
                b"\r\n"
            });
            let answer = refused(method, path, ("Transfer-Encoding", "chunked"), &chunks);
            assert_eq!(
                answer, expected,
                "{method} {path}, {length} bytes in chunks"
            );
        }
        for length in ["70000000", "1000000000000000", "99999999999999999999999"] {
            let answer = refused(method, path, ("Content-Length", length), b"");
            assert_eq!(answer, expected, "{method} {path}, it says {length}");
        }
    }
    // Where there is an endpoint that needs no body, too much of one is too much.
    let answer = refused("POST", "/file/abc/extend", ("Content-Length", "65537"), b"");
    assert_eq!(answer, (413, None));
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn an_empty_line_before_a_request_is_answered() {
    let server = Server::start(&Database::new());
    for start in ["\r\n", "\r\n\r\n", " \r\n"] {
        for more in ["", &format!("X-Long: {}\r\n", "a".repeat(5000))] {
            let request = format!("{start}GET /health HTTP/1.1\r\nHost: x\r\n{more}\r\n");
            let answer = ask(&server, request.as_bytes());
            assert!(answer.starts_with("HTTP/1.1 400 "), "{start:?}: {answer:?}");
        }
    }
    // After a body, where old clients send it.
    let mut connection = server.connect();
    let upload = b"POST /file HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\na file\r\n";
    connection.send(upload).expect("the server listens");
    assert_eq!(connection.answer("POST").status, 200);
    assert_eq!(connection.answer("GET").status, 400);
}

#[test]
fn heads_that_are_no_http_are_answered_400() {
    let server = Server::start(&Database::new());
    for head in [
        "GET\r\n",
        "GET /health\r\n",
        "GET  /health HTTP/1.1\r\n",
        "GET /health HTTP/1.2\r\n",
        "GET /health http/1.1\r\n",
        "\u{16}\u{3}\u{1}\r\n",
        "GET /health HTTP/1.1\r\nno colon\r\n",
        "GET /health HTTP/1.1\r\nX-Folded: a\r\n b\r\n",
        "GET /health HTTP/1.1\r\nX-Folded: a\r\n\tb c: d\r\n",
        "GET /health HTTP/1.1\r\nX-Folded: a\r\n (b): c\r\n",
        "GET /health HTTP/1.1\r\nX-Folded: a\r\n \"b\": c\r\n",
        "GET /health HTTP/1.1\r\nHost : x\r\n",
        "GET /health HTTP/1.1\r\n: x\r\n",
        "GET /health HTTP/1.1\r\na,b: x\r\n",
    ] {
        let answer = ask(&server, format!("{head}\r\n").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer:?}");
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            1,
            "{head:?}: {answer:?}"
        );
    }
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn http_1_0_gets_no_100_continue() {
    let server = Server::start(&Database::new());
    let large = "a".repeat(5000);
    for body in ["a file", &large] {
        let request = format!(
            "POST /file HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = ask(&server, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.0 417 "), "{answer:?}");
    }
    // Where there is no body to go on with, nothing is expected.
    let answer = ask(
        &server,
        b"GET /health HTTP/1.0\r\nExpect: 100-continue\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    let answer = ask(
        &server,
        b"POST /file HTTP/1.0\r\nContent-Length: 6\r\n\r\na file",
    );
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
}

#[test]
fn refusals_offer_no_protocol_and_name_no_library() {
    let server = Server::start(&Database::new());
    let refused = |path: &str, framing: &[(&str, &str)], body: &[u8]| {
        let mut connection = Connection::open(&server.address);
        connection.head("POST", path, framing);
        let _ = connection.send(body);
        connection.answer("POST")
    };
    let file = bytes(1, 11_000_000);
    for (path, framing, body, status, is_read) in [
        ("/file", &[][..], &b""[..], 411, true),
        ("/file", &[("Content-Length", "five")], b"hello", 400, true),
        (
            "/file",
            &[("Content-Length", "99999999999999999999999")],
            b"",
            413,
            true,
        ),
        (
            "/file",
            &[("Content-Length", "11000000")],
            &file,
            413,
            false,
        ),
        (
            "/file",
            &[("Content-Length", "1000000000000000")],
            b"",
            413,
            false,
        ),
        (
            "/nothing",
            &[("Content-Length", "11000000")],
            &file,
            404,
            false,
        ),
        ("/file", &[("Transfer-Encoding", "gzip")], b"", 400, false),
        (
            "/file",
            &[("Transfer-Encoding", "chunked")],
            b"x\r\n",
            400,
            false,
        ),
    ] {
        let answer = refused(path, framing, body);
        answer.assert_error(status);
        // tiny_http lets nobody write that field's name away where a body was not read.
        let expected = if is_read { None } else { Some("") };
        assert_eq!(
            answer.header("Upgrade").map(str::trim),
            expected,
            "{framing:?}: {answer:?}"
        );
        let closes = |(name, value): &(String, String)| name == "Connection" && value == "close";
        assert!(answer.headers.iter().any(closes), "{answer:?}");
        assert!(!format!("{answer:?}").contains("tiny"), "{answer:?}");
    }
}
