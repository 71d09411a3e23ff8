//! Connections that end while nothing is asked, and statements that no longer fit: neither
//! costs a client anything.

mod common;

use common::{Cluster, Database, Pooler, Server, bytes, eventually};

/// Severity and code of the error with which a connection is ended. Without a code it ends without
/// an error.
const ENDS: &[(&str, &str)] = &[
    // The operator, a crash, a start, a database that is dropped, idle_session_timeout.
    ("FATAL", "57P01"),
    ("FATAL", "57P02"),
    ("FATAL", "57P03"),
    ("FATAL", "57P04"),
    ("FATAL", "57P05"),
    // idle_in_transaction_session_timeout, transaction_timeout
    ("FATAL", "25P03"),
    ("FATAL", "25P04"),
    // Poolers: PgBouncer, Odyssey, PgCat, Supavisor.
    ("FATAL", "08P01"),
    ("ERROR", "08P01"),
    ("FATAL", "08006"),
    ("FATAL", "53300"),
    ("FATAL", "58000"),
    ("FATAL", "28000"),
    ("FATAL", "XX000"),
    ("ERROR", "XX000"),
    ("PANIC", "XX001"),
    // A firewall, a pooler that was restarted.
    ("", ""),
];

/// Requests of every kind that asks the database; `ID` is a stored file's.
const REQUESTS: &[(&str, &str, usize, u16)] = &[
    ("GET", "/file/ID", 0, 200),
    ("GET", "/file/ID/info", 0, 200),
    ("GET", "/files/ID", 0, 200),
    ("POST", "/file", 1_000, 200),
    ("POST", "/file", 200_000, 200),
    ("POST", "/file/ID/extend", 0, 200),
    ("GET", "/health", 0, 200),
    ("GET", "/token_info", 0, 502),
];

#[test]
fn a_connection_that_ended_while_it_was_idle_costs_no_request() {
    let database = Database::new();
    let pooler = Pooler::start(&database.host);
    let server = Server::try_with(&pooler.url(&database.name), "workers = 1").expect("started");
    let id = server.upload(&bytes(1, 100_000));
    let base64 = br#"{"file": "YQ=="}"#;
    let mut failed = Vec::new();
    for (number, (severity, code)) in ENDS.iter().enumerate() {
        for (method, path, size, expected) in REQUESTS {
            let body = bytes(number as u64 + 2, *size);
            // These requests open the connection that is ended next.
            assert_eq!(server.get(&format!("/file/{id}/info")).status, 200);
            assert_eq!(server.get("/health").status, 200);
            pooler.end_connections(severity, code);
            let path = path.replace("ID", &id);
            let answer = server.connect().request(method, &path, &[], &body);
            if answer.status != *expected {
                failed.push(format!("{severity} {code} {method} {path}: {answer:?}"));
            }
        }
        pooler.end_connections(severity, code);
        let answer = server.post("/files", base64);
        if answer.status != 200 {
            failed.push(format!("{severity} {code} POST /files: {answer:?}"));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_time_limit_for_idle_sessions_costs_no_request() {
    let database = Database::new();
    let server = Server::with(&database, "workers = 1");
    let id = server.upload(b"a file");
    let name = &database.name;
    database.execute(&format!(
        "ALTER DATABASE {name} SET idle_session_timeout = '500ms'; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ));
    for seed in 0..3 {
        for size in [1_000, 200_000] {
            server.upload(&bytes(seed, size));
            std::thread::sleep(std::time::Duration::from_millis(900));
        }
        assert_eq!(server.get(&format!("/file/{id}")).body, b"a file");
        assert_eq!(server.get("/health").status, 200);
        std::thread::sleep(std::time::Duration::from_millis(900));
    }
}

#[test]
fn a_table_that_changes_while_it_is_served_costs_no_request() {
    let database = Database::new();
    let server = Server::with(&database, "workers = 1\nfiles.cleanup_interval = '1 s'");
    let files = [1_000, 200_000].map(|size| bytes(size as u64, size));
    let ids = files.each_ref().map(|file| server.upload(file));
    let ask_for_everything = |change: &str, seed: u64| {
        for (id, file) in ids.iter().zip(&files) {
            assert_eq!(server.get(&format!("/file/{id}")).body, *file, "{change}");
            let info = server.get(&format!("/file/{id}/info"));
            assert_eq!(info.status, 200, "{change}: {info:?}");
            let extended = server.post(&format!("/file/{id}/extend"), b"");
            assert_eq!(extended.status, 200, "{change}: {extended:?}");
            assert_eq!(server.upload(file), *id, "{change}");
        }
        for size in [1_000, 200_000] {
            server.upload(&bytes(seed, size));
        }
        let older = server.post("/files", br#"{"file": "YQ=="}"#);
        assert_eq!(older.status, 200, "{change}: {older:?}");
    };
    for (seed, change) in [
        "ALTER TABLE files ALTER uploaded TYPE timestamptz(3)",
        "ALTER TABLE files ALTER expiry TYPE timestamptz(3), ALTER uploaded TYPE timestamptz",
        "ALTER TABLE files ALTER id TYPE text",
        "ALTER TABLE files ALTER id TYPE varchar(60)",
        "ALTER TABLE files ALTER id TYPE varchar(60) COLLATE \"POSIX\"",
        "ALTER TABLE files ADD note text",
        "ALTER TABLE files DROP note",
        "CREATE TABLE copy (LIKE files INCLUDING ALL); INSERT INTO copy SELECT * FROM files; \
         DROP TABLE files; ALTER TABLE copy RENAME TO files",
        "ALTER TABLE files RENAME TO kept; CREATE TABLE files (LIKE kept INCLUDING ALL); \
         INSERT INTO files SELECT * FROM kept",
    ]
    .iter()
    .enumerate()
    {
        ask_for_everything(change, 1_000);
        database.execute(change);
        ask_for_everything(change, seed as u64 + 2_000);
    }
    database.execute("UPDATE files SET expiry = now()");
    eventually("expired files are deleted", || {
        database.number("SELECT count(*) FROM files") == 0
    });
    server.assert_no_500();
}

/// PgBouncer's `server_reset_query` removes prepared statements, and so may a pooler that fails.
#[test]
fn prepared_statements_that_are_gone_cost_no_request() {
    let cluster = Cluster::start();
    let database = cluster.database();
    let server = Server::with(&database, "workers = 1");
    let id = server.upload(&bytes(1, 200_000));
    // Nobody can remove another session's statements, but a function can its own session's.
    database.execute(
        "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN IF nextval('uploads') % 3 = 0 THEN DEALLOCATE ALL; END IF; RETURN NEW; END $$; \
         CREATE SEQUENCE uploads; \
         CREATE TRIGGER forget AFTER INSERT OR UPDATE ON files \
             FOR EACH ROW EXECUTE FUNCTION forget()",
    );
    for seed in 0..20 {
        for size in [1_000, 200_000] {
            server.upload(&bytes(seed, size));
        }
        assert_eq!(server.get(&format!("/file/{id}")).status, 200);
        assert_eq!(server.post(&format!("/file/{id}/extend"), b"").status, 200);
        let older = server.post("/files", br#"{"file": "YQ=="}"#);
        assert_eq!(older.status, 200, "{older:?}");
    }
}
