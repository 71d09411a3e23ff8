//! An old primary that nobody has stopped, beside the new one: what servers don't leave to it.

mod common;

use common::{Cluster, Database, Server, bytes, eventually};

/// A primary, its standby, and a server on both that has connections to the primary alone. The
/// standby stands first, so that a new connection goes there when it is promoted.
fn pair() -> (Cluster, Database, Cluster, Server) {
    let first = Cluster::start();
    let database = first.database();
    let second = first.standby();
    let (one, other) = (second.folder().display(), first.folder().display());
    let url = format!("host={one},{other} user=tester dbname={}", database.name);
    let settings = "workers = 4\nfiles.cleanup_interval = '1 h'";
    let server = Server::try_with(&url, settings).expect("started");
    upload_at_once(&server, 0);
    assert!(database.number(SERVERS) > 2, "all workers are connected");
    (first, database, second, server)
}

/// The connections of the server.
const SERVERS: &str = "SELECT count(*) FROM pg_stat_activity \
     WHERE datname = current_database() AND pid <> pg_backend_pid()";

/// Uploads eight files at once. Returns how many are acknowledged.
fn upload_at_once(server: &Server, seed: u64) -> usize {
    std::thread::scope(|scope| {
        let upload = |number| move || server.post("/file", &bytes(seed + number, 90_000)).status;
        let uploads: Vec<_> = (0..8).map(|number| scope.spawn(upload(number))).collect();
        let statuses = uploads.into_iter().map(|it| it.join().expect("an answer"));
        statuses.filter(|status| *status == 200).count()
    })
}

fn files_of(cluster: &Cluster, database: &Database) -> i64 {
    let url = cluster.url(&database.name);
    let mut client = postgres::Client::connect(&url, postgres::NoTls).expect("it runs");
    let row = client.query_one("SELECT count(*) FROM files", &[]);
    row.expect("a row").get(0)
}

#[test]
fn connections_to_an_old_primary_are_left_when_the_new_one_is_known() {
    let (first, database, second, server) = pair();
    second.promote();
    let before = files_of(&second, &database);
    let mut rounds = 0..;
    eventually("the new primary is found", || {
        // The server needs a new connection for one of these uploads.
        database.number(
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity \
             WHERE datname = current_database() AND state = 'idle' AND pid <> pg_backend_pid() \
             LIMIT 1) AS one",
        );
        upload_at_once(&server, 100 * rounds.next().unwrap_or_default() + 100);
        files_of(&second, &database) > before
    });
    let (old, new) = (files_of(&first, &database), files_of(&second, &database));
    assert_eq!(upload_at_once(&server, 1_000_000), 8);
    assert_eq!(files_of(&first, &database), old, "on the old primary");
    assert_eq!(files_of(&second, &database), new + 8, "on the new one");
}

#[test]
fn an_old_primary_that_was_cut_off_is_left_without_a_new_connection() {
    let (first, database, second, server) = pair();
    second.promote();
    let before = files_of(&second, &database);
    let mut rounds = 0..;
    eventually("the new primary is found", || {
        upload_at_once(&server, 100 * rounds.next().unwrap_or_default() + 100);
        files_of(&second, &database) > before
    });
    let old = files_of(&first, &database);
    assert_eq!(upload_at_once(&server, 1_000_000), 8);
    assert_eq!(files_of(&first, &database), old, "on the old primary");
}

#[test]
fn what_an_old_primary_commits_late_is_not_acknowledged() {
    let (first, database, second, server) = pair();
    second.promote();
    let lock = database.lock_files();
    let file = bytes(500, 1_000);
    std::thread::scope(|scope| {
        let late = scope.spawn(|| server.post("/file", &file));
        eventually("the upload waits", || database.waiting_for_locks() > 0);
        // All other connections are made anew.
        database.number(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE datname = current_database() AND state = 'idle' AND pid <> pg_backend_pid()",
        );
        eventually("another is stored on the new primary", || {
            server.post("/file", b"another").status == 200
        });
        lock.release();
        late.join().expect("an answer").assert_error(503);
    });
    assert_eq!(server.post("/file", &file).status, 200);
    assert_eq!(files_of(&second, &database), 10);
    drop(first);
}

#[test]
fn what_a_frozen_primary_commits_when_it_thaws_is_not_acknowledged() {
    let (first, database, second, server) = pair();
    first.signal("STOP");
    let files: Vec<Vec<u8>> = (0..8).map(|seed| bytes(700 + seed, 1_000)).collect();
    let acknowledged: Vec<String> = std::thread::scope(|scope| {
        let server = &server;
        let uploads: Vec<_> = files
            .iter()
            .map(|file| scope.spawn(move || server.post("/file", file)))
            .collect();
        second.promote();
        // Longer than a silence that is suspicious, and shorter than one that is given up.
        std::thread::sleep(std::time::Duration::from_secs(3));
        first.signal("CONT");
        let answers = uploads.into_iter().map(|it| it.join().expect("an answer"));
        let stored = answers.filter(|answer| answer.status == 200);
        let id = |answer: common::Response| answer.json()["id"].as_str().map(ToString::to_string);
        stored.filter_map(id).collect()
    });
    drop(server);
    let url = second.url(&database.name);
    let mut client = postgres::Client::connect(&url, postgres::NoTls).expect("it runs");
    for id in acknowledged {
        let row = client.query_opt("SELECT FROM files WHERE id = $1", &[&id]);
        assert!(
            row.expect("a table").is_some(),
            "{id} is on the old primary"
        );
    }
}

#[test]
fn a_frozen_standby_keeps_neither_commands_nor_uploads_waiting() {
    let first = Cluster::start();
    let database = first.database();
    let second = first.standby();
    second.signal("STOP");
    for (one, other) in [(&first, &second), (&second, &first)] {
        let hosts = format!(
            "host={},{}",
            one.folder().display(),
            other.folder().display()
        );
        let url = format!("{hosts} user=tester dbname={}", database.name);
        let server = Server::try_with(&url, "").expect("started");
        let lock = database.lock_files();
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| server.post("/file", b"slow"));
            eventually("the upload waits", || database.waiting_for_locks() > 0);
            // So long that the server looks for another primary before it answers.
            std::thread::sleep(std::time::Duration::from_millis(2200));
            lock.release();
            assert_eq!(slow.join().expect("an answer").status, 200);
        });
        let shown = common::run(server.folder.path(), &["status"]);
        assert!(shown.status.success(), "{shown:?}");
    }
}
