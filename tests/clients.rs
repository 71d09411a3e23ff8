//! What today's clients send, and what the Python server took from them.

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use common::{Database, Onion, Server, bencoded, bytes, new_exchange, nonce, sign};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use session_file_server::protocol::onion::client::v4_plaintext;

/// How the leading slashes of a path may be written. Android from 1.31.0 to 1.33.4 sends two.
const SLASHES: [&str; 3] = ["/", "//", "////"];

#[test]
fn any_number_of_leading_slashes_counts_as_one_in_direct_requests() {
    let server = Server::start(&Database::new());
    for (seed, slashes) in SLASHES.into_iter().enumerate() {
        // Larger than what a request to an unknown path may have.
        let file = bytes(seed as u64, 3_000_000);
        let stored = server.post(&format!("{slashes}file"), &file);
        assert_eq!(stored.status, 200, "{slashes}: {stored:?}");
        let id = stored.json()["id"].as_str().expect("an id").to_string();
        assert!(server.get(&format!("{slashes}file/{id}")).body == file);
        let info = server.get(&format!("{slashes}file/{id}/info"));
        assert_eq!(info.number("size"), 3_000_000.0);
        let extended = server.post(&format!("{slashes}file/{id}/extend"), b"");
        assert_eq!(extended.status, 200, "{slashes}: {extended:?}");
        let version = server.get(&format!("{slashes}session_version?platform=android"));
        version.assert_error(502);
        assert_eq!(server.get(&format!("{slashes}health?a=//")).status, 200);
        let wrong = server.get(&format!("{slashes}file"));
        assert_eq!((wrong.status, wrong.header("Allow")), (405, Some("POST")));
        let absolute = server.get(&format!("http://files.example{slashes}file/{id}"));
        assert!(absolute.body == file);
    }
    // Slashes in other places count one by one.
    for path in ["//file//abc", "/file//info", "//file/", "//", "///"] {
        server.get(path).assert_error(404);
    }
}

#[test]
fn any_number_of_leading_slashes_counts_as_one_in_onion_requests() {
    let onion = Onion::start("");
    for (seed, slashes) in SLASHES.into_iter().enumerate() {
        let file = bytes(seed as u64, 200_000);
        let stored = onion.v4_request("POST", &format!("{slashes}file"), Some(&file));
        assert_eq!(stored.status, 200, "{slashes}");
        let id = stored.json()["id"].as_str().expect("an id").to_string();
        let ask = |method, path: &str| onion.v4_request(method, &format!("{slashes}{path}"), None);
        assert!(ask("GET", &format!("file/{id}")).body == file);
        assert_eq!(ask("GET", &format!("file/{id}/info")).status, 200);
        assert_eq!(ask("POST", &format!("file/{id}/extend")).status, 200);
        assert_eq!(ask("GET", "session_version?platform=android").status, 502);
        assert_eq!(ask("GET", "file//abc").status, 404);
        let inner = new_exchange(&onion.public_keys[0], None);
        let inner = inner.seal(&v4_plaintext("GET", "/health", &[], None), nonce());
        let nested = onion.v4_request("POST", &format!("{slashes}oxen/v4/lsrpc"), inner.as_deref());
        assert_eq!(nested.status, 404, "no onion in an onion: {slashes}");

        let v3 = |method, path: &str| {
            onion.v3(json!({ "method": method, "endpoint": format!("{slashes}{path}") }))
        };
        assert!(v3("GET", &format!("file/{id}")) == file);
        let extended: Value =
            serde_json::from_slice(&v3("POST", &format!("file/{id}/extend"))).expect("JSON");
        assert_eq!(extended["size"], 200_000);
        assert_eq!(v3("POST", "oxen/v3/lsrpc"), br#"{"status_code":404}"#);
    }
    // The endpoints of onion requests themselves may have more slashes, too, and keep their own
    // limit.
    let file = bytes(9, 5_000_000);
    let exchange = new_exchange(&onion.public_keys[0], Some("xchacha20"));
    let request = exchange.seal(&v4_plaintext("POST", "//file", &[], Some(&file)), nonce());
    let answer = onion
        .server
        .post("//oxen/v4/lsrpc", &request.expect("sealed"));
    assert_eq!(answer.status, 200);
    assert!(exchange.open(answer.body).is_some());
}

#[test]
fn a_signature_covers_the_path_with_one_slash() {
    let onion = Onion::start("");
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    let key = SigningKey::from_bytes(&[7; 32]);
    let path = "/session_version?platform=android";
    let doubled = format!("/{path}");
    // The server knows no version here, so that it answers 502 once the signature is accepted.
    for (requested, signed, expected) in [
        (path, path, 502),
        (doubled.as_str(), path, 502),
        ("///session_version?platform=android", path, 502),
        (doubled.as_str(), doubled.as_str(), 401),
        (path, doubled.as_str(), 401),
    ] {
        let headers = sign(&key, now, &format!("GET{signed}"));
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let answer = onion
            .server
            .connect()
            .request("GET", requested, &headers, b"");
        assert_eq!(answer.status, expected, "{requested} signed as {signed}");
        // The method is signed in upper case, however it is written.
        for method in ["GET", "get"] {
            let reply = onion.v4(&v4_plaintext(method, requested, &headers, None));
            assert_eq!(reply.status, expected, "v4: {requested} signed as {signed}");
        }
    }
}

#[test]
fn empty_header_fields_count_as_absent() {
    let server = Server::with(&Database::new(), "files.expiry = '3 days'");
    let lives = |headers: &[(&str, &str)]| {
        let answer = server.post_with("/file", headers, b"a file");
        assert_eq!(answer.status, 200, "{headers:?}: {answer:?}");
        answer.number("expires") - answer.number("uploaded")
    };
    assert_eq!(lives(&[("X-FS-TTL", "")]), 259_200.0);
    assert_eq!(lives(&[("x-fs-ttl", "  ")]), 259_200.0);
    let path = "/session_version?platform=ios";
    let ask = |headers: &[(&str, &str)]| server.connect().request("GET", path, headers, b"");
    let empty = ["X-FS-Pubkey", "X-FS-Timestamp", "X-FS-Signature"].map(|name| (name, ""));
    for count in 0..=3 {
        // An unsigned request is accepted, and answered 502, because the server knows no version
        // here.
        assert_eq!(ask(&empty[..count]).status, 502);
    }
    let partly = [("X-FS-Pubkey", "07"), empty[1], empty[2]];
    assert_eq!(ask(&partly).status, 400);
}

/// How long a file lives if its client doesn't say it, seconds.
const EXPIRY: f64 = 259_200.0;

/// Header fields of an upload inside an onion request, and how long its file lives then.
const LIFETIMES: [(&str, f64); 16] = [
    (r#""X-FS-TTL": "60""#, 60.0),
    (r#""x-Fs-tTl": " 60 ""#, 60.0),
    (r#""X-FS-TTL": 60"#, 60.0),
    (r#""X-FS-TTL": 60.0"#, 60.0),
    (r#""X-FS-TTL": 6e1"#, 60.0),
    (r#""X-FS-TTL": 1e300"#, EXPIRY),
    (r#""X-FS-TTL": """#, EXPIRY),
    (r#""X-FS-TTL": "  ""#, EXPIRY),
    (r#""X-FS-TTL": null"#, EXPIRY),
    (r#""X-FS-TTL": false"#, EXPIRY),
    (r#""X-FS-TTL": true"#, EXPIRY),
    (r#""X-FS-TTL": []"#, EXPIRY),
    (r#""X-FS-TTL": {"60": 60}"#, EXPIRY),
    (r#""X-FS-TTL": null, "x-fs-ttl": 60"#, 60.0),
    (r#""X-FS-TTL": "", "x-fs-ttl": 60"#, 60.0),
    (r#""Content-Length": null, "X-FS-TTL": 60"#, 60.0),
];

/// Uploads a file with such header fields by both versions of onion requests, and tells how long
/// each lives.
fn lifetimes(onion: &Onion, headers: &str) -> [f64; 2] {
    // The file differs each time, because an upload of the same one never shortens its life.
    let meta = format!(r#"{{"method": "POST", "endpoint": "/file", "headers": {{{headers}}}}}"#);
    let v4 = onion.v4(&bencoded(&[&meta, headers]));
    assert_eq!(v4.status, 200, "v4: {headers:.100}");
    let v3 = json!({ "method": "POST", "endpoint": "file", "body": format!("v3{headers}") });
    let headers = format!(r#"{{"headers": {{{headers}}},"#);
    let v3 = v3.to_string().replacen('{', &headers, 1);
    let v3 = onion.exchange("/oxen/v3/lsrpc", 0, None, v3.as_bytes());
    let v3: Value = serde_json::from_slice(&v3).expect("JSON");
    [v4.json(), v3].map(|stored| {
        let time = |name: &str| stored[name].as_f64().expect("a time");
        time("expires") - time("uploaded")
    })
}

#[test]
fn header_fields_of_onion_requests_are_read_as_leniently_as_the_python_server_did() {
    let onion = Onion::start("files.expiry = '3 days'");
    for (headers, expected) in LIFETIMES {
        assert_eq!(lifetimes(&onion, headers), [expected; 2], "{headers}");
    }
    for others in [
        format!(r#""a": {}{}"#, "[".repeat(7000), "]".repeat(7000)),
        format!(r#""a": {{{}}}"#, vec![r#""a":[1,null]"#; 1000].join(",")),
        vec![r#""a": null"#; 63].join(","),
        format!(r#""a": "{}""#, "a".repeat(9000)),
    ] {
        let headers = format!(r#"{others}, "X-FS-TTL": 60"#);
        assert_eq!(lifetimes(&onion, &headers), [60.0; 2], "{others:.100}");
    }
    for bad in [
        r#""X-FS-TTL": 60.5"#,
        r#""X-FS-TTL": "never""#,
        r#""X-FS-TTL": -1"#,
    ] {
        let meta = format!(r#"{{"method": "POST", "endpoint": "/file", "headers": {{{bad}}}}}"#);
        assert_eq!(onion.v4(&bencoded(&[&meta, "x"])).status, 400, "{bad}");
    }
    let unsigned = r#"{"method": "GET", "endpoint": "/session_version?platform=ios&release_channel=",
        "headers": {"X-FS-Pubkey": "", "X-FS-Timestamp": null, "X-FS-Signature": ""}}"#;
    assert_eq!(onion.v4(&bencoded(&[unsigned, ""])).status, 502);
}

#[test]
fn methods_inside_onion_requests_are_taken_in_any_case_and_direct_ones_are_not() {
    let onion = Onion::start("");
    let id = onion.server.upload(b"a file");
    let path = format!("/file/{id}");
    for (method, path, status) in [
        ("get", path.clone(), 200),
        ("Get", path.clone(), 200),
        ("hEAD", path.clone(), 200),
        ("post", format!("{path}/extend"), 200),
        ("delete", path.clone(), 405),
        ("put", path.clone(), 405),
    ] {
        assert_eq!(
            onion.v4_request(method, &path, None).status,
            status,
            "v4: {method} {path}"
        );
        let reply = onion.v3(json!({ "method": method, "endpoint": path }));
        let failed = reply == json!({ "status_code": status }).to_string().as_bytes();
        assert_eq!(failed, status != 200, "v3: {method} {path}");
        let direct = onion.server.connect().request(method, &path, &[], b"");
        assert_eq!(direct.status, 405, "{method} {path}");
    }
}

#[test]
fn a_v3_post_needs_no_body() {
    let onion = Onion::start("");
    let endpoint = format!("file/{}/extend", onion.server.upload(b"a file"));
    for request in [
        json!({ "method": "POST", "endpoint": endpoint }),
        json!({ "method": "POST", "endpoint": endpoint, "body": null }),
        json!({ "method": "POST", "endpoint": endpoint, "body": "" }),
        json!({ "method": "POST", "endpoint": endpoint, "body": "null" }),
        json!({ "method": "POST", "endpoint": endpoint, "headers": { "X-FS-TTL": "60" } }),
    ] {
        let reply: Value = serde_json::from_slice(&onion.v3(request)).expect("JSON");
        assert_eq!(reply["size"], 6);
    }
    // Without a body, `file` gets an empty file, and `files` no JSON.
    for (endpoint, status) in [("file", 413), ("files", 400)] {
        let reply = onion.v3(json!({ "method": "POST", "endpoint": endpoint }));
        assert_eq!(
            reply,
            json!({ "status_code": status }).to_string().as_bytes()
        );
    }
}

#[test]
fn meta_of_16_kib_is_taken_and_one_byte_more_is_not() {
    let onion = Onion::start("");
    for (length, status) in [(9_000, 200), (16_384, 200), (16_385, 400)] {
        let meta = r#"{"method": "POST", "endpoint": "/file", "headers": {"a": ""}}"#;
        let field = format!(r#""a": "{}""#, "a".repeat(length - meta.len()));
        let meta = meta.replace(r#""a": """#, &field);
        assert_eq!(meta.len(), length);
        assert_eq!(
            onion.v4(&bencoded(&[&meta, "a file"])).status,
            status,
            "{length}"
        );
    }
    // A large meta leaves the largest file its full size.
    let onion = Onion::start("files.max_size = 12_000_000");
    let file = bytes(1, 12_000_000);
    let padding = "a".repeat(16_000);
    let plaintext = v4_plaintext("POST", "/file", &[("a", &padding)], Some(&file));
    assert_eq!(onion.v4(&plaintext).status, 200);
}
