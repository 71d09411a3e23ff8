//! The same large file from many clients at once, at several servers on one database.

mod common;

use std::sync::Mutex;

use common::{Cluster, Database, Server, bytes, eventually};

/// What a PostgreSQL server has logged.
fn log(cluster: &Cluster) -> String {
    let log = std::fs::read(cluster.folder().join("log")).expect("readable");
    String::from_utf8_lossy(&log).into_owned()
}

/// Uploads `files` by twelve clients, four at each of three servers: all begin with the first file
/// and end with the last. Every answer must be 200.
fn upload_at_once(database: &Database, settings: &str, files: &[Vec<u8>]) {
    let servers = [(); 3].map(|()| Server::with(database, settings));
    let ids = Mutex::new(vec![None; files.len()]);
    std::thread::scope(|scope| {
        for client in 0..12 {
            let (server, ids) = (&servers[client % servers.len()], &ids);
            scope.spawn(move || {
                let mut connection = server.connect();
                for (number, file) in files.iter().enumerate() {
                    let answer = connection.request("POST", "/file", &[], file);
                    assert_eq!(answer.status, 200, "{answer:?}");
                    let id = answer.json()["id"].as_str().map(str::to_string);
                    let mut ids = ids.lock().expect("no client has failed");
                    let first = ids[number].get_or_insert(id.clone());
                    assert_eq!(*first, id);
                }
            });
        }
    });
    for server in &servers {
        server.assert_no_500();
    }
}

fn large_files() -> Vec<Vec<u8>> {
    let size = |seed: usize| 800_000 + seed * 10_000;
    (0..20).map(|seed| bytes(seed as u64, size(seed))).collect()
}

#[test]
fn its_bytes_are_written_once_and_nobody_is_refused() {
    for level in ["read committed", "repeatable read", "serializable"] {
        let cluster = Cluster::with(false, &["autovacuum=off"]);
        let database = cluster.database();
        database.execute(&format!(
            "ALTER DATABASE {} SET default_transaction_isolation = '{level}'",
            database.name
        ));
        let files = large_files();
        upload_at_once(&database, "", &files);
        let stored = "SELECT count(*) FROM files";
        assert_eq!(database.number(stored), files.len() as i64);
        let log = log(&cluster);
        assert!(!log.contains("duplicate key"), "{level}: {log}");
        // Out-of-line storage takes a twentieth more than the bytes. An upload in vain would leave
        // as much again.
        let bytes: usize = files.iter().map(Vec::len).sum();
        let size = database.number("SELECT pg_table_size('files')");
        assert!((size as usize) < bytes * 5 / 4, "{level}: {size}");
    }
}

/// The number of the lock on an upload's id, as the server computes it.
fn lock_number(id: &str) -> i64 {
    let first = id.as_bytes().first_chunk().expect("44 characters");
    i64::from_be_bytes(*first)
}

#[test]
fn an_upload_waits_for_another_of_its_file_for_seconds_at_most_and_holds_up_no_others() {
    let database = Database::new();
    let server = Server::with(&database, "workers = 4");
    let file = bytes(1, 300_000);
    let id = server.upload(&file);
    database.execute("DELETE FROM files");
    let mut other = database.client();
    let lock = format!("SELECT pg_advisory_lock({})", lock_number(&id));
    other.batch_execute(&lock).expect("a lock");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.post("/file", &file));
        eventually("it waits", || database.waiting_for_locks() == 1);
        for seed in 2..6 {
            server.upload(&bytes(seed, 300_000));
        }
        let answer = waiting.join().expect("an answer");
        answer.assert_error(503);
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        assert_eq!(server.get("/health?write").status, 200);
        // The other upload fails, so that the one that has waited for it stores the file.
        let waiting = scope.spawn(|| server.post("/file", &file));
        eventually("it waits", || database.waiting_for_locks() == 1);
        drop(other);
        assert_eq!(waiting.join().expect("an answer").status, 200);
    });
    assert!(
        !server.log().contains("takes no writes"),
        "{}",
        server.log()
    );
    assert!(server.get(&format!("/file/{id}")).body == file);
}

#[test]
fn a_file_that_is_there_is_found_however_the_database_says_that_its_id_is_taken() {
    // The last code is what a sharded PostgreSQL makes of another node's unique violation.
    for code in ["23505", "XX000"] {
        let database = Database::new();
        let server = Server::start(&database);
        let file = bytes(1, 300_000);
        let id = server.upload(&file);
        // Another upload, which takes no lock, comes between: it stores the file, and this one
        // fails.
        database.execute(&format!(
            "CREATE EXTENSION dblink; CREATE TABLE kept AS SELECT * FROM files; \
             DELETE FROM files; \
             CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF current_setting('application_name') = 'other' THEN RETURN NEW; END IF; \
                 PERFORM dblink_exec('{} application_name=other', \
                     'INSERT INTO files SELECT * FROM kept'); \
                 RAISE 'in the way' USING ERRCODE = '{code}'; END $$; \
             CREATE TRIGGER fail BEFORE INSERT ON files FOR EACH ROW EXECUTE FUNCTION fail()",
            database.url
        ));
        let answer = server.post("/file", &file);
        assert_eq!(answer.status, 200, "{code}: {answer:?}");
        assert!(server.get(&format!("/file/{id}")).body == file);
    }
}

#[test]
fn an_error_that_is_none_of_a_taken_id_stays_one() {
    let database = Database::new();
    let server = Server::start(&database);
    database.execute(
        "CREATE SEQUENCE tries; \
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             PERFORM nextval('tries'); RAISE 'out of order' USING ERRCODE = 'XX000'; END $$; \
         CREATE TRIGGER fail BEFORE INSERT ON files FOR EACH ROW EXECUTE FUNCTION fail()",
    );
    server.post("/file", &bytes(1, 300_000)).assert_error(500);
    assert_eq!(database.number("SELECT last_value FROM tries"), 1);
    eventually("it is logged", || {
        server.log().contains("out of order (SQLSTATE XX000)")
    });
}
