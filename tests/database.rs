//! What happens when the database is away, restarted, or not what it should be.

mod common;

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{BINARY, Cluster, Connection, Database, Pooler, Server, bytes, eventually};
use session_file_server::db::CONNECTION_DESCRIPTORS;

#[test]
fn an_outage_is_answered_503_and_service_resumes_by_itself() {
    let mut cluster = Cluster::start();
    let server = Server::start(&cluster.database());
    let id = server.upload(b"a file");
    cluster.stop();
    for _ in 0..20 {
        let answer = server.get(&format!("/file/{id}"));
        answer.assert_error(503);
        assert!(answer.header("Retry-After").is_some());
    }
    server.post("/file", b"new").assert_error(503);
    server
        .post("/files", br#"{"file": "YQ=="}"#)
        .assert_error(503);
    server.get("/health").assert_error(503);
    cluster.resume();
    eventually("service resumes", || {
        server.get(&format!("/file/{id}")).status == 200
    });
    eventually("it is healthy", || server.get("/health").status == 200);
    assert_eq!(server.post("/files", br#"{"file": "YQ=="}"#).status, 200);
    let log = server.log();
    assert_eq!(
        log.matches("can't be reached").count(),
        1,
        "said once: {log}"
    );
    assert_eq!(
        log.matches("the database is back").count(),
        1,
        "said once: {log}"
    );
}

/// A server with one worker, in which nothing but requests asks the database.
fn quiet_server(database: &Database) -> Server {
    let settings = "workers = 1\nfiles.cleanup_interval = '1 day'";
    let server = Server::with(database, settings);
    eventually("all that is done at the start is done", || {
        server.log().contains("files stored")
            && database.number("SELECT count(*) FROM servers") == 1
    });
    server
}

#[test]
fn a_table_that_was_empty_at_first_is_not_read_whole_when_it_has_grown() {
    let database = Cluster::shared().database();
    let server = quiet_server(&database);
    // PostgreSQL knows from now on that the table is empty, and keeps the plans that it makes for
    // that.
    database.execute("VACUUM ANALYZE files");
    let refreshed = bytes(1, 100_000);
    let id = server.upload(&refreshed);
    for _ in 0..10 {
        assert_eq!(server.get("/file/none").status, 404);
        assert_eq!(server.get(&format!("/file/{id}/info")).status, 200);
        assert_eq!(server.upload(&refreshed), id);
    }
    database.execute(
        "INSERT INTO files (id, data) SELECT 'filler-' || n, '' FROM generate_series(1, 2000) n",
    );
    let read_whole = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'files'";
    let found = "SELECT idx_scan FROM pg_stat_user_tables WHERE relname = 'files'";
    let (whole, by_index) = (database.number(read_whole), database.number(found));
    eventually("the database has counted", || {
        assert_eq!(server.get(&format!("/file/{id}")).body, refreshed);
        assert_eq!(server.get(&format!("/file/{id}/info")).status, 200);
        assert_eq!(server.upload(&refreshed), id);
        database.number(found) > by_index + 10 || database.number(read_whole) > whole
    });
    assert_eq!(
        database.number(read_whole),
        whole,
        "the table was read whole"
    );
}

#[test]
fn a_restart_between_two_requests_is_not_noticed() {
    let mut cluster = Cluster::start();
    let server = quiet_server(&cluster.database());
    let id = server.upload(b"a file");
    cluster.crash();
    cluster.resume();
    assert_eq!(server.get(&format!("/file/{id}")).status, 200);
    cluster.stop();
    cluster.resume();
    // This request can't be repeated, but its connection is tested first.
    assert_eq!(server.post("/files", br#"{"file": "YQ=="}"#).status, 200);
}

#[test]
fn an_upload_whose_connection_breaks_is_tried_once_more() {
    let database = Database::new();
    let server = quiet_server(&database);
    let id = server.upload(b"a file");
    let lock = database.lock_files();
    std::thread::scope(|scope| {
        let upload = scope.spawn(|| server.upload(b"another"));
        let mut client = database.client();
        eventually("the waiting connection is found and broken", || {
            let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
            client
                .query_one(terminate, &[])
                .expect("a row")
                .get::<_, i64>(0)
                == 1
        });
        lock.release();
        let another = upload.join().expect("200");
        assert_ne!(another, id);
    });
    assert_eq!(database.number("SELECT count(*) FROM files"), 2);
}

#[test]
fn a_server_that_starts_before_its_database_serves_when_it_comes() {
    let mut cluster = Cluster::start();
    let database = cluster.database();
    cluster.stop();
    let server = Server::start(&database);
    server.post("/file", b"a file").assert_error(503);
    cluster.resume();
    eventually("the tables are made and the upload succeeds", || {
        server.post("/file", b"a file").status == 200
    });
}

#[test]
fn a_database_that_does_not_exist_is_named_at_the_start() {
    let url = Cluster::shared().url("no_such_database");
    let log = Server::try_with(&url, "").err().expect("refused");
    assert!(
        log.contains("no_such_database") && log.contains("createdb"),
        "{log}"
    );
}

#[test]
fn servers_that_start_at_once_share_one_empty_database() {
    let database = Database::new();
    std::thread::scope(|scope| {
        let starts: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| Server::start(&database)))
            .collect();
        let servers: Vec<Server> = starts
            .into_iter()
            .map(|s| s.join().expect("started"))
            .collect();
        let id = servers[0].upload(b"a file");
        for server in &servers {
            assert_eq!(server.get(&format!("/file/{id}")).body, b"a file");
        }
    });
}

#[test]
fn an_upload_that_fails_when_it_is_committed_is_not_acknowledged() {
    let database = Database::new();
    let server = Server::start(&database);
    database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ \
             BEGIN RAISE 'not today'; END $$; \
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON files \
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    for size in [1000, 100_000, 2_000_000] {
        let content = bytes(size as u64, size);
        server.post("/file", &content).assert_error(500);
        let body = format!(r#"{{"file": "{}"}}"#, "AAAA".repeat(size / 3));
        server.post("/files", body.as_bytes()).assert_error(500);
    }
    assert_eq!(database.number("SELECT count(*) FROM files"), 0);
    database.execute("DROP TRIGGER refuse ON files");
    let content = bytes(1, 100_000);
    let id = server.upload(&content);
    assert_eq!(server.get(&format!("/file/{id}")).body, content);
}

#[test]
fn an_upload_that_the_database_refuses_spoils_no_other_request() {
    let database = Database::new();
    drop(Server::start(&database));
    database.execute(
        "CREATE ROLE reader LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO reader; \
         REVOKE INSERT ON files FROM reader; \
         INSERT INTO files VALUES ('there', 'content', now(), 'infinity')",
    );
    let url = database.url.replace("user=tester", "user=reader");
    let server = Server::try_with(&url, "workers = 1").expect("it starts");
    for _ in 0..5 {
        server.post("/file", &bytes(1, 100_000)).assert_error(500);
        assert_eq!(server.get("/file/there").body, b"content");
    }
}

/// Uploads files of various sizes from several clients until told to stop. Returns the seeds and
/// the ids of those that were acknowledged.
fn upload_until(address: &str, stop: &AtomicBool) -> Vec<(u64, String)> {
    let acknowledged = Mutex::new(Vec::new());
    // A test that has failed meanwhile tells nobody to stop.
    let deadline = Instant::now() + Duration::from_secs(120);
    std::thread::scope(|scope| {
        for client in 0..8u64 {
            let acknowledged = &acknowledged;
            scope.spawn(move || {
                for number in 0..u64::MAX {
                    if stop.load(Ordering::Relaxed) || Instant::now() > deadline {
                        return;
                    }
                    let seed = (client << 32) | number;
                    let answer = Connection::try_open(address)
                        .and_then(|mut c| c.try_request("POST", "/file", &[], &file(seed)));
                    match answer {
                        Ok(answer) if answer.status == 200 => {
                            let id = answer.json()["id"].as_str().expect("an id").to_string();
                            acknowledged.lock().expect("no panic").push((seed, id));
                        }
                        Ok(answer) => answer.assert_error(503),
                        // The server was killed, so that nobody accepts the connection.
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                }
            });
        }
    });
    acknowledged.into_inner().expect("no panic")
}

fn file(seed: u64) -> Vec<u8> {
    bytes(seed, 1 + (seed as usize % 7) * 30_000)
}

fn assert_all_there(server: &Server, acknowledged: &[(u64, String)]) {
    assert!(
        acknowledged.len() > 20,
        "hardly anything was uploaded: {}",
        acknowledged.len()
    );
    let mut connection = server.connect();
    for (seed, id) in acknowledged {
        let answer = connection.request("GET", &format!("/file/{id}"), &[], b"");
        assert!(
            answer.status == 200 && answer.body == file(*seed),
            "{id} was lost: {answer:?}"
        );
    }
}

#[test]
fn kill_9_under_load_loses_nothing_that_was_acknowledged() {
    let database = Database::new();
    let mut server = Server::start(&database);
    let stop = AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| {
        let uploads = scope.spawn(|| upload_until(&server.address.clone(), &stop));
        eventually("load", || {
            database.number("SELECT count(*) FROM files") > 100
        });
        server.signal("KILL");
        stop.store(true, Ordering::Relaxed);
        uploads.join().expect("no panic")
    });
    server.kill();
    let server = Server::start(&database);
    assert_all_there(&server, &acknowledged);
}

#[test]
fn a_database_that_stops_and_starts_under_load_loses_nothing_that_was_acknowledged() {
    let mut cluster = Cluster::start();
    let database = cluster.database();
    let server = Server::start(&database);
    let stop = AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| {
        let uploads = scope.spawn(|| upload_until(&server.address, &stop));
        let mut least = 0;
        for _ in 0..3 {
            least += 100;
            eventually("load", || {
                database.number("SELECT count(*) FROM files") > least
            });
            // The cluster is stopped in order, so that what it has committed is on its disk. (After
            // a crash it need not be, because the tests' clusters don't wait for the disk.)
            cluster.stop();
            std::thread::sleep(Duration::from_millis(300));
            cluster.resume();
            least = database.number("SELECT count(*) FROM files");
        }
        eventually("load", || {
            database.number("SELECT count(*) FROM files") > least + 50
        });
        stop.store(true, Ordering::Relaxed);
        uploads.join().expect("no panic")
    });
    assert_all_there(&server, &acknowledged);
}

#[test]
fn a_database_that_hangs_is_reported_by_health_within_its_second() {
    let cluster = Cluster::start();
    let server = Server::start(&cluster.database());
    assert_eq!(server.get("/health").status, 200);
    cluster.signal("STOP");
    server.get("/health").assert_error(503);
    cluster.signal("CONT");
    eventually("it is healthy again", || {
        server.get("/health").status == 200
    });
}

#[test]
fn while_the_database_hangs_clients_are_answered_503_and_the_workers_are_free_after() {
    let cluster = Cluster::start();
    let server = Server::with(&cluster.database(), "workers = 2");
    let path = format!("/file/{}", server.upload(b"a file"));
    let statuses = std::thread::scope(|scope| {
        cluster.signal("STOP");
        let (tell, told) = mpsc::channel();
        for _ in 0..8 {
            let (tell, server, path) = (tell.clone(), &server, &path);
            scope.spawn(move || tell.send(server.get(path).status));
        }
        let patience = Duration::from_secs(60);
        let next = || told.recv_timeout(patience).expect("an answer");
        let statuses: Vec<u16> = (0..8).map(|_| next()).collect();
        cluster.signal("CONT");
        statuses
    });
    assert_eq!(statuses, [503; 8]);
    eventually("it answers", || server.get(&path).status == 200);
}

#[test]
fn a_database_that_hangs_at_the_start_is_waited_for_while_clients_are_answered() {
    let cluster = Cluster::start();
    let database = cluster.database();
    cluster.signal("STOP");
    let server = Server::with(&database, "workers = 2");
    assert!(server.log().contains("says nothing"), "{}", server.log());
    server.get("/health").assert_error(503);
    cluster.signal("CONT");
    eventually("it serves", || {
        server.post("/file", b"a file").status == 200
    });
}

#[test]
fn a_database_that_hangs_does_not_keep_the_server_from_stopping() {
    let cluster = Cluster::start();
    let server = Server::with(&cluster.database(), "files.cleanup_interval = '1 s'");
    server.upload(b"a file");
    cluster.signal("STOP");
    // The timer thread asks the database by now, and waits.
    std::thread::sleep(Duration::from_millis(1500));
    server.signal("TERM");
    let (status, _) = server.ended();
    cluster.signal("CONT");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_version_is_printed() {
    let output = Command::new(BINARY)
        .arg("--version")
        .output()
        .expect("the binary runs");
    let expected = format!("session-file-server {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(output.stdout).expect("UTF-8"), expected);
}

/// The driver panics if it gets no descriptors.
#[test]
fn a_lack_of_descriptors_for_a_connection_is_over_when_there_are_some() {
    let server = Server::start(&Database::new());
    let mut connection = server.connect();
    connection
        .request("GET", "/file/none", &[], b"")
        .assert_error(404);
    let limit = |descriptors: usize| {
        let set = Command::new("prlimit")
            .args(["--pid", &server.pid().to_string()])
            .arg(format!("--nofile={descriptors}:"))
            .status();
        assert!(set.expect("prlimit").success());
    };
    limit(5);
    // The first `/health` needs a new connection to the database.
    connection
        .request("GET", "/health", &[], b"")
        .assert_error(503);
    limit(500);
    eventually("the database is asked again", || {
        server.get("/health").status == 200
    });
}

/// The server leaves so many for each of its connections when it reckons how many clients there may
/// be.
#[test]
fn a_connection_takes_as_many_descriptors_as_are_reckoned() {
    let server = Server::start(&Database::new());
    // The timer has its connection then.
    server.wait_for_first_cleanup();
    let mut connection = server.connect();
    let found = connection.request("GET", "/", &[], b"");
    assert!(found.status > 0);
    // Now and then the server has some more for a moment.
    let least = || {
        let count = |_| {
            std::thread::sleep(Duration::from_millis(50));
            let all = std::fs::read_dir(format!("/proc/{}/fd", server.pid()));
            all.expect("it runs").count()
        };
        (0..30).map(count).min().expect("a count")
    };
    let before = least();
    // The first `/health` needs a new connection to the database.
    assert_eq!(connection.request("GET", "/health", &[], b"").status, 200);
    assert_eq!(least() - before, CONNECTION_DESCRIPTORS);
}

/// The database greets a new connection and then says nothing, neither there nor to a second
/// connection.
#[test]
fn a_database_that_freezes_right_after_its_greeting_keeps_no_worker() {
    let database = Database::new();
    let pooler = Pooler::start(&database.host);
    let server = Server::try_with(&pooler.url(&database.name), "workers = 1").expect("started");
    let path = format!("/file/{}", server.upload(b"a file"));
    pooler.freeze_at_next_statement();
    pooler.end_connections("", "");
    eventually("the database freezes", || {
        assert_eq!(server.get(&path).status, 503);
        pooler.is_frozen()
    });
    assert_eq!(server.get(&path).status, 503);
    pooler.thaw();
    eventually("files are handed out again", || {
        server.get(&path).status == 200
    });
    server.assert_no_500();
}
