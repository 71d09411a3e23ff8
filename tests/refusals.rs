//! What the server answers to what it doesn't take.

mod common;

use common::raw::ask;
use common::{Database, Response, Server, bytes};

/// Requests with a path or a method that doesn't exist, the status of the answer, and its `Allow`.
const WRONG: [(&str, &str, u16, Option<&str>); 11] = [
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
];

/// Sends a request on a connection of its own, whether the server takes the body or not.
fn request(
    server: &Server,
    method: &str,
    path: &str,
    framing: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut connection = server.connect();
    connection.head(method, path, framing);
    let _ = connection.send(body);
    connection.answer(method)
}

/// A body in one chunk.
fn in_a_chunk(body: &[u8]) -> Vec<u8> {
    let size = format!("{:x}\r\n", body.len());
    let end: &[u8] = if body.is_empty() {
        b"\r\n"
    } else {
        b"\r\n0\r\n\r\n"
    };
    [size.as_bytes(), body, end].concat()
}

#[test]
fn a_wrong_path_is_404_and_a_wrong_method_405_whatever_the_bodys_size() {
    let server = Server::start(&Database::new());
    for (method, path, status, allow) in WRONG {
        let assert_refused = |framing: (&str, &str), body: &[u8]| {
            let answer = request(&server, method, path, &[framing], body);
            let found = (answer.status, answer.header("Allow"));
            assert_eq!(found, (status, allow), "{method} {path}, {framing:?}");
        };
        for length in [0, 10, 1025, 65_536, 65_537, 3_000_000] {
            let body = bytes(1, length);
            assert_refused(("Content-Length", &length.to_string()), &body);
            assert_refused(("Transfer-Encoding", "chunked"), &in_a_chunk(&body));
        }
        for length in ["70000000", "1000000000000000", "99999999999999999999999"] {
            assert_refused(("Content-Length", length), b"");
        }
    }
    // An endpoint that needs no body takes a small one, and refuses a larger one.
    let framing = [("Content-Length", "65537")];
    request(&server, "POST", "/file/abc/extend", &framing, b"").assert_error(413);
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
    // Old clients send the empty line after a body.
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
    // In a request without a body `Expect` is ignored.
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

/// Header fields that say how long a body is, what is sent of it, and the status.
type Refused<'a> = (&'a [(&'a str, &'a str)], &'a [u8], u16);

/// Refusals after which tiny_http has nothing left to read.
const READ: [Refused; 3] = [
    (&[], b"", 411),
    (&[("Content-Length", "five")], b"hello", 400),
    (&[("Content-Length", "99999999999999999999999")], b"", 413),
];

/// Refusals of bodies that are not read.
const UNREAD: [Refused; 3] = [
    (&[("Content-Length", "1000000000000000")], b"", 413),
    (&[("Transfer-Encoding", "gzip")], b"", 400),
    (&[("Transfer-Encoding", "chunked")], b"x\r\n", 400),
];

#[test]
fn refusals_offer_no_protocol_and_name_no_library() {
    let server = Server::start(&Database::new());
    let assert_refused = |path: &str, (framing, body, status): Refused| {
        let answer = request(&server, "POST", path, framing, body);
        answer.assert_error(status);
        let closes = |(name, value): &(String, String)| name == "Connection" && value == "close";
        assert!(answer.headers.iter().any(closes), "{answer:?}");
        assert!(!format!("{answer:?}").contains("tiny"), "{answer:?}");
        answer
            .header("Upgrade")
            .map(|value| value.trim().to_string())
    };
    for refused in READ {
        assert_eq!(assert_refused("/file", refused), None, "{refused:?}");
    }
    // Where a body was not read, tiny_http always writes the name of the field `Upgrade`; only its
    // value can be left empty.
    let empty = Some(String::new());
    for refused in UNREAD {
        assert_eq!(assert_refused("/file", refused), empty, "{refused:?}");
    }
    let (length, file) = ([("Content-Length", "11000000")], bytes(1, 11_000_000));
    for (path, status) in [("/file", 413), ("/nothing", 404)] {
        assert_eq!(assert_refused(path, (&length, &file, status)), empty);
    }
}
