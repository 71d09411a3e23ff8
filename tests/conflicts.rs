//! Transactions that PostgreSQL rolls back because of others: they are tried again.

mod common;

use std::time::{Duration, Instant};

use common::{Database, Server, bytes, eventually};

/// An upload in the encoding of old clients.
const BASE64: &[u8] = br#"{"file": "YQ=="}"#;

/// Lets changes of files fail with `code` where `condition` holds: at once, or when they are
/// committed.
fn fail_with(database: &Database, code: &str, condition: &str) {
    database.execute(&format!(
        "CREATE SEQUENCE tries; \
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF {condition} THEN RAISE 'in the way' USING ERRCODE = '{code}'; END IF; \
             RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER at_once AFTER INSERT OR UPDATE ON files \
             FOR EACH ROW EXECUTE FUNCTION fail(); \
         CREATE TRIGGER deleted AFTER DELETE ON files \
             FOR EACH STATEMENT EXECUTE FUNCTION fail(); \
         CREATE CONSTRAINT TRIGGER at_the_end AFTER INSERT OR UPDATE ON files \
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()"
    ));
}

#[test]
fn what_was_rolled_back_because_of_others_is_tried_again() {
    for code in ["40001", "40P01"] {
        let database = Database::new();
        let settings = "workers = 2\nfiles.cleanup_interval = '1 s'";
        let server = Server::with(&database, settings);
        let id = server.upload(b"a file");
        fail_with(&database, code, "nextval('tries') % 5 < 2");
        for seed in 0..5 {
            for size in [1_000, 200_000] {
                let file = bytes(seed, size);
                assert_eq!(server.upload(&file), server.upload(&file));
            }
            let older = server.post("/files", BASE64);
            assert_eq!(older.status, 200, "{older:?}");
            let large = format!("{{\"file\": \"{}\"}}", "AAAA".repeat(50_000));
            let older = server.post("/files", large.as_bytes());
            assert_eq!(older.status, 200, "{older:?}");
            let extended = server.post(&format!("/file/{id}/extend"), b"");
            assert_eq!(extended.status, 200, "{extended:?}");
        }
        // No file is lost, and none is there twice.
        assert_eq!(database.number("SELECT count(*) FROM files"), 21);
        database.execute("DROP TRIGGER at_once ON files; DROP TRIGGER at_the_end ON files");
        database.execute("UPDATE files SET expiry = now()");
        eventually("expired files are deleted", || {
            database.number("SELECT count(*) FROM files") == 0
        });
    }
}

#[test]
fn conflicts_without_end_are_answered_503_within_seconds() {
    let database = Database::new();
    let server = Server::with(&database, "workers = 2");
    fail_with(&database, "40001", "true");
    for size in [1_000, 200_000] {
        let started = Instant::now();
        server.post("/file", &bytes(1, size)).assert_error(503);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
    server.post("/files", BASE64).assert_error(503);
    assert_eq!(server.get("/health").status, 200);
}

/// Every kind of request from many clients at once.
fn load(database: &Database, server: &Server) {
    let shared: Vec<Vec<u8>> = [500, 70_000, 300_000].map(|n| bytes(n as u64, n)).into();
    std::thread::scope(|scope| {
        for client in 0..24u64 {
            let shared = &shared;
            scope.spawn(move || {
                let mut connection = server.connect();
                let mut ask = |method: &str, path: &str, body: &[u8]| {
                    let answer = connection.request(method, path, &[], body);
                    assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
                    answer
                };
                for number in 0..12u64 {
                    let own = bytes(client * 1000 + number, 300 + (number as usize % 3) * 50_000);
                    let answer = ask("POST", "/file", &own);
                    let id = answer.json()["id"].as_str().expect("an id").to_string();
                    ask("POST", "/file", &shared[number as usize % shared.len()]);
                    ask("POST", "/files", BASE64);
                    ask("POST", &format!("/file/{id}/extend"), b"");
                    assert!(ask("GET", &format!("/file/{id}"), b"").body == own);
                }
            });
        }
    });
    let stored = database.number("SELECT count(*) FROM files");
    assert_eq!(stored, 24 * 12 * 2 + 3);
}

#[test]
fn databases_of_every_isolation_answer_many_clients() {
    for level in ["read committed", "repeatable read", "serializable"] {
        let database = Database::new();
        let name = &database.name;
        database.execute(&format!(
            "ALTER DATABASE {name} SET default_transaction_isolation = '{level}'"
        ));
        let server = Server::with(&database, "workers = 16\nfiles.cleanup_interval = '1 s'");
        load(&database, &server);
    }
}
