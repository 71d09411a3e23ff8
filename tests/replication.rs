//! Standbys: what may be missing on a synchronous one, what a read-only one answers, and what
//! happens when one is promoted.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{
    Cluster, Database, Onion, Reply, Response, Server, bytes, config_folder, eventually,
    new_exchange, nonce, run,
};
use postgres::{Client, NoTls};
use session_file_server::protocol::onion::client::v4_plaintext;

/// Waits until a statement waits for the standby, and cancels the wait.
fn cancel_a_wait(database: &Database) {
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity \
                  WHERE wait_event = 'SyncRep' AND query !~ 'pg_cancel_backend'";
    eventually("a wait is cancelled", || database.number(cancel) > 0);
}

/// Makes commits wait for a standby of that name; for none if it is empty.
fn want_standby(database: &Database, name: &str) {
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
fn what_may_not_be_on_the_standby_is_not_acknowledged() {
    let cluster = Cluster::start();
    let database = cluster.database();
    let server = Server::with(&database, "workers = 2\nfiles.cleanup_interval = '1 h'");
    let file = bytes(1, 1_000);
    let id = server.upload(&file);
    want_standby(&database, "nobody");
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
    // Reading needs no standby.
    assert_eq!(server.get(&format!("/file/{id}")).body, file);
    assert!(server.log().contains("a synchronous standby was cancelled"));
    want_standby(&database, "");
    for seed in [2, 3] {
        let size = if seed == 2 { 1_000 } else { 500_000 };
        let id = server.upload(&bytes(seed, size));
        assert_eq!(server.get(&format!("/file/{id}")).body, bytes(seed, size));
    }
}

/// How long a client waits at the most: ten seconds are promised, and a busy machine needs some.
const PROMISED: Duration = Duration::from_secs(20);

/// Sends `count` uploads at once. Returns the answer to each, and how long it took.
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
fn while_commits_wait_for_a_lost_standby_files_are_handed_out() {
    let cluster = Cluster::start();
    let database = cluster.database();
    let onion = Onion::on(&database, "files.cleanup_interval = '1 h'");
    let server = &onion.server;
    let file = bytes(99, 200_000);
    let path = format!("/file/{}", server.upload(&file));
    want_standby(&database, "nobody");
    let is_over = AtomicBool::new(false);
    let uploads = std::thread::scope(|scope| {
        let uploads = scope.spawn(|| {
            let answers = upload_by_all_ways(&onion);
            is_over.store(true, Ordering::SeqCst);
            answers
        });
        read_meanwhile(server, &path, &file, &is_over);
        uploads.join().expect("answered")
    });
    for (answer, took) in uploads {
        answer.assert_error(503);
        assert!(answer.header("Retry-After").is_some());
        assert!(took < PROMISED, "{took:?}");
    }
    server.get("/health?write").assert_error(503);
    assert_eq!(server.get("/health").json()["write"], false);
    want_standby(&database, "");
    eventually("files are taken", || {
        server.post("/file", b"another").status == 200
    });
    assert_eq!(server.get("/health?write").json()["write"], true);
    let log = server.log();
    assert_eq!(log.matches("takes no writes").count(), 1, "{log}");
    assert_eq!(log.matches("takes writes again").count(), 1, "{log}");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    assert_eq!(database.number(waiting), 0);
}

#[test]
fn without_uploads_it_is_noticed_that_the_standby_is_back() {
    let cluster = Cluster::start();
    let database = cluster.database();
    let server = Server::start(&database);
    want_standby(&database, "nobody");
    server.post("/file", b"a file").assert_error(503);
    server.get("/health?write").assert_error(503);
    want_standby(&database, "");
    eventually("uploads may come", || {
        server.get("/health?write").status == 200
    });
}

#[test]
fn what_writes_nothing_does_not_show_that_the_standby_is_back() {
    let cluster = Cluster::start();
    let database = cluster.database();
    let server = Server::with(&database, "files.cleanup_interval = '1 h'");
    let blocked = [1_000, 500_000].map(|size| bytes(size as u64, size));
    let ids = blocked.each_ref().map(|file| server.upload(file));
    for id in &ids {
        database.execute(&format!("INSERT INTO blocked_files (id) VALUES ('{id}')"));
    }
    database.execute("DELETE FROM files");
    want_standby(&database, "nobody");
    server.post("/file", b"another").assert_error(503);
    let extend = format!("/file/{}/extend", ids[0]);
    for (path, body) in [
        ("/file", &blocked[0]),
        ("/file", &blocked[1]),
        (&extend, &Vec::new()),
    ] {
        // While another write is tried, this is refused like any.
        eventually("it is looked for", || server.post(path, body).status == 404);
        assert_eq!(server.get("/health").json()["write"], false);
    }
    let log = server.log();
    assert!(!log.contains("takes writes again"), "{log}");
}

/// Sends more uploads at once than there are workers: small ones, large ones, and onion requests.
fn upload_by_all_ways(onion: &Onion) -> Vec<(Response, Duration)> {
    std::thread::scope(|scope| {
        let large = scope.spawn(|| upload_at_once(&onion.server, 10, 300_000));
        let through = scope.spawn(|| upload_by_onion(onion, 10));
        let mut answers = upload_at_once(&onion.server, 20, 1_000);
        answers.extend(large.join().expect("answered"));
        through.join().expect("answered");
        answers
    })
}

/// Reads a file and asks how the server is, until the uploads are over.
fn read_meanwhile(server: &Server, path: &str, file: &[u8], is_over: &AtomicBool) {
    let (mut read, mut slowest) = (0, Duration::ZERO);
    let mut said_no = false;
    let begun = Instant::now();
    while !is_over.load(Ordering::SeqCst) && begun.elapsed() < 2 * PROMISED {
        let started = Instant::now();
        assert!(server.get(path).body == file);
        assert_eq!(server.get("/health").status, 200);
        slowest = slowest.max(started.elapsed());
        said_no |= server.get("/health?write").status == 503;
        read += 1;
    }
    assert!(said_no && read > 100, "{read} were read, {said_no}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

/// Uploads at once through the onion network, which must be answered 503.
fn upload_by_onion(onion: &Onion, count: u64) {
    std::thread::scope(|scope| {
        for seed in 1000..1000 + count {
            scope.spawn(move || {
                let exchange = new_exchange(&onion.public_keys[0], None);
                let plaintext = v4_plaintext("POST", "/file", &[], Some(&bytes(seed, 1_000)));
                let request = exchange.seal(&plaintext, nonce()).expect("sealed");
                let answer = onion.server.post("/oxen/v4/lsrpc", &request);
                if answer.status == 503 {
                    // The request has found no worker.
                    return assert!(answer.header("Retry-After").is_some());
                }
                let reply = Reply::read(&exchange.open(answer.body).expect("a reply"));
                assert_eq!(reply.status, 503);
                assert!(reply.meta["headers"]["retry-after"].is_string());
            });
        }
    });
}

#[test]
fn a_frozen_database_is_given_up_and_found_again() {
    let cluster = Cluster::start();
    let url = cluster.database().url;
    give_up_and_find_again(&cluster, &url);
}

#[test]
fn a_frozen_database_on_tcp_is_given_up_too() {
    let cluster = Cluster::on_tcp(|_| ());
    let (name, port) = (cluster.database().name, cluster.port());
    let url = format!("host=127.0.0.1 port={port} user=tester dbname={name}");
    give_up_and_find_again(&cluster, &url);
}

fn give_up_and_find_again(cluster: &Cluster, url: &str) {
    let server = Server::try_with(url, "").expect("started");
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

/// How many errors a cluster has logged.
fn errors_of(cluster: &Cluster) -> usize {
    let log = std::fs::read_to_string(cluster.folder().join("log")).expect("it logs");
    log.matches("ERROR:").count()
}

#[test]
fn a_standby_alone_hands_out_files_until_it_is_promoted() {
    let first = Cluster::start();
    let database = first.database();
    let id = Server::start(&database).upload(b"a file");
    let second = first.standby();
    let server = Server::try_with(
        &second.url(&database.name),
        "files.cleanup_interval = '1 s'\nversions.record_checks = true",
    );
    let server = server.expect("started");
    for (answer, _) in upload_at_once(&server, 20, 1_000) {
        answer.assert_error(503);
        assert!(answer.header("Retry-After").is_some());
    }
    assert_eq!(server.get(&format!("/file/{id}")).body, b"a file");
    assert_eq!(server.get("/health").json()["write"], false);
    let settings = format!("listen = '{}'", server.address);
    let folder = config_folder(&database.url, &settings);
    let output = run(folder.path(), &["health"]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("takes no uploads"));
    server.get("/health?write").assert_error(503);
    server.get("/health?write=1").assert_error(503);
    // In this time the timer asks the database several times.
    std::thread::sleep(Duration::from_secs(3));
    let log = server.log();
    assert_eq!(
        log.matches("read-only, as a standby is").count(),
        1,
        "{log}"
    );
    assert_eq!(errors_of(&second), 0);
    second.promote();
    eventually("files are taken", || {
        server.post("/file", b"another").status == 200
    });
    assert_eq!(server.get("/health?write").status, 200);
    let answer = server.post_with("/file", &[("X-FS-TTL", "1")], b"a short one");
    assert_eq!(answer.status, 200);
    let mut client = postgres::Client::connect(&second.url(&database.name), postgres::NoTls);
    let client = client.as_mut().expect("it runs");
    eventually("what has expired is deleted", || {
        let rows = client.query("SELECT FROM files WHERE expiry < now()", &[]);
        rows.is_ok_and(|rows| rows.is_empty())
    });
    let log = server.log();
    assert_eq!(log.matches("takes writes again").count(), 1, "{log}");
}

#[test]
fn an_empty_standby_gets_its_tables_when_it_is_promoted() {
    let first = Cluster::start();
    let database = first.database();
    let second = first.standby();
    let server = Server::try_with(&second.url(&database.name), "").expect("started");
    server.get("/health").assert_error(503);
    server.get("/file/abc").assert_error(503);
    server.post("/file", b"a file").assert_error(503);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(server.log().matches("the database is empty").count(), 1);
    assert_eq!(errors_of(&second), 0);
    second.promote();
    eventually("files are taken", || {
        server.post("/file", b"a file").status == 200
    });
    eventually("it is well", || server.get("/health?write").status == 200);
}

#[test]
fn an_old_primary_that_comes_back_is_refused() {
    let mut first = Cluster::start();
    let database = first.database();
    let second = first.standby();
    let (one, other) = (first.folder().display(), second.folder().display());
    let url = format!("host={one},{other} user=tester dbname={}", database.name);
    let server = Server::try_with(&url, "").expect("started");
    server.upload(b"before");
    let name = &database.name;
    eventually("the standby has it", || {
        let mut client = postgres::Client::connect(&second.url(name), postgres::NoTls);
        let rows = client
            .as_mut()
            .ok()
            .map(|it| it.query("SELECT FROM files", &[]));
        rows.is_some_and(|rows| rows.is_ok_and(|rows| rows.len() == 1))
    });
    first.crash();
    second.promote();
    eventually("the new primary is used", || {
        server.post("/file", b"after").status == 200
    });
    // The old primary is writable, and is the first host of the URL.
    first.resume();
    let disconnect = || {
        let mut client = postgres::Client::connect(&second.url(name), postgres::NoTls);
        let ended = client.as_mut().expect("it runs").query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
            &[],
        );
        ended.expect("allowed");
    };
    disconnect();
    let uploads = upload_at_once(&server, 20, 1_000);
    assert!(uploads.iter().all(|(answer, _)| answer.status == 200));
    eventually("the old one is noticed", || {
        server.log().contains("is an old primary")
    });
    // A server that has seen neither of them before asks both.
    let another = Server::try_with(&url, "").expect("started");
    another.upload(b"from another");
    let log = server.log();
    assert_eq!(log.matches("is an old primary").count(), 1, "{log}");
    drop((server, another));
    assert_eq!(database.number("SELECT count(*) FROM files"), 1);
    assert_eq!(files_on(&second, name), 23);
}

/// The number of files in a database; none if it isn't there.
fn files_on(cluster: &Cluster, database: &str) -> usize {
    let client = postgres::Client::connect(&cluster.url(database), postgres::NoTls);
    let rows = client.map(|mut client| client.query("SELECT FROM files", &[]));
    rows.map_or(0, |rows| rows.map_or(0, |rows| rows.len()))
}

/// A database that only speaks PostgreSQL's protocol, or whose functions are forbidden, doesn't tell
/// on which timeline it is.
#[test]
fn hosts_that_tell_no_timeline_are_not_all_asked_at_each_connection() {
    let clusters = [(); 2].map(|()| Cluster::with(false, &["log_connections=on"]));
    for cluster in &clusters {
        let administrator = || Client::connect(&cluster.url("postgres"), NoTls);
        let mut administrator = administrator().expect("PostgreSQL runs");
        for statement in [
            "CREATE ROLE files LOGIN",
            "CREATE DATABASE files OWNER files",
        ] {
            administrator.batch_execute(statement).expect("allowed");
        }
        let mut inside = Client::connect(&cluster.url("files"), NoTls).expect("it is there");
        let forbid = "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC";
        inside.batch_execute(forbid).expect("allowed");
    }
    let [first, second] = &clusters;
    let (one, other) = (first.folder().display(), second.folder().display());
    let url = format!("host={one},{other} user=files dbname=files");
    let server = Server::try_with(&url, "workers = 2").expect("it listens");
    for round in 0..5 {
        let file = bytes(round, 100);
        eventually("it is stored", || server.post("/file", &file).status == 200);
        let mut administrator = Client::connect(&first.url("postgres"), NoTls).expect("it runs");
        // Those that are being made are left: a host where that fails is tried after the others.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE usename = 'files' AND state = 'idle'";
        administrator.batch_execute(end).expect("allowed");
    }
    let connections = |cluster: &Cluster| {
        let log = std::fs::read_to_string(cluster.folder().join("log")).expect("a log");
        log.matches("connection authorized: user=files").count()
    };
    assert!(connections(first) > 5, "{}", connections(first));
    assert_eq!(connections(second), 1);
}
