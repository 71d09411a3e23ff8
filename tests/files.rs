//! The endpoints for files, over direct HTTP.

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use common::{Cluster, Database, Response, Server, bytes};
use serde_json::{Value, json};

/// A week, seconds.
const WEEK: f64 = 7.0 * 86_400.0;

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs_f64()
}

/// Fails unless the file of `answer` lives for `ttl` seconds from now, give or take a minute.
fn assert_expires_in(answer: &Response, ttl: f64) {
    let found = answer.number("expires") - now();
    assert!(
        (ttl - 60.0..=ttl + 1.0).contains(&found),
        "expires in {found} s, not in {ttl} s"
    );
}

fn ttl(seconds: &str) -> [(&str, &str); 1] {
    [("X-FS-TTL", seconds)]
}

#[test]
fn an_upload_is_named_by_its_content_and_comes_back_as_it_was() {
    let server = Server::start(&Database::new());
    let vectors: Vec<Value> =
        serde_json::from_str(include_str!("vectors/file-ids.json")).expect("JSON");
    for vector in vectors.iter().filter(|vector| vector["data"].is_string()) {
        let data = hex::decode(vector["data"].as_str().expect("a text")).expect("hexadecimal");
        let answer = server.post("/file", &data);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
        assert_eq!(answer.json()["id"], vector["id"]);
        assert_eq!(answer.json()["size"], data.len());
        assert!((answer.number("uploaded") - now()).abs() < 60.0);
        assert_expires_in(&answer, 3.0 * WEEK);

        let id = vector["id"].as_str().expect("a text");
        let file = server.get(&format!("/file/{id}"));
        assert_eq!(file.status, 200);
        assert_eq!(
            file.header("Content-Type"),
            Some("application/octet-stream")
        );
        assert_eq!(
            file.header("Content-Length"),
            Some(data.len().to_string().as_str())
        );
        let expires = httpdate::parse_http_date(file.header("Expires").expect("Expires"));
        let expires = expires
            .expect("a date")
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        assert!((expires.as_secs_f64() - answer.number("expires")).abs() <= 1.0);
        assert_eq!(file.body, data);

        let info = server.get(&format!("/file/{id}/info"));
        assert_eq!(info.status, 200);
        for field in ["size", "uploaded", "expires"] {
            assert_eq!(info.json()[field], answer.json()[field]);
        }
        assert_eq!(info.json().as_object().map(|fields| fields.len()), Some(3));
    }
}

#[test]
fn head_answers_like_get_without_the_body() {
    let server = Server::start(&Database::new());
    let id = server.upload(&bytes(1, 100_000));
    let mut connection = server.connect();
    for path in [
        format!("/file/{id}"),
        format!("/file/{id}/info"),
        "/health".into(),
        "/file/none".into(),
    ] {
        let get = connection.request("GET", &path, &[], b"");
        let head = connection.request("HEAD", &path, &[], b"");
        assert_eq!(head.status, get.status, "{path}");
        for name in ["Content-Type", "Content-Length", "Expires"] {
            assert_eq!(head.header(name), get.header(name), "{path} {name}");
        }
    }
}

#[test]
fn what_is_not_a_known_files_id_is_404() {
    let server = Server::start(&Database::new());
    let unknown = "A".repeat(44);
    for id in [
        "0",
        "abc",
        &unknown,
        &"A".repeat(45),
        "a.b",
        "a%41",
        "a+b",
        "",
        "%00",
        "..",
        "a/b",
    ] {
        server.get(&format!("/file/{id}")).assert_error(404);
        server.get(&format!("/file/{id}/info")).assert_error(404);
        server.get(&format!("/files/{id}")).assert_error(404);
        server
            .post(&format!("/file/{id}/extend"), b"")
            .assert_error(404);
    }
}

#[test]
fn impossible_ids_are_404_without_asking_the_database() {
    let mut cluster = Cluster::start();
    let server = Server::start(&cluster.database());
    cluster.stop();
    server.get("/file/possible").assert_error(503);
    server.get("/file/im.possible").assert_error(404);
    server
        .get(&format!("/file/{}", "A".repeat(45)))
        .assert_error(404);
    server.post("/file/123/extend", b"").assert_error(404);
}

#[test]
fn unknown_paths_are_404_and_wrong_methods_405_with_allow() {
    let server = Server::start(&Database::new());
    for path in ["/", "/file/", "/nothing", "/file/a/info/", "/File"] {
        server.get(path).assert_error(404);
    }
    for (method, path, allow) in [
        ("GET", "/file", "POST"),
        ("DELETE", "/file/abc", "GET, HEAD"),
        ("POST", "/file/abc", "GET, HEAD"),
        ("PUT", "/file/abc/info", "GET, HEAD"),
        ("GET", "/file/abc/extend", "POST"),
        ("HEAD", "/files", "POST"),
        ("OPTIONS", "/files/1", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("BREW", "/health", "GET, HEAD"),
    ] {
        let answer = server.connect().request(method, path, &[], b"");
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(answer.header("Allow"), Some(allow), "{method} {path}");
    }
}

#[test]
fn an_upload_that_is_empty_or_too_large_is_413() {
    let server = Server::with(&Database::new(), "files.max_size = 100_000");
    server.post("/file", b"").assert_error(413);
    server.post("/file", &bytes(1, 100_001)).assert_error(413);
    assert_eq!(server.post("/file", &bytes(1, 100_000)).status, 200);
    assert_eq!(server.post("/file", b"1").status, 200);
}

#[test]
fn a_content_length_that_is_too_large_is_413_before_the_body_is_read() {
    let server = Server::start(&Database::new());
    for length in ["10223617", "1000000000000000", "99999999999999999999999999"] {
        let mut connection = server.connect();
        connection.head("POST", "/file", &[("Content-Length", length)]);
        connection.answer("POST").assert_error(413);
    }
    assert_eq!(server.get("/health").status, 200, "the server lives");
}

#[test]
fn a_client_that_sends_a_too_large_body_all_the_same_gets_its_answer() {
    let server = Server::with(&Database::new(), "files.max_size = 1000");
    let answer = server.post("/file", &bytes(1, 20_000_000));
    answer.assert_error(413);
}

#[test]
fn a_client_that_waits_for_100_continue_is_told_to_go_on_or_not() {
    let server = Server::start(&Database::new());
    let body = bytes(7, 5000);
    let mut connection = server.connect();
    connection.head(
        "POST",
        "/file",
        &[("Content-Length", "5000"), ("Expect", "100-continue")],
    );
    let mut interim = [0; 12];
    connection.read_exact(&mut interim);
    assert_eq!(&interim, b"HTTP/1.1 100");
    connection.skip_head();
    connection.send(&body).expect("the server listens");
    assert_eq!(connection.answer("POST").status, 200);

    let mut connection = server.connect();
    connection.head(
        "POST",
        "/file",
        &[("Content-Length", "50000000"), ("Expect", "100-continue")],
    );
    connection.answer("POST").assert_error(413);
}

#[test]
fn broken_framing_is_refused() {
    let server = Server::start(&Database::new());
    let refused = |headers: &[(&str, &str)], status| {
        let mut connection = server.connect();
        connection.head("POST", "/file", headers);
        connection.send(b"bytes").expect("the server listens");
        connection.answer("POST").assert_error(status);
    };
    refused(&[], 411);
    refused(&[("Content-Length", "5"), ("Content-Length", "5")], 400);
    for length in ["", "-5", "+5", "5 5", "5,5", "0x5", "five"] {
        refused(&[("Content-Length", length)], 400);
    }
}

#[test]
fn a_body_that_ends_early_stores_nothing() {
    let database = Database::new();
    let server = Server::start(&database);
    let mut connection = server.connect();
    connection.head("POST", "/file", &[("Content-Length", "100000")]);
    connection
        .send(&bytes(1, 50_000))
        .expect("the server listens");
    connection.finish();
    assert_eq!(connection.answer("POST").status, 400);
    assert_eq!(database.number("SELECT count(*) FROM files"), 0);
}

#[test]
fn a_ttl_is_kept_cut_or_refused() {
    let server = Server::with(
        &Database::new(),
        "files.expiry = '1 week'\nfiles.max_ttl = '2 weeks'",
    );
    let upload = |seed, seconds| server.post_with("/file", &ttl(seconds), &bytes(seed, 10));
    assert_expires_in(&server.post("/file", b"without"), WEEK);
    assert_expires_in(&upload(1, "3600"), 3600.0);
    assert_expires_in(&upload(2, "1209600"), 2.0 * WEEK);
    assert_expires_in(&upload(3, "1209601"), 2.0 * WEEK);
    assert_expires_in(&upload(4, "99999999999999999999999"), 2.0 * WEEK);
    for bad in ["0", "-1", "1.5", "soon", "1 h"] {
        upload(5, bad).assert_error(400);
    }
    assert_expires_in(&upload(7, ""), WEEK);
    assert_eq!(upload(6, "1").status, 200);
}

#[test]
fn the_longest_ttl_is_the_expiry_unless_set_and_0_ignores_the_header() {
    let server = Server::with(&Database::new(), "files.expiry = '1 week'");
    assert_expires_in(&server.post_with("/file", &ttl("9999999"), b"a"), WEEK);
    let server = Server::with(
        &Database::new(),
        "files.expiry = '1 week'\nfiles.max_ttl = 0",
    );
    assert_expires_in(&server.post_with("/file", &ttl("60"), b"a"), WEEK);
    assert_expires_in(&server.post_with("/file", &ttl("nonsense"), b"b"), WEEK);
}

#[test]
fn the_same_bytes_again_are_one_row_that_never_expires_sooner() {
    let database = Database::new();
    let server = Server::start(&database);
    let body = bytes(1, 200_000);
    let first = server.post_with("/file", &ttl("7200"), &body);
    let shorter = server.post_with("/file", &ttl("60"), &body);
    assert_eq!(shorter.json()["id"], first.json()["id"]);
    assert_eq!(shorter.number("expires"), first.number("expires"));
    assert!(
        shorter.number("uploaded") > first.number("uploaded"),
        "uploaded becomes now"
    );
    let longer = server.post_with("/file", &ttl("14400"), &body);
    assert_expires_in(&longer, 14400.0);
    assert_eq!(longer.json()["size"], body.len());
    assert_eq!(database.number("SELECT count(*) FROM files"), 1);
}

#[test]
fn twenty_uploads_of_the_same_bytes_at_once_are_one_row() {
    let database = Database::new();
    let server = Server::start(&database);
    let body = bytes(1, 500_000);
    std::thread::scope(|scope| {
        let uploads: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| server.upload(&body)))
            .collect();
        let ids: Vec<String> = uploads
            .into_iter()
            .map(|u| u.join().expect("200"))
            .collect();
        assert!(ids.iter().all(|id| *id == ids[0]));
    });
    assert_eq!(database.number("SELECT count(*) FROM files"), 1);
}

#[test]
fn extending_lengthens_and_never_shortens() {
    let server = Server::with(&Database::new(), "files.max_ttl = '4 weeks'");
    let answer = server.post_with("/file", &ttl("60"), b"a file");
    let path = format!(
        "/file/{}/extend",
        answer.json()["id"].as_str().expect("an id")
    );
    assert_expires_in(&server.post_with(&path, &ttl("3600"), b""), 3600.0);
    assert_expires_in(&server.post(&path, b""), 3.0 * WEEK);
    let shorter = server.post_with(&path, &ttl("60"), b"");
    assert_expires_in(&shorter, 3.0 * WEEK);
    assert_eq!(shorter.json()["size"], 6);
    assert_eq!(shorter.number("uploaded"), answer.number("uploaded"));
    assert_eq!(
        shorter.json().as_object().map(|fields| fields.len()),
        Some(3)
    );
    server
        .post_with(&path, &ttl("never"), b"")
        .assert_error(400);
    // Without a body there need not be a Content-Length.
    let mut connection = server.connect();
    connection.head("POST", &path, &[]);
    assert_eq!(connection.answer("POST").status, 200);
}

#[test]
fn an_expired_file_is_gone_before_it_is_deleted() {
    let database = Database::new();
    let server = Server::with(&database, "files.cleanup_interval = '1 day'");
    server.wait_for_first_cleanup();
    let id = server.upload(b"a file");
    database.execute("UPDATE files SET expiry = now() - interval '1 ms'");
    server.get(&format!("/file/{id}")).assert_error(404);
    server.get(&format!("/file/{id}/info")).assert_error(404);
    server.get(&format!("/files/{id}")).assert_error(404);
    server
        .post(&format!("/file/{id}/extend"), b"")
        .assert_error(404);
    assert_eq!(
        server
            .connect()
            .request("HEAD", &format!("/file/{id}"), &[], b"")
            .status,
        404
    );
    assert_eq!(database.number("SELECT count(*) FROM files"), 1);
    // Uploaded again, it is there again.
    assert_eq!(server.upload(b"a file"), id);
    assert_eq!(server.get(&format!("/file/{id}")).body, b"a file");
}

#[test]
fn numeric_ids_are_random_decimals_with_the_servers_prefix() {
    let database = Database::new();
    let server = Server::with(
        &database,
        "files.numeric_ids = true\nfiles.numeric_id_prefix = '01'",
    );
    let ids: Vec<String> = (0..20).map(|_| server.upload(b"the same bytes")).collect();
    for id in &ids {
        let number: u64 = id.parse().expect("a decimal number");
        assert_eq!(number >> 51, 0b01, "{id}");
        assert_eq!(server.get(&format!("/file/{id}")).body, b"the same bytes");
        assert_eq!(server.get(&format!("/file/{id}/info")).status, 200);
        server
            .post(&format!("/file/{id}/extend"), b"")
            .assert_error(404);
    }
    assert_eq!(database.number("SELECT count(DISTINCT id) FROM files"), 20);
}

#[test]
fn old_clients_upload_and_download_in_base64() {
    let database = Database::new();
    let server = Server::with(&database, "files.numeric_id_prefix = '10'");
    for (length, encoded) in [
        (10, STANDARD.encode(bytes(1, 10))),
        (10, STANDARD_NO_PAD.encode(bytes(1, 10))),
        (3000, STANDARD.encode(bytes(1, 3000)).replace('/', "\\/")),
    ] {
        let body = format!(r#"{{"other": [1, {{"x": null}}], "file": "{encoded}"}}"#);
        let answer = server.post("/files", body.as_bytes());
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
        let id = answer.json()["id"].as_u64().expect("an integer");
        assert_eq!(id >> 51, 0b10);
        assert_eq!(
            answer.json(),
            json!({ "status_code": 200, "result": id, "id": id })
        );
        let found = server.get(&format!("/files/{id}"));
        let expected = STANDARD.encode(bytes(1, length));
        assert_eq!(
            found.json(),
            json!({ "status_code": 200, "result": expected })
        );
        assert_eq!(server.get(&format!("/file/{id}")).body, bytes(1, length));
        assert_expires_in(&server.get(&format!("/file/{id}/info")), 3.0 * WEEK);
    }
    // The old endpoint hands out new files too.
    let id = server.upload(b"new");
    assert_eq!(server.get(&format!("/files/{id}")).json()["result"], "bmV3");
}

#[test]
fn old_clients_mistakes_are_400_and_wrong_sizes_413() {
    let server = Server::with(&Database::new(), "files.max_size = 100");
    let encoded = |length| format!(r#"{{"file": "{}"}}"#, STANDARD.encode(bytes(1, length)));
    assert_eq!(server.post("/files", encoded(100).as_bytes()).status, 200);
    server
        .post("/files", encoded(101).as_bytes())
        .assert_error(413);
    server
        .post("/files", encoded(0).as_bytes())
        .assert_error(413);
    server.post("/files", &[b' '; 10_000]).assert_error(413);
    for bad in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"file": 5}"#,
        r#"{"file": null}"#,
        r#"{"file": "*"}"#,
        r#"{"file": "a"}"#,
        r#"{"file": "YQ==YQ=="}"#,
        r#"{"file": "YR=="}"#,
        r#"{"file": "YQ=="} x"#,
    ] {
        server.post("/files", bad.as_bytes()).assert_error(400);
    }
}

#[test]
fn no_free_random_id_is_507() {
    let database = Database::new();
    let server = Server::start(&database);
    database.execute(
        "CREATE FUNCTION taken() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER taken BEFORE INSERT ON files FOR EACH ROW EXECUTE FUNCTION taken()",
    );
    server
        .post("/files", br#"{"file": "YQ=="}"#)
        .assert_error(507);
}

#[test]
fn the_largest_file_goes_up_and_down_unchanged() {
    let server = Server::start(&Database::new());
    let body = bytes(1, 10_223_616);
    let id = server.upload(&body);
    assert!(server.get(&format!("/file/{id}")).body == body);
    let encoded = format!(r#"{{"file":"{}"}}"#, STANDARD.encode(&body));
    let answer = server.post("/files", encoded.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn files_of_every_size_are_stored_as_they_are_and_refreshed_when_they_come_again() {
    let database = Database::new();
    let server = Server::start(&database);
    // Sizes around those from which on files go to the database, or come from it, in another way.
    let sizes = [
        65_535, 65_536, 65_537, 129_999, 130_000, 130_001, 131_072, 131_073, 259_999, 260_000,
        260_001, 390_001, 1_000_000, 10_223_616,
    ];
    for size in sizes {
        let file = bytes(size as u64, size);
        let first = server.post_with("/file", &[("X-FS-TTL", "3600")], &file);
        assert_eq!(first.status, 200, "{size}: {first:?}");
        let path = format!("/file/{}", first.json()["id"].as_str().expect("an id"));
        let stored = server.get(&path);
        assert!(stored.body == file, "{size}: {stored:?}");
        let info = server.get(&format!("{path}/info"));
        for field in ["size", "uploaded", "expires"] {
            assert_eq!(info.number(field), first.number(field), "{size}: {field}");
        }
        let again = server.post("/file", &file);
        assert_eq!(again.json()["id"], first.json()["id"]);
        assert!(again.number("uploaded") > first.number("uploaded"));
        assert!(again.number("expires") > first.number("expires") + 3600.0);
    }
    assert_eq!(
        database.number("SELECT count(*) FROM files"),
        sizes.len() as i64
    );
}

#[test]
fn a_large_file_that_comes_many_times_at_once_is_stored_once() {
    let database = Database::new();
    let server = Server::start(&database);
    for round in 0..5 {
        let file = bytes(round, 3_000_000);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| server.upload(&file));
            }
        });
    }
    assert_eq!(database.number("SELECT count(*) FROM files"), 5);
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}
