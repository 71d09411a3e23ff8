//! Replicas of which files are read: what comes from them, what never does, and what becomes of
//! one that is away, frozen, behind, promoted, or none at all.

mod common;

use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use common::raw::send;
use common::{Cluster, Connection, Database, Onion, Server, bytes, config_folder, eventually, run};
use postgres::{Client, NoTls};
use serde_json::{Value, json};
use session_file_server::config::Config;
use session_file_server::exposition::parse;

const METRICS: &str = "metrics.listen = '127.0.0.1:0'";
/// How long a read may take although a replica is frozen: two seconds are promised, and a busy
/// machine needs some.
const PROMISED: Duration = Duration::from_secs(5);

/// The setting for these replicas of a database.
fn read_url(database: &Database, replicas: &[&Cluster]) -> String {
    let folders = replicas
        .iter()
        .map(|one| one.folder().display().to_string());
    let hosts = folders.collect::<Vec<_>>().join(",");
    let ports = replicas.iter().map(|one| one.port().to_string());
    let ports = ports.collect::<Vec<_>>().join(",");
    let name = &database.name;
    format!(
        "listen = '127.0.0.1:0'\n{METRICS}\n\
         database.read_url = \"host={hosts} port={ports} user=tester dbname={name}\""
    )
}

/// A primary with its tables, a replica, and a server on both.
fn replicated() -> (Cluster, Database, Cluster, Server) {
    let primary = Cluster::start();
    let database = primary.database();
    drop(Server::start(&database));
    let replica = primary.standby();
    let server = Server::with(&database, &read_url(&database, &[&replica]));
    wait_until_used(&server);
    (primary, database, replica, server)
}

fn wait_until_used(server: &Server) {
    eventually("the replica is used", || {
        metric(server, "replica_used") == 1.0
    });
}

/// The sum of a metric's samples.
fn metric(server: &Server, name: &str) -> f64 {
    samples(server, name, "").iter().sum()
}

/// How many reads had that outcome.
fn reads(server: &Server, outcome: &str) -> f64 {
    samples(server, "replica_reads_total", outcome).iter().sum()
}

/// The samples of a metric. If `outcome` isn't empty, those with that label.
fn samples(server: &Server, name: &str, outcome: &str) -> Vec<f64> {
    let log = server.log();
    let after = log.split("metrics are served on ").nth(1);
    let address = after.and_then(|rest| rest.lines().next()).expect("served");
    let answer = Connection::open(address).request("GET", "/metrics", &[], b"");
    let text = String::from_utf8(answer.body).expect("UTF-8");
    let found = parse(&text).into_iter().filter(|sample| {
        sample.name == name && (outcome.is_empty() || sample.label("outcome") == outcome)
    });
    found.map(|sample| sample.value).collect()
}

/// A connection of the test's own to the database on a replica.
fn client(replica: &Cluster, database: &Database) -> Client {
    Client::connect(&replica.url(&database.name), NoTls).expect("it runs")
}

fn execute(replica: &Cluster, database: &Database, sql: &str) {
    client(replica, database)
        .batch_execute(sql)
        .expect("allowed");
}

/// Whether the replica has a file now.
fn has(replica: &Cluster, database: &Database, id: &str) -> bool {
    let rows = client(replica, database).query("SELECT FROM files WHERE id = $1", &[&id]);
    !rows.expect("a table").is_empty()
}

/// Stores a file by another server, so that this one knows nothing of it, and waits until the
/// replica has it.
fn store_elsewhere(database: &Database, replica: &Cluster, body: &[u8]) -> String {
    let id = Server::start(database).upload(body);
    eventually("it is replicated", || has(replica, database, &id));
    id
}

fn info(server: &Server, id: &str) -> Value {
    server.get(&format!("/file/{id}/info")).json()
}

#[track_caller]
fn assert_logged_once(server: &Server, text: &str) {
    let log = server.log();
    assert_eq!(log.matches(text).count(), 1, "{text}: {log}");
}

#[test]
fn files_are_read_from_the_replica_and_without_the_primary() {
    let mut primary = Cluster::start();
    let database = primary.database();
    drop(Server::start(&database));
    let replica = primary.standby();
    let files = [bytes(1, 1_000), bytes(2, 300_000)];
    let ids = files
        .clone()
        .map(|file| store_elsewhere(&database, &replica, &file));
    let onion = Onion::on(&database, &read_url(&database, &[&replica]));
    let server = &onion.server;
    wait_until_used(server);
    assert_logged_once(server, "files are read from the replica on");
    let read_all = || {
        for (id, file) in ids.iter().zip(&files) {
            assert!(server.get(&format!("/file/{id}")).body == *file);
            assert_eq!(info(server, id)["size"], json!(file.len()));
            let reply = onion.v4_request("GET", &format!("/file/{id}"), None);
            assert!(reply.status == 200 && reply.body == *file);
        }
    };
    read_all();
    assert_eq!(
        (reads(server, "found"), reads(server, "absent")),
        (6.0, 0.0)
    );
    primary.stop();
    read_all();
    assert_eq!(reads(server, "found"), 12.0);
    server.get("/file/none").assert_error(503);
    server.post("/file", b"a file").assert_error(503);
    assert_eq!(server.get("/health").json()["write"], false);
    server.get("/health?write").assert_error(503);
    // Longer than what was asked of the primary counts.
    std::thread::sleep(Duration::from_secs(8));
    read_all();
    primary.resume();
    eventually("uploads are taken", || {
        server.get("/health?write").status == 200
    });
    server.get("/file/none").assert_error(404);
    assert!(!server.log().contains("is left out"), "{}", server.log());
}

#[test]
fn while_the_primary_is_frozen_files_come_from_the_replica_at_once() {
    let (primary, database, replica, server) = replicated();
    let id = store_elsewhere(&database, &replica, b"a file");
    primary.signal("STOP");
    for _ in 0..20 {
        let started = Instant::now();
        assert_eq!(server.get(&format!("/file/{id}")).body, b"a file");
        assert!(started.elapsed() < PROMISED);
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(server.get("/health").json()["write"], false);
    primary.signal("CONT");
    eventually("uploads are taken", || {
        server.post("/file", b"another").status == 200
    });
    let log = server.log();
    assert!(!log.contains("is left out"), "{log}");
}

#[test]
fn what_a_replica_does_not_have_yet_is_found_on_the_primary() {
    let (_primary, database, replica, server) = replicated();
    execute(&replica, &database, "SELECT pg_wal_replay_pause()");
    let id = Server::start(&database).upload(b"a file");
    assert_eq!(server.get(&format!("/file/{id}")).body, b"a file");
    assert_eq!(info(&server, &id)["size"], json!(6));
    assert!(!has(&replica, &database, &id));
    server.get("/file/none").assert_error(404);
    assert_eq!(
        (reads(&server, "found"), reads(&server, "absent")),
        (0.0, 3.0)
    );
}

#[test]
fn a_file_is_shown_as_this_server_has_extended_it() {
    let (_primary, database, replica, server) = replicated();
    let id = {
        let other = Server::start(&database);
        let answer = other.post_with("/file", &[("X-FS-TTL", "1000")], b"a file");
        answer.json()["id"].as_str().expect("an id").to_string()
    };
    eventually("it is replicated", || has(&replica, &database, &id));
    execute(&replica, &database, "SELECT pg_wal_replay_pause()");
    let before = info(&server, &id)["expires"].as_f64();
    assert_eq!(reads(&server, "found"), 1.0);
    let extended = server.post(&format!("/file/{id}/extend"), b"");
    assert_eq!(extended.status, 200);
    let after = info(&server, &id)["expires"].as_f64();
    assert!(after > before, "{after:?} {before:?}");
    assert_eq!(reads(&server, "not_tried"), 1.0);
}

#[test]
fn what_was_removed_never_comes_from_a_replica_that_still_has_it() {
    let (_primary, database, replica, server) = replicated();
    let files = [b"a bad one", b"an ex-one"];
    let ids = files.map(|file| store_elsewhere(&database, &replica, file));
    execute(&replica, &database, "SELECT pg_wal_replay_pause()");
    for id in &ids {
        assert_eq!(server.get(&format!("/file/{id}")).status, 200);
    }
    let folder = config_folder(&database.url, "");
    for (command, id) in ["block", "delete"].iter().zip(&ids) {
        let output = run(folder.path(), &["files", command, id]);
        assert!(output.status.success(), "{output:?}");
    }
    std::thread::sleep(Duration::from_secs(3));
    for id in &ids {
        server.get(&format!("/file/{id}")).assert_error(404);
        server.get(&format!("/file/{id}/info")).assert_error(404);
        assert!(has(&replica, &database, id));
    }
    // The replica is behind for good now.
    eventually("it is left out", || metric(&server, "replica_used") == 0.0);
    assert_logged_once(&server, "it is too far behind");
    execute(&replica, &database, "SELECT pg_wal_replay_resume()");
    wait_until_used(&server);
    assert_logged_once(&server, "is used again");
    for id in &ids {
        server.get(&format!("/file/{id}")).assert_error(404);
    }
}

#[test]
fn a_dead_replica_costs_a_line_and_is_taken_up_again() {
    let (_primary, database, mut replica, server) = replicated();
    let id = store_elsewhere(&database, &replica, b"a file");
    let path = format!("/file/{id}");
    // All workers have connections to it.
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| assert_eq!(server.get(&path).status, 200));
        }
    });
    replica.crash();
    for _ in 0..20 {
        let started = Instant::now();
        assert_eq!(server.get(&path).body, b"a file");
        assert!(started.elapsed() < PROMISED);
    }
    eventually("it is left out", || metric(&server, "replica_used") == 0.0);
    assert_logged_once(&server, "is left out");
    replica.resume();
    wait_until_used(&server);
    assert_logged_once(&server, "is used again");
    let before = reads(&server, "found");
    assert_eq!(server.get(&path).status, 200);
    assert_eq!(reads(&server, "found"), before + 1.0);
    server.assert_no_500();
}

#[test]
fn a_frozen_replica_keeps_requests_for_a_moment_only() {
    let (_primary, database, replica, server) = replicated();
    let id = store_elsewhere(&database, &replica, b"a file");
    let path = format!("/file/{id}");
    let read_at_once = || {
        std::thread::scope(|scope| {
            let read = || {
                let started = Instant::now();
                assert_eq!(server.get(&path).body, b"a file");
                started.elapsed()
            };
            let readers: Vec<_> = (0..16).map(|_| scope.spawn(read)).collect();
            let took = readers
                .into_iter()
                .map(|reader| reader.join().expect("read"));
            took.max().expect("some")
        })
    };
    read_at_once();
    replica.signal("STOP");
    let took = read_at_once();
    assert!(took < PROMISED, "{took:?}");
    eventually("it is left out", || metric(&server, "replica_used") == 0.0);
    let failed = reads(&server, "failed");
    read_at_once();
    assert_eq!(reads(&server, "failed"), failed, "nobody waits again");
    assert_logged_once(&server, "is left out");
    replica.signal("CONT");
    wait_until_used(&server);
    assert_logged_once(&server, "is used again");
}

#[test]
fn slow_clients_that_fill_the_memory_are_not_taken_for_a_slow_replica() {
    let primary = Cluster::start();
    let database = primary.database();
    drop(Server::start(&database));
    let replica = primary.standby();
    let others = "files.cache_size = 0";
    let config = Config::parse(others, Path::new("config.toml")).expect("valid");
    let memory = config.least_memory();
    let settings = read_url(&database, &[&replica]);
    let settings = format!("{settings}\nmemory = {memory}\nworkers = 8\n{others}");
    let server = Server::with(&database, &settings);
    wait_until_used(&server);
    let id = store_elsewhere(&database, &replica, &bytes(1, 10_000_000));
    let request = format!("GET /file/{id} HTTP/1.1\r\nHost: test\r\n\r\n");
    let slow: Vec<_> = (0..12).map(|_| send(&server, request.as_bytes())).collect();
    // They read no more than this.
    let is_refused = |mut stream: &TcpStream| {
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("an answer");
        status.ends_with(b"503")
    };
    let refused = slow.iter().filter(|stream| is_refused(stream)).count();
    assert!(refused > 0, "there was memory for all");
    assert_eq!(reads(&server, "failed"), 0.0);
    assert_eq!(metric(&server, "replica_used"), 1.0);
    assert!(!server.log().contains("is left out"), "{}", server.log());
}

#[test]
fn a_statement_that_is_in_replication_s_way_is_run_on_the_primary() {
    let (_primary, database, replica, server) = replicated();
    let id = store_elsewhere(&database, &replica, b"a file");
    // What a statement meets when a conflict ends it, by a function in place of the table's.
    let sql = "ALTER TABLE files RENAME TO stored; \
         CREATE FUNCTION conflict() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN \
             IF pg_is_in_recovery() THEN RAISE SQLSTATE '40001'; END IF; RETURN true; END $$; \
         CREATE VIEW files AS SELECT * FROM stored WHERE conflict()";
    database.execute(sql);
    eventually("it is replicated", || {
        let view =
            client(&replica, &database).query_one("SELECT to_regproc('conflict')::text", &[]);
        view.is_ok_and(|row| row.get::<_, Option<String>>(0).is_some())
    });
    for _ in 0..3 {
        assert_eq!(server.get(&format!("/file/{id}")).body, b"a file");
    }
    assert_eq!(reads(&server, "conflict"), 3.0);
    assert_eq!(metric(&server, "replica_used"), 1.0);
    assert!(!server.log().contains("is left out"));
}

#[test]
fn what_is_no_replica_is_left_out_with_a_sentence() {
    let (_primary, database, replica, server) = replicated();
    let other = Cluster::start();
    let mut maker = Client::connect(&other.url("postgres"), NoTls).expect("it runs");
    let name = &database.name;
    let made = maker.batch_execute(&format!("CREATE DATABASE {name}"));
    made.expect("a database");
    let stranger = Server::with(&database, &read_url(&database, &[&other]));
    eventually("it is left out", || stranger.log().contains("is left out"));
    let id = stranger.upload(b"a file");
    assert_eq!(stranger.get(&format!("/file/{id}")).body, b"a file");
    assert_logged_once(&stranger, "another cluster than the primary");
    // A replica that is promoted by mistake.
    replica.promote();
    eventually("it is left out", || metric(&server, "replica_used") == 0.0);
    assert_logged_once(&server, "was promoted");
    execute(
        &replica,
        &database,
        "INSERT INTO files VALUES ('wrong', 'x', now(), 'infinity')",
    );
    server.get("/file/wrong").assert_error(404);
    std::thread::sleep(Duration::from_secs(2));
    assert_logged_once(&server, "is left out");
}

#[test]
fn after_a_failover_the_new_primary_is_no_replica_of_itself() {
    let mut first = Cluster::start();
    let database = first.database();
    drop(Server::start(&database));
    let second = first.standby();
    let id = store_elsewhere(&database, &second, b"a file");
    let path = format!("/file/{id}");
    let settings = read_url(&database, &[&first, &second]);
    let (one, other) = (first.folder().display(), second.folder().display());
    let url = format!("host={one},{other} user=tester dbname={}", database.name);
    let server = Server::try_with(&url, &settings).expect("started");
    wait_until_used(&server);
    first.crash();
    for _ in 0..50 {
        assert_eq!(server.get(&path).status, 200, "the standby has it");
    }
    second.promote();
    eventually("the new primary is used", || {
        let answer = server.get(&path);
        assert_eq!(answer.status, 200);
        server.post("/file", b"another").status == 200
    });
    eventually("it is no replica", || {
        assert_eq!(server.get(&path).status, 200);
        metric(&server, "replica_used") == 0.0
    });
    let log = server.log();
    assert!(!log.contains("was promoted"), "{log}");
}

#[test]
fn a_user_without_privileges_can_have_replicas() {
    let primary = Cluster::start();
    let database = primary.database();
    let name = &database.name;
    database.execute(&format!(
        "CREATE ROLE plain LOGIN; ALTER DATABASE {name} OWNER TO plain; \
         ALTER SCHEMA public OWNER TO plain"
    ));
    let as_plain = |url: &str| url.replace("user=tester", "user=plain");
    let url = as_plain(&database.url);
    let id = {
        let server = Server::try_with(&url, "").expect("started");
        server.upload(b"a file")
    };
    let replica = primary.standby();
    let settings = as_plain(&read_url(&database, &[&replica]));
    let server = Server::try_with(&url, &settings).expect("started");
    wait_until_used(&server);
    assert_eq!(server.get(&format!("/file/{id}")).status, 200);
    assert_eq!(reads(&server, "found"), 1.0);
}

#[test]
fn the_server_starts_without_its_replica_and_status_says_so() {
    let primary = Cluster::start();
    let database = primary.database();
    let mut replica = primary.standby();
    replica.stop();
    let settings = read_url(&database, &[&replica, &primary]);
    let server = Server::with(&database, &settings);
    let id = server.upload(b"a file");
    assert_eq!(server.get(&format!("/file/{id}")).body, b"a file");
    eventually("it is said", || server.log().contains("is left out"));
    let is_primary = "is the primary; as a replica it is left out";
    eventually("this is said, too", || server.log().contains(is_primary));
    let folder = config_folder(&database.url, &settings);
    let status = |arguments: &[&str]| {
        let output = run(folder.path(), arguments);
        String::from_utf8(output.stdout).expect("UTF-8")
            + &String::from_utf8(output.stderr).expect("UTF-8")
    };
    let text = status(&["status"]);
    assert!(text.contains("port 5432: left out: "), "{text}");
    assert!(text.contains("port 5432: the primary itself"), "{text}");
    let text = status(&["check-config", "--system"]);
    assert!(text.contains("left out: "), "{text}");
    replica.resume();
    // It was made before the tables were.
    eventually("it is used", || metric(&server, "replica_used") == 1.0);
    let text = status(&["status", "--json"]);
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert!(json["replicas"][0]["bytes_behind"].is_number(), "{json}");
    assert!(json["replicas"][1]["unused"].is_string(), "{json}");
}

#[test]
fn the_workers_spread_over_the_replicas_and_go_on_with_those_that_are_left() {
    let primary = Cluster::start();
    let database = primary.database();
    drop(Server::start(&database));
    let (mut one, other) = (primary.standby(), primary.standby());
    let id = store_elsewhere(&database, &one, b"a file");
    eventually("it is replicated", || has(&other, &database, &id));
    let server = Server::with(&database, &read_url(&database, &[&one, &other]));
    eventually("both are used", || metric(&server, "replica_used") == 2.0);
    let connections = |replica: &Cluster| {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%FROM files%' \
                   AND application_name = 'session-file-server'";
        let row = client(replica, &database).query_one(sql, &[]);
        row.expect("a row").get::<_, i64>(0)
    };
    let read_at_once = || {
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| assert_eq!(server.get(&format!("/file/{id}")).status, 200));
            }
        });
    };
    eventually("all workers have read", || {
        read_at_once();
        connections(&one) > 1 && connections(&other) > 1
    });
    one.stop();
    eventually("one is left out", || metric(&server, "replica_used") == 1.0);
    assert_logged_once(&server, "is left out");
    let before = reads(&server, "found");
    read_at_once();
    assert_eq!(reads(&server, "found"), before + 16.0);
}
