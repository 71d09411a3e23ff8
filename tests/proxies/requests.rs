//! Requests that nobody should send.

use crate::common::Connection;

/// Each of these comes after the path in a request line.
const AFTER_PATH: &[(&str, &[u8])] = &[
    ("a byte above 0x7f in the path", b"\xff"),
    ("UTF-8 in the path", b"/Gr\xc3\xbc\xc3\x9fe"),
    ("a byte above 0x7f in the query", b"?a=\xe9"),
    ("a byte above 0x7f, escaped", b"%ff"),
    ("an escaped NUL", b"%00"),
    ("an escaped line end", b"%0d%0aX:%20y"),
    ("a fragment", b"#\xff"),
    ("a tab in the path", b"\t"),
    ("a space in the path", b" and more"),
    ("a control character in the path", b"\x01"),
    ("NUL in the path", b"\0"),
    ("DEL in the path", b"\x7f"),
    ("ESC in the query", b"?\x1b[2J"),
    ("a long target", &[b'a'; 20_000]),
    ("a target above the root", b"/../../../../etc/passwd"),
];

/// Each of these comes after Host in a GET.
const FIELDS: &[(&str, &[u8])] = &[
    ("a byte above 0x7f in X-FS-TTL", b"X-FS-TTL: 1\xff"),
    ("a byte above 0x7f in X-FS-Pubkey", b"X-FS-Pubkey: 07\xff"),
    (
        "a byte above 0x7f in X-FS-Timestamp",
        b"X-FS-Timestamp: 1\xff",
    ),
    (
        "a byte above 0x7f in X-FS-Signature",
        b"X-FS-Signature: \xff",
    ),
    (
        "UTF-8 in Content-Disposition",
        b"Content-Disposition: a; filename=\"\xc3\xbc\"",
    ),
    ("Latin-1 in User-Agent", b"User-Agent: caf\xe9"),
    (
        "UTF-8 in Cookie and Referer",
        b"Cookie: a=\xc3\xbc\r\nReferer: http://\xc3\xbc/",
    ),
    ("a byte above 0x7f in an unknown field", b"X-Unknown: \xff"),
    ("a byte above 0x7f in a field's name", b"X-\xff: 1"),
    ("a byte above 0x7f in a second Host", b"Host: \xff"),
    ("a byte above 0x7f in Expect", b"Expect: \xff"),
    ("a byte above 0x7f in Connection", b"Connection: \xff"),
    ("NUL in a field", b"X-FS-TTL: 1\x002"),
    ("a control character in a field", b"X-FS-TTL: 1\x012"),
    ("a carriage return in a field", b"X-FS-TTL: 1\r2"),
    ("a folded field", b"X-FS-TTL: 1\r\n 2"),
    ("a field without a colon", b"nonsense"),
    ("a field without a name", b": nonsense"),
    ("a space before a colon", b"X-FS-TTL : 5"),
    ("a space in a field's name", b"X FS TTL: 5"),
    ("a long field", &[b'a'; 20_000]),
    ("the same field twice", b"X-FS-TTL: 1\r\nX-FS-TTL: 2"),
    ("two hosts", b"Host: other"),
    ("an unknown expectation", b"Expect: nonsense"),
    ("an upgrade", b"Connection: Upgrade\r\nUpgrade: websocket"),
    (
        "an upgrade to HTTP/2",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA",
    ),
    (
        "Connection names what we need",
        b"Connection: close, Host, X-FS-TTL, Content-Length",
    ),
];

/// Each of these comes after Host in a POST.
const BODIES: &[(&str, &[u8])] = &[
    (
        "a length and chunks",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "two lengths",
        b"Content-Length: 0\r\nContent-Length: 1\r\n\r\n1",
    ),
    ("a negative length", b"Content-Length: -1\r\n\r\n"),
    ("a length with a sign", b"Content-Length: +1\r\n\r\n1"),
    (
        "a length that is no number",
        b"Content-Length: many\r\n\r\n",
    ),
    (
        "a length beyond all limits",
        b"Content-Length: 1000000000000000\r\n\r\n",
    ),
    (
        "a length beyond 64 bits",
        b"Content-Length: 99999999999999999999999\r\n\r\n",
    ),
    ("another encoding", b"Transfer-Encoding: gzip\r\n\r\n"),
    (
        "an obfuscated encoding",
        b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "broken chunks",
        b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n\r\n",
    ),
    (
        "a chunk beyond all limits",
        b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n",
    ),
];

/// Whole requests, with `~` in the place of the path.
const WHOLE: &[(&str, &[u8])] = &[
    (
        "another scheme and host",
        b"GET http://other~ HTTP/1.1\r\nHost: other\r\n\r\n",
    ),
    (
        "a target without a slash",
        b"GET file HTTP/1.1\r\nHost: x\r\n\r\n",
    ),
    (
        "a byte above 0x7f in Host",
        b"GET ~ HTTP/1.1\r\nHost: \xff\r\n\r\n",
    ),
    (
        "a byte above 0x7f in the method",
        b"G\xc9T ~ HTTP/1.1\r\nHost: x\r\n\r\n",
    ),
    (
        "a byte above 0x7f in the version",
        b"GET ~ HTTP/1.1\xff\r\nHost: x\r\n\r\n",
    ),
    ("HTTP/1.2", b"GET ~ HTTP/1.2\r\nHost: x\r\n\r\n"),
    ("HTTP/2.0", b"GET ~ HTTP/2.0\r\nHost: x\r\n\r\n"),
    ("HTTP/3.0", b"GET ~ HTTP/3.0\r\nHost: x\r\n\r\n"),
    ("HTTP/9.9", b"GET ~ HTTP/9.9\r\nHost: x\r\n\r\n"),
    ("HTTP/1.0", b"GET ~ HTTP/1.0\r\n\r\n"),
    ("a longer version", b"GET ~ HTTP/1.1x\r\nHost: x\r\n\r\n"),
    (
        "a version in lower case",
        b"GET ~ http/1.1\r\nHost: x\r\n\r\n",
    ),
    ("another protocol", b"GET ~ ICY/1.0\r\nHost: x\r\n\r\n"),
    ("three spaces", b"GET   ~   HTTP/1.1\r\nHost: x\r\n\r\n"),
    (
        "an empty line before",
        b"\r\nGET ~ HTTP/1.1\r\nHost: x\r\n\r\n",
    ),
    ("bare line feeds", b"GET ~ HTTP/1.1\nHost: x\n\n"),
    ("a line without sense", b"nonsense\r\n\r\n"),
    ("an unknown method", b"BREW ~ HTTP/1.1\r\nHost: x\r\n\r\n"),
    (
        "a method in lower case",
        b"get ~ HTTP/1.1\r\nHost: x\r\n\r\n",
    ),
    ("TRACE", b"TRACE ~ HTTP/1.1\r\nHost: x\r\n\r\n"),
    (
        "CONNECT",
        b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost:22\r\n\r\n",
    ),
    (
        "OPTIONS for all",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
];

/// Whole requests whose answers need no status: the answer to a request without a version has no
/// head, haproxy goes on in HTTP/2 when asked to, and a request that ends early need not be
/// answered.
const WITHOUT_STATUS: &[(&str, &[u8])] = &[
    ("no version", b"GET ~\r\n\r\n"),
    (
        "many empty lines before",
        b"\r\n\r\n\r\n\r\n\r\n\r\n\r\nGET ~ HTTP/1.1\r\nHost: x\r\n\r\n",
    ),
    ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (
        "the hello of TLS",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n",
    ),
    (
        "the header of a proxy",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nGET ~ HTTP/1.1\r\n\r\n",
    ),
    (
        "a body that ends early",
        b"POST ~/extend HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nends",
    ),
    ("a head that ends early", b"GET ~"),
];

/// What is sent, and whether the answer must have a status.
pub struct Hostile {
    pub name: &'static str,
    pub has_status: bool,
    bytes: Vec<u8>,
}

impl Hostile {
    /// Sends it, and returns the first line of what is answered.
    pub fn send(&self, mut connection: Connection) -> String {
        // Some requests are refused before they are sent whole.
        let _ = connection.send(&self.bytes);
        if !self.has_status {
            // These requests need no answer. (The client finishes only here, because nginx doesn't
            // answer a client that has closed one direction.)
            connection.finish();
        }
        connection.first_line()
    }
}

/// All of them, for `path`.
pub fn requests(path: &str) -> Vec<Hostile> {
    let path = path.as_bytes();
    let host: &[u8] = b" HTTP/1.1\r\nHost: localhost\r\n";
    let target = |ending: &[u8]| [b"GET ", path, ending, host, b"\r\n"].concat();
    let get = |field: &[u8]| [b"GET ", path, host, field, b"\r\n\r\n"].concat();
    let post = |rest: &[u8]| [b"POST ", path, b"/extend", host, rest].concat();
    let whole = |template: &[u8]| {
        let parts: Vec<&[u8]> = template.split(|byte| *byte == b'~').collect();
        parts.join(path)
    };
    let mut all = Vec::new();
    let mut add = |table: &[(&'static str, &[u8])], has_status, make: &dyn Fn(&[u8]) -> Vec<u8>| {
        all.extend(table.iter().map(|(name, bytes)| Hostile {
            name,
            has_status,
            bytes: make(bytes),
        }));
    };
    add(AFTER_PATH, true, &target);
    add(FIELDS, true, &get);
    add(BODIES, true, &post);
    add(WHOLE, true, &whole);
    add(WITHOUT_STATUS, false, &whole);
    all
}
