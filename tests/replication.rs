//! What the operator wants to be on a synchronous stand-by, and may not be.

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, Database, Response, Server, bytes, eventually};

/// Waits until a statement waits for the stand-by, and cancels the wait.
fn cancel_a_wait(database: &Database) {
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity \
                  WHERE wait_event = 'SyncRep' AND query !~ 'pg_cancel_backend'";
    eventually("a wait is cancelled", || database.number(cancel) > 0);
}

/// Makes commits wait for a stand-by of that name; for none if it is empty.
fn want_stand_by(database: &Database, name: &str) {
    let mut client = database.client();
    for statement in [
        "SET synchronous_commit = local",
        &format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"),
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(statement).expect("allowed");
    }
    eventually("the setting is known", || {
        let shown = database
            .client()
            .query_one("SHOW synchronous_standby_names", &[]);
        shown.expect("a row").get::<_, String>(0) == name
    });
}

#[test]
fn what_may_not_be_on_the_stand_by_is_not_acknowledged() {
    let cluster = Cluster::start();
    let database = cluster.database();
    let server = Server::with(&database, "workers = 2\nfiles.cleanup_interval = '1 h'");
    let file = bytes(1, 1_000);
    let id = server.upload(&file);
    want_stand_by(&database, "nobody");
    let extend = format!("/file/{id}/extend");
    for (path, body) in [
        ("/file", bytes(2, 1_000)),
        ("/file", bytes(3, 500_000)),
        ("/file", file.clone()),
        (extend.as_str(), Vec::new()),
    ] {
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| server.post(path, &body));
            cancel_a_wait(&database);
            asking.join().expect("an answer").assert_error(503);
        });
    }
    // Reading needs nobody.
    assert_eq!(server.get(&format!("/file/{id}")).body, file);
    assert!(
        server
            .log()
            .contains("a synchronous stand-by was cancelled")
    );
    want_stand_by(&database, "");
    for seed in [2, 3] {
        let size = if seed == 2 { 1_000 } else { 500_000 };
        let id = server.upload(&bytes(seed, size));
        assert_eq!(server.get(&format!("/file/{id}")).body, bytes(seed, size));
    }
}

/// How long a client waits at the most: ten seconds are promised, and a busy machine needs some.
const PROMISED: Duration = Duration::from_secs(20);

/// Uploads at once, each with its answer and how long it took.
fn upload_at_once(server: &Server, count: u64, size: usize) -> Vec<(Response, Duration)> {
    std::thread::scope(|scope| {
        let upload = |seed| {
            let started = Instant::now();
            let answer = server.post("/file", &bytes(seed, size));
            (answer, started.elapsed())
        };
        let clients: Vec<_> = (0..count)
            .map(|seed| scope.spawn(move || upload(seed)))
            .collect();
        let answered = clients.into_iter().map(|client| client.join());
        answered.map(|answer| answer.expect("an answer")).collect()
    })
}

#[test]
fn a_frozen_database_is_given_up_and_found_again() {
    let cluster = Cluster::start();
    let database = cluster.database();
    let server = Server::start(&database);
    let id = server.upload(b"a file");
    let path = format!("/file/{id}");
    // All workers have connections.
    upload_at_once(&server, 16, 1_000);
    cluster.signal("STOP");
    for (answer, took) in upload_at_once(&server, 16, 1_000) {
        answer.assert_error(503);
        assert!(answer.header("Retry-After").is_some());
        assert!(took < PROMISED, "{took:?}");
    }
    let started = Instant::now();
    server.get(&path).assert_error(503);
    assert!(started.elapsed() < PROMISED);
    cluster.signal("CONT");
    eventually("files are handed out", || server.get(&path).status == 200);
    eventually("files are taken", || {
        server.post("/file", b"another").status == 200
    });
}
