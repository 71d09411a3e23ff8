//! Inputs that the fuzz targets understand, from which mutations begin.

use serde_json::{Value, json};

/// The requests of the test vectors, as they come and as they are decrypted.
pub fn onion() -> Vec<Vec<u8>> {
    let vectors = include_str!("../vectors/onion.json");
    let vectors: Vec<Value> = serde_json::from_str(vectors).expect("JSON");
    let parts = vectors
        .iter()
        .flat_map(|vector| [&vector["request"], &vector["plaintext"]]);
    parts
        .map(|part| hex::decode(part.as_str().expect("a string")).expect("hexadecimal"))
        .collect()
}

/// A text of each kind, behind the byte by which the target knows its kind.
pub fn texts() -> Vec<Vec<u8>> {
    let sample = include_str!("../../config.sample.toml").lines();
    let settings: Vec<&str> = sample
        .filter(|line| !line.is_empty() && !line.starts_with("# "))
        .map(|line| line.trim_start_matches('#'))
        .collect();
    let releases = json!([{
        "tag_name": "v1.2.3", "prerelease": false, "draft": false, "name": "n", "body": "b",
        "assets": [{ "name": "a", "url": "u" }],
    }]);
    let signed = ["07".repeat(33), "1800000000".into(), "ab".repeat(64)];
    let texts = [
        (0, settings.join("\n")),
        (1, releases.to_string()),
        (2, "aGVsbG8=".into()),
        (3, signed.join("\n")),
        (4, "v1.2.3-beta.4".into()),
        (4, "host:5432/db?connect_timeout=3".into()),
    ];
    texts
        .into_iter()
        .map(|(kind, text)| [&[kind], text.as_bytes()].concat())
        .collect()
}

/// What clients send over a connection.
pub fn edge() -> Vec<Vec<u8>> {
    let head = "POST /file HTTP/1.1\r\nHost: x\r\n";
    let requests = [
        "GET /file/abc HTTP/1.1\r\nHost: x\r\n\r\n".repeat(3),
        format!("{head}Content-Length: 5\r\n\r\nhello")
            + &format!("{head}Content-Length: 2000\r\n\r\n{}", "x".repeat(2000)),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        format!("{head}Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"),
        "GET / HTTP/1.0\r\nConnection: keep-alive, upgrade\r\nTE: chunked\r\n\r\n".into(),
        "HEAD http://a.example/x?y HTTP/1.1\r\nHost: x\r\n\r\n".into(),
    ];
    requests.into_iter().map(String::into_bytes).collect()
}
