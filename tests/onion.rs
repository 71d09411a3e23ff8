//! Onion requests, by the test vectors of an independent implementation, over the running
//! binary, and as properties.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{Database, Onion, Reply, Server, bencoded, bytes, new_exchange, nonce};
use proptest::prelude::*;
use serde_json::{Value, json};
use session_file_server::buffer::Buffer;
use session_file_server::protocol::keys::{KeyPair, ServerKeys};
use session_file_server::protocol::onion::cipher::{Cipher, EncType, FreshNonce};
use session_file_server::protocol::onion::client::{OnionRequest, v4_plaintext};
use session_file_server::protocol::onion::envelope::Envelope;
use session_file_server::protocol::onion::{bencode, v3_sub_request, v4_sub_request};

/// The encryption types that a request may name, and `None` for a request that names none.
const ENC_TYPES: [Option<&str>; 5] = [
    Some("xchacha20"),
    Some("xchacha20-poly1305"),
    Some("aes-gcm"),
    Some("gcm"),
    None,
];

fn vectors(text: &str) -> Vec<Value> {
    let vectors: Vec<Value> = serde_json::from_str(text).expect("JSON");
    assert!(!vectors.is_empty());
    vectors
}

fn unhex(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("a text")).expect("hexadecimal")
}

fn key(value: &Value) -> [u8; 32] {
    unhex(value).try_into().expect("32 bytes")
}

#[test]
fn every_vector_decrypts_to_its_plaintext_and_its_reply_with_its_key() {
    let own = vectors(include_str!("vectors/keys.json"));
    for vector in vectors(include_str!("vectors/onion.json")) {
        let name = &vector["name"];
        let secret = key(&vector["server_x25519_secret"]);
        let ours = KeyPair::of_secret(secret.into());
        assert_eq!(
            ours.public()[..],
            unhex(&vector["server_x25519_public"]),
            "{name}"
        );
        // The key of the request may be the server's Ed25519-derived key, or its older key beside
        // another Ed25519-derived one.
        let seed = own
            .iter()
            .find(|own| own["x25519_secret"] == vector["server_x25519_secret"]);
        let seed = key(&seed.expect("a key of keys.json")["ed25519_seed"]);
        for keys in [
            ServerKeys::from_secrets(&seed, None),
            ServerKeys::from_secrets(&seed, Some(&[3; 32])),
            ServerKeys::from_secrets(&[3; 32], Some(&secret)),
        ] {
            let mut request = unhex(&vector["request"]);
            let envelope = Envelope::parse(&request).unwrap_or_else(|| panic!("{name}"));
            let (cipher, plaintext) = envelope
                .open(&mut request, &keys)
                .unwrap_or_else(|| panic!("{name}"));
            assert_eq!(plaintext, unhex(&vector["plaintext"]), "{name}");
            let mut reply = unhex(&vector["reply_ciphertext"]);
            let reply = cipher.open(&mut reply).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(reply, unhex(&vector["reply_plaintext"]), "{name}");
            match vector["version"].as_u64() {
                Some(4) => assert!(v4_sub_request(plaintext).is_some(), "{name}"),
                _ => assert!(v3_sub_request(plaintext).is_some(), "{name}"),
            }
        }
        let mut request = unhex(&vector["request"]);
        let envelope = Envelope::parse(&request).expect("parsed above");
        let others = ServerKeys::from_secrets(&[3; 32], None);
        assert!(envelope.open(&mut request, &others).is_none(), "{name}");
    }
}

/// Calls `test` for each encryption type and key of a server, with a number and with a function
/// that sends v4 requests by that type and key.
fn with_every_enc_type_and_key(onion: &Onion, test: impl Fn(u64, &Ask)) {
    for (number, (enc_type, key)) in ENC_TYPES.iter().flat_map(|t| [(t, 0), (t, 1)]).enumerate() {
        test(number as u64, &|method, endpoint, headers, body| {
            let plaintext = v4_plaintext(method, endpoint, headers, body);
            Reply::read(&onion.exchange("/oxen/v4/lsrpc", key, *enc_type, &plaintext))
        });
    }
}

/// A function that sends a request, with its method, endpoint, header fields and body.
type Ask<'a> = dyn Fn(&str, &str, &[(&str, &str)], Option<&[u8]>) -> Reply + 'a;

#[test]
fn every_endpoint_answers_through_v4_with_every_enc_type_and_both_keys() {
    let onion = Onion::start("");
    with_every_enc_type_and_key(&onion, |number, ask| {
        let file = bytes(number, 3000 + number as usize);
        let stored = ask("POST", "/file", &[("X-FS-TTL", "3600")], Some(&file));
        assert_eq!(
            (stored.status, stored.content_type()),
            (200, "application/json")
        );
        let answer = stored.json();
        let id = answer["id"].as_str().expect("an id");
        let lives = answer["expires"].as_f64().zip(answer["uploaded"].as_f64());
        assert!(
            lives.is_some_and(|(expires, uploaded)| expires - uploaded == 3600.0),
            "{answer}"
        );

        let found = ask("GET", &format!("/file/{id}"), &[], None);
        assert_eq!(
            (found.status, found.content_type()),
            (200, "application/octet-stream")
        );
        assert!(found.body == file);
        assert!(found.meta["headers"]["expires"].is_string());
        assert!(found.meta["headers"].get("content-length").is_none());
        for path in [format!("/file/{id}"), format!("/file/{id}/info")] {
            let head = ask("HEAD", &path, &[], None);
            assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        }
        let info = ask("GET", &format!("/file/{id}/info"), &[], Some(b""));
        assert_eq!(info.json()["size"], file.len());
        let extended = ask("POST", &format!("/file/{id}/extend"), &[], Some(b""));
        assert!(extended.json()["expires"].as_f64() > answer["expires"].as_f64());

        let upload = json!({ "file": STANDARD.encode(&file) }).to_string();
        let old = ask("POST", "/files", &[], Some(upload.as_bytes()));
        let found = ask("GET", &format!("/files/{}", old.json()["id"]), &[], None);
        assert_eq!(found.json()["result"], STANDARD.encode(&file));
        assert_eq!(ask("GET", "/health", &[], None).status, 200);
    });
}

#[test]
fn refusals_come_through_v4_with_every_enc_type_and_both_keys() {
    let onion = Onion::start("");
    with_every_enc_type_and_key(&onion, |_, ask| {
        for (method, path, status) in [
            ("GET", "/file/nothing", 404),
            ("GET", "/nothing", 404),
            ("DELETE", "/file/abc", 405),
            ("POST", "/file", 413),
            ("GET", "/session_version?platform=ios", 502),
            ("GET", "/session_version?platform=none", 404),
            ("GET", "/token_info?days=3", 502),
        ] {
            let refused = ask(method, path, &[], None);
            assert_eq!(refused.status, status, "{method} {path}");
            assert_eq!(refused.json(), json!({ "status_code": status }));
        }
    });
}

#[test]
fn the_largest_file_goes_through_the_onion_and_one_byte_more_is_413() {
    let onion = Onion::start("");
    for enc_type in [Some("xchacha20"), Some("aes-gcm")] {
        let file = bytes(1, 10_223_616);
        let plaintext = v4_plaintext("POST", "/file", &[], Some(&file));
        let stored = Reply::read(&onion.exchange("/oxen/v4/lsrpc", 0, enc_type, &plaintext));
        let id = stored.json()["id"].as_str().expect("an id").to_string();
        let plaintext = v4_plaintext("GET", &format!("/file/{id}"), &[], None);
        let found = Reply::read(&onion.exchange("/oxen/v4/lsrpc", 0, enc_type, &plaintext));
        assert!(found.body == file);
    }
    let refused = onion.v4_request("POST", "/file", Some(&bytes(1, 10_223_617)));
    assert_eq!(
        (refused.status, refused.json()),
        (413, json!({ "status_code": 413 }))
    );
}

#[test]
fn a_request_over_the_limit_is_413_and_a_larger_max_size_raises_it() {
    let onion = Onion::start("");
    let mut connection = onion.server.connect();
    connection.head("POST", "/oxen/v4/lsrpc", &[("Content-Length", "10485761")]);
    connection.answer("POST").assert_error(413);
    let onion = Onion::start("files.max_size = 12_000_000");
    let file = bytes(1, 12_000_000);
    assert_eq!(onion.v4_request("POST", "/file", Some(&file)).status, 200);
}

/// Plaintexts that are no list of a meta and perhaps a body.
const NO_LIST: [&str; 16] = [
    "",
    "e",
    "l",
    "le",
    "i5e",
    "GET /file",
    "d1:a1:be",
    "l5:abce",
    "l99999999999999999999:{}e",
    "l-2:{}e",
    "l2:{}",
    "l2:{}ee",
    "l2:{}0:0:e",
    "l2:{}e\n",
    "l2:{}e",
    "l2:[]e",
];

/// Metas that are no request.
const NO_REQUEST: [&str; 10] = [
    r#""GET""#,
    r#"["GET", "/file/a"]"#,
    r#"{"endpoint": "/file/a"}"#,
    r#"{"method": "GET"}"#,
    r#"{"method": 5, "endpoint": "/file/a"}"#,
    r#"{"method": "GET", "endpoint": null}"#,
    r#"{"method": "GET", "endpoint": "file/a"}"#,
    r#"{"method": "GET", "endpoint": ""}"#,
    r#"{"method": "GET", "endpoint": "/file/a", "headers": []}"#,
    r#"{"method": "GET", "method": "GET", "endpoint": "/file/a"}"#,
];

#[test]
fn a_malformed_v4_plaintext_is_an_encrypted_400() {
    let onion = Onion::start("");
    let long = "a".repeat(16 * 1024);
    let many: Vec<String> = (0..65).map(|n| format!(r#""{n}": 1"#)).collect();
    let many = many.join(",");
    let deep = "[".repeat(4000);
    let too_much = [
        r#"{"method": "GET", "endpoint": "/file/a"} x"#.to_string(),
        format!(r#"{{"method": "GET", "endpoint": "/{long}"}}"#),
        format!(r#"{{"method": "GET", "endpoint": "/health", "headers": {{{many}}}}}"#),
        format!(r#"{{"method": "GET", "endpoint": "/", "x": {deep}"#),
    ];
    let metas = NO_REQUEST.map(String::from).into_iter().chain(too_much);
    let plaintexts = NO_LIST.map(|text| text.as_bytes().to_vec()).into_iter();
    for plaintext in plaintexts.chain(metas.map(|meta| bencoded(&[&meta]))) {
        let shown = String::from_utf8_lossy(&plaintext);
        let reply = onion.v4(&plaintext);
        assert_eq!(reply.status, 400, "{shown:.200}");
        assert_eq!(reply.content_type(), "text/plain; charset=utf-8");
        assert_eq!(reply.body, b"Invalid v4 onion request");
    }
    let not_utf8 = [&b"l2:{"[..], &[0xff], b"e"].concat();
    assert_eq!(onion.v4(&not_utf8).status, 400);
}

#[test]
fn what_real_clients_send_in_v4_is_accepted() {
    let onion = Onion::start("");
    let ask = |meta: &str, body: &str| onion.v4(&bencoded(&[meta, body]));
    // Desktop sends numbers, others null; a content-length inside is ignored.
    let meta = r#"{"method": "POST", "endpoint": "/file", "headers": {"x-fs-ttl": 60, "Content-Length": 1}}"#;
    let stored = ask(meta, "a file").json();
    assert_eq!(stored["size"], 6);
    let lives = stored["expires"].as_f64().zip(stored["uploaded"].as_f64());
    assert!(
        lives.is_some_and(|(expires, uploaded)| expires - uploaded == 60.0),
        "{stored}"
    );
    let meta = r#"{"method": "POST", "endpoint": "/file", "headers": null, "more": {"a": [1]}}"#;
    assert_eq!(ask(meta, "a file").json()["id"], stored["id"]);
    let meta = r#"{"endpoint": "\/file?a=b", "method": "POST"}"#;
    assert_eq!(ask(meta, "a file").json()["id"], stored["id"]);
}

#[test]
fn an_onion_in_an_onion_is_404() {
    let onion = Onion::start("");
    for endpoint in [
        "/oxen/v4/lsrpc",
        "/oxen/v3/lsrpc",
        "/loki/v3/lsrpc",
        "/oxen/v4/lsrpc?a",
    ] {
        let inner = new_exchange(&onion.public_keys[0], None);
        let inner = inner.seal(&v4_plaintext("GET", "/health", &[], None), nonce());
        assert_eq!(
            onion.v4_request("POST", endpoint, inner.as_deref()).status,
            404
        );
        let reply = onion.v3(json!({ "method": "POST", "endpoint": endpoint, "body": "" }));
        assert_eq!(reply, br#"{"status_code":404}"#);
    }
}

/// Fails unless that server answers 400 to that request on each path.
fn assert_refused(onion: &Onion, request: &[u8]) {
    for path in ["/oxen/v4/lsrpc", "/oxen/v3/lsrpc", "/loki/v3/lsrpc"] {
        onion.server.post(path, request).assert_error(400);
    }
}

#[test]
fn what_cannot_be_decrypted_is_400_without_a_hint() {
    let onion = Onion::start("");
    let plaintext = v4_plaintext("GET", "/health", &[], None);
    for enc_type in ENC_TYPES {
        // The request is sealed for another server, or is broken in each of its parts.
        let other = new_exchange(&[9; 32], enc_type).seal(&plaintext, nonce());
        assert_refused(&onion, &other.expect("sealed"));
        let exchange = new_exchange(&onion.public_keys[0], enc_type);
        let good = exchange.seal(&plaintext, nonce()).expect("sealed");
        let json = good.iter().rposition(|byte| *byte == b'{').expect("JSON");
        for position in [0, 1, 3, 4, 20, json - 1, json, json + 20, good.len() - 1] {
            let mut bad = good.clone();
            bad[position] ^= 1;
            assert_refused(&onion, &bad);
        }
        for end in [0, 3, 4, 30, json, good.len() - 1] {
            assert_refused(&onion, &good[..end]);
        }
    }
}

/// A request with a ciphertext of so many zero bytes.
fn framed(ciphertext: usize, json: &str) -> Vec<u8> {
    let length = (ciphertext as u32).to_le_bytes();
    [&length, vec![0; ciphertext].as_slice(), json.as_bytes()].concat()
}

#[test]
fn what_does_not_say_how_it_is_encrypted_is_400_without_a_hint() {
    let onion = Onion::start("");
    let good_key = hex::encode([8; 32]);
    let with_key = |key: &str, more: &str| format!(r#"{{"ephemeral_key": "{key}"{more}"#);
    let mut texts = ["", "{", "{}", "[]", "null"].map(String::from).to_vec();
    texts.extend([
        r#"{"enc_type": "gcm"}"#.into(),
        r#"{"ephemeral_key": 5}"#.into(),
        r#"{"ephemeral_key": "00"}"#.into(),
        with_key(&"g".repeat(64), "}"),
        with_key(&good_key, r#", "enc_type": "rot13"}"#),
        with_key(&good_key, r#", "enc_type": 7}"#),
        with_key(&good_key, "} x"),
        with_key(&good_key, &format!(r#", "x": "{}"}}"#, "x".repeat(5000))),
        with_key(&good_key, &format!(r#", "x": {}"#, "[".repeat(3000))),
        // All-zero shared secrets.
        with_key(&"0".repeat(64), "}"),
        with_key(&format!("01{}", "0".repeat(62)), "}"),
    ]);
    for json in texts {
        assert_refused(&onion, &framed(100, &json));
    }
    for short in [0, 1, 27, 28] {
        assert_refused(&onion, &framed(short, &with_key(&good_key, "}")));
    }
}

#[test]
fn onion_endpoints_take_post_only() {
    let onion = Onion::start("");
    for path in ["/oxen/v4/lsrpc", "/oxen/v3/lsrpc", "/loki/v3/lsrpc"] {
        let answer = onion.server.get(path);
        answer.assert_error(405);
        assert_eq!(answer.header("Allow"), Some("POST"));
    }
}

#[test]
fn old_clients_upload_and_download_through_v3() {
    let onion = Onion::start("");
    for (path, enc_type) in [
        ("/oxen/v3/lsrpc", Some("aes-gcm")),
        ("/loki/v3/lsrpc", None),
    ] {
        let ask = |request: Value| {
            let reply = onion.exchange(path, 1, enc_type, request.to_string().as_bytes());
            serde_json::from_slice::<Value>(&reply).expect("JSON")
        };
        let body = json!({ "file": STANDARD.encode(b"a file") }).to_string();
        // A missing leading slash is added.
        let stored = ask(json!({ "method": "POST", "endpoint": "files", "body": body,
            "headers": { "Content-Type": "application/json" } }));
        assert_eq!(stored["status_code"], 200);
        let endpoint = format!("files/{}", stored["result"]);
        // Old Android clients send the text "null".
        for request in [
            json!({ "method": "GET", "endpoint": endpoint }),
            json!({ "method": "GET", "endpoint": endpoint, "body": "" }),
            json!({ "method": "GET", "endpoint": endpoint, "body": "null", "headers": {} }),
            json!({ "method": "GET", "endpoint": format!("/{endpoint}"), "headers": null }),
        ] {
            assert_eq!(ask(request)["result"], STANDARD.encode(b"a file"));
        }
        assert_eq!(
            ask(json!({ "method": "GET", "endpoint": "file/0" })),
            json!({ "status_code": 404 })
        );
    }
    // A sub-request's body comes as it is.
    let id = onion.server.upload(&bytes(1, 5000));
    let reply = onion.v3(json!({ "method": "GET", "endpoint": format!("file/{id}") }));
    assert!(reply == bytes(1, 5000));
}

#[test]
fn a_malformed_v3_plaintext_is_an_encrypted_400() {
    let onion = Onion::start("");
    for plaintext in [
        "",
        "{",
        "[]",
        "null",
        "5",
        "{}",
        r#"{"method": "GET"}"#,
        r#"{"endpoint": "health"}"#,
        r#"{"method": "GET", "endpoint": 5}"#,
        r#"{"method": "GET", "endpoint": "health", "body": "something"}"#,
        r#"{"method": "GET", "endpoint": "health", "body": 5}"#,
        r#"{"method": "GET", "endpoint": "health", "headers": 5}"#,
        r#"{"method": "POST", "endpoint": "files", "body": {"file": "YQ=="}}"#,
        r#"{"method": "GET", "endpoint": "health"} x"#,
        &format!(
            r#"{{"method": "GET", "endpoint": "health", "x": {}"#,
            "[".repeat(100_000)
        ),
    ] {
        let reply = onion.exchange("/oxen/v3/lsrpc", 0, None, plaintext.as_bytes());
        assert_eq!(reply, br#"{"status_code":400}"#, "{plaintext:.100}");
    }
}

#[test]
fn a_reply_never_repeats_a_nonce() {
    let onion = Onion::start("");
    let exchange = new_exchange(&onion.public_keys[0], Some("gcm"));
    let request = exchange.seal(&v4_plaintext("GET", "/health", &[], None), nonce());
    let request = request.expect("sealed");
    let mut nonces: Vec<Vec<u8>> = (0..50)
        .map(|_| onion.server.post("/oxen/v4/lsrpc", &request).body[..12].to_vec())
        .collect();
    nonces.sort();
    nonces.dedup();
    assert_eq!(nonces.len(), 50);
}

#[test]
fn the_key_is_made_once_and_private() {
    use std::os::unix::fs::PermissionsExt;
    let database = Database::new();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    let setting = format!("keys.ed25519 = '{}'", path.display());
    let keys = [(); 2].map(|()| {
        drop(Server::with(&database, &setting));
        std::fs::read_to_string(&path).expect("made at the first start")
    });
    assert_eq!(keys[0], keys[1], "never overwritten");
    assert_eq!(keys[0].trim_end().len(), 128);
    let metadata = std::fs::metadata(&path).expect("there");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let names: Vec<_> = std::fs::read_dir(folder.path()).expect("there").collect();
    assert_eq!(names.len(), 1, "nothing is left beside it");
}

#[test]
fn the_key_is_printed_and_logged_without_its_secret() {
    let database = Database::new();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    let setting = format!("keys.ed25519 = '{}'", path.display());
    let log = Server::with(&database, &setting).log();
    let key = std::fs::read_to_string(&path).expect("made at the start");
    let (secret, public) = key.trim_end().split_at(64);
    let seed = hex::decode(secret).expect("hexadecimal");
    let keys = ServerKeys::from_secrets(&seed.try_into().expect("32 bytes"), None);
    let x25519 = hex::encode(keys.pairs()[0].public());
    std::fs::write(folder.path().join("config.toml"), &setting).expect("writable");
    let output = common::run(folder.path(), &["keys"]);
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    for expected in [
        format!("Ed25519 public key: {public}"),
        format!("X25519 public key: {x25519}"),
        format!("\n  #p={public}\n"),
        format!("(with #p={x25519}, the X25519 key, on iOS 2.15 and older)"),
    ] {
        assert!(
            printed.contains(&expected),
            "{expected} is not in {printed}"
        );
    }
    let ending = format!("http://HOST/file/ID#p={public}");
    assert!(log.contains(&x25519) && log.contains(&ending), "{log}");
    let endings = |text: &str| text.lines().filter(|l| l.trim().starts_with("#p=")).count();
    assert_eq!(endings(&printed), 1, "{printed}");
    assert_eq!(log.matches("#p=").count(), 1, "{log}");
    let shows_secret = printed.contains(secret) || log.contains(secret);
    assert!(!shows_secret, "no secret is shown");
}

#[test]
fn a_broken_or_missing_key_is_refused_at_the_start() {
    let database = Database::new();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    let setting = format!("keys.ed25519 = '{}'", path.display());
    let halves_differ = format!("{}{}", "11".repeat(32), "22".repeat(32));
    for (content, expected) in [
        (halves_differ.as_str(), "public half"),
        ("", "forms"),
        ("not a key", "forms"),
    ] {
        std::fs::write(&path, content).expect("writable");
        let log = Server::try_with(&database.url, &setting)
            .err()
            .expect("refused");
        assert!(log.contains(expected) && log.contains("key"), "{log}");
        assert_eq!(
            std::fs::read_to_string(&path).expect("there"),
            content,
            "left as it was"
        );
    }
    let log = Server::try_with(&database.url, "keys.x25519 = 'missing'")
        .err()
        .expect("refused");
    assert!(log.contains("missing"), "{log}");
    std::fs::remove_file(&path).expect("there");
    std::fs::write(folder.path().join("config.toml"), &setting).expect("writable");
    let output = common::run(folder.path(), &["keys"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!path.exists(), "keys makes none");
}

proptest! {
    #[test]
    fn whatever_is_sealed_is_opened(
        plaintext in proptest::collection::vec(any::<u8>(), 0..2000),
        which in 0..ENC_TYPES.len(),
        ephemeral: [u8; 32],
        nonce: [u8; 24],
    ) {
        let keys = ServerKeys::from_secrets(&[1; 32], Some(&[2; 32]));
        for pair in keys.pairs() {
            let exchange = OnionRequest::new(pair.public(), ENC_TYPES[which], ephemeral).expect("valid");
            let mut request = exchange.seal(&plaintext, FreshNonce(nonce)).expect("sealed");
            let envelope = Envelope::parse(&request).expect("well-formed");
            let (cipher, opened) = envelope.open(&mut request, &keys).expect("for us");
            prop_assert_eq!(opened, &plaintext[..]);
            let mut reply = Buffer::from(vec![0; cipher.nonce_length()]);
            reply.extend_from_slice(&plaintext);
            cipher.seal(&mut reply, FreshNonce(nonce)).expect("sealed");
            prop_assert_eq!(exchange.open(reply.to_vec()), Some(plaintext.clone()));
        }
    }

    #[test]
    fn a_flipped_bit_is_never_opened(
        plaintext in proptest::collection::vec(any::<u8>(), 0..200),
        aes: bool,
        position: prop::sample::Index,
        bit in 0u32..8,
    ) {
        let enc_type = if aes { EncType::AesGcm } else { EncType::XChaCha20 };
        let cipher = Cipher::agree(enc_type, &KeyPair::of_secret([1; 32].into()), &[9; 32]);
        let cipher = cipher.expect("a key");
        let mut sealed = Buffer::from(vec![0; cipher.nonce_length()]);
        sealed.extend_from_slice(&plaintext);
        cipher.seal(&mut sealed, FreshNonce([4; 24])).expect("sealed");
        let position = position.index(sealed.len());
        sealed[position] ^= 1u8 << bit;
        prop_assert!(cipher.open(&mut sealed).is_none());
    }

    #[test]
    fn no_bytes_make_a_parser_panic(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Envelope::parse(&input);
        let _ = v4_sub_request(&input);
        let _ = v3_sub_request(&input);
    }

    #[test]
    fn a_bencoded_list_has_one_spelling(input in "l([0-9]{1,2}:[a-z]{0,12}){0,3}e?") {
        if let Some((first, second)) = bencode::parse(input.as_bytes()) {
            let mut again = Vec::new();
            match second {
                Some(second) => {
                    bencode::write_head(&mut again, first, second.len());
                    again.extend_from_slice(second);
                }
                None => {
                    again.extend_from_slice(format!("l{}:", first.len()).as_bytes());
                    again.extend_from_slice(first);
                }
            }
            again.push(b'e');
            prop_assert_eq!(again, input.as_bytes());
        }
    }
}
