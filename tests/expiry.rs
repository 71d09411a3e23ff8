//! The timer thread: expired files and statistics.

mod common;

use common::{Database, Server, eventually};

/// Makes 30,000 files of 3,000 bytes that expired a minute ago.
const EXPIRED: &str = "INSERT INTO files (id, data, expiry) \
     SELECT 'old-' || n, convert_to(repeat('x', 3000), 'UTF8'), now() - interval '1 min' \
     FROM generate_series(1, 30000) n";

#[test]
fn expired_files_are_deleted_and_others_stay() {
    let database = Database::new();
    let server = Server::with(&database, "files.cleanup_interval = '1 s'");
    let id = server.upload(b"a file");
    database.execute(EXPIRED);
    eventually("the expired files are deleted", || {
        // Meanwhile requests are served.
        assert_eq!(server.get(&format!("/file/{id}")).status, 200);
        database.number("SELECT count(*) FROM files") == 1
    });
    assert_eq!(server.get(&format!("/file/{id}")).body, b"a file");
}

#[test]
fn deleting_goes_on_after_errors_of_the_database() {
    let database = Database::new();
    let server = Server::with(&database, "files.cleanup_interval = '1 s'");
    server.upload(b"a file");
    database.execute("ALTER TABLE files RENAME TO hidden");
    eventually("the failure is logged", || {
        server.log().contains("could not delete expired")
    });
    database.execute("ALTER TABLE hidden RENAME TO files");
    database.execute("UPDATE files SET expiry = now()");
    eventually("the file is deleted", || {
        database.number("SELECT count(*) FROM files") == 0
    });
}

#[test]
fn a_file_that_is_uploaded_again_while_it_expires_is_not_deleted() {
    let database = Database::new();
    let server = Server::with(&database, "files.cleanup_interval = '1 s'");
    for round in 0..3 {
        let id = server.upload(b"the same file");
        database.execute("UPDATE files SET expiry = now() + interval '30 ms'");
        // The file is uploaded again and again around the moment of its deletion. Whenever an
        // upload is acknowledged, the file is there.
        for _ in 0..50 {
            assert_eq!(server.upload(b"the same file"), id);
            assert_eq!(
                server.get(&format!("/file/{id}")).status,
                200,
                "round {round}"
            );
            database.execute("UPDATE files SET expiry = now() + interval '20 ms'");
            std::thread::sleep(std::time::Duration::from_millis(25));
        }
    }
}

#[test]
fn what_is_stored_is_logged_for_people() {
    let database = Database::new();
    let server = Server::start(&database);
    eventually("the first statistics", || {
        server.log().contains("0 files stored, 0 B in all")
    });
    drop(server);
    // More rows than are counted at once, some of them stored out of line.
    database.execute(
        "INSERT INTO files (id, data) SELECT n::text, convert_to(repeat('x', 100), 'UTF8') \
         FROM generate_series(1, 25000) n;
         INSERT INTO files (id, data) SELECT 'L' || n, convert_to(repeat('x', 1000000), 'UTF8') \
         FROM generate_series(1, 5) n",
    );
    let server = Server::start(&database);
    eventually("all are counted", || {
        server.log().contains("25,005 files stored, 7.50 MB in all")
    });
}
