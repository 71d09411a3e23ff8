//! What the server answers when the database or the machine fails, and that it recovers by itself.
//! Outages, restarts and crashes are in `database.rs`.

mod common;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Cluster, Database, Server, bytes, eventually, is_root};

/// Ends all connections to a database but the one that asks.
const DISCONNECT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE datname = current_database() AND pid <> pg_backend_pid()";

#[test]
fn a_read_only_database_serves_files_and_answers_uploads_503() {
    let database = Database::new();
    let server = Server::start(&database);
    let id = server.upload(b"a file");
    let name = &database.name;
    let read_only = |on: &str| {
        database.execute(&format!(
            "ALTER DATABASE {name} SET default_transaction_read_only = {on}"
        ));
        database.client().query(DISCONNECT, &[]).expect("allowed");
    };
    read_only("on");
    let answer = server.post("/file", b"another");
    answer.assert_error(503);
    assert!(answer.header("Retry-After").is_some());
    assert_eq!(server.get(&format!("/file/{id}")).body, b"a file");
    // The session that makes the database read-only must still be able to change that back.
    let mut client = database.client();
    for statement in [
        "SET default_transaction_read_only = off".to_string(),
        format!("ALTER DATABASE {name} SET default_transaction_read_only = off"),
    ] {
        client.batch_execute(&statement).expect("allowed");
    }
    client.query(DISCONNECT, &[]).expect("allowed");
    eventually("uploads succeed again", || {
        server.post("/file", b"another").status == 200
    });
}

#[test]
fn a_statement_that_waits_for_a_lock_is_given_up_within_seconds() {
    let database = Database::new();
    let server = Server::start(&database);
    let id = server.upload(b"a file");
    let mut other = database.client();
    let mut lock = other.transaction().expect("a transaction");
    lock.batch_execute("LOCK TABLE files IN EXCLUSIVE MODE")
        .expect("a lock");
    let started = Instant::now();
    server.post("/file", b"another").assert_error(503);
    // The database's own limit for statements is 30 seconds.
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(server.get(&format!("/file/{id}")).status, 200);
    lock.rollback().expect("unlocked");
    assert_eq!(server.post("/file", b"another").status, 200);
}

#[test]
fn too_few_connections_are_answered_503_until_there_are_enough() {
    let database = Database::new();
    let user = format!("limited_{}", database.name);
    database.execute(&format!(
        "CREATE ROLE {user} LOGIN CONNECTION LIMIT 2; \
         ALTER DATABASE {} OWNER TO {user}; GRANT ALL ON SCHEMA public TO {user}",
        database.name
    ));
    let url = database.url.replace("user=tester", &format!("user={user}"));
    let server = Server::try_with(&url, "").expect("started");
    let mut statuses = std::collections::BTreeSet::new();
    eventually("some are answered and some are not", || {
        let uploads = std::thread::scope(|scope| {
            let upload = |seed| server.post("/file", &bytes(seed, 1000)).status;
            let clients = (0..8).map(|seed| scope.spawn(move || upload(seed)));
            let clients: Vec<_> = clients.collect();
            clients
                .into_iter()
                .map(|c| c.join().expect("answered"))
                .collect::<Vec<_>>()
        });
        statuses.extend(uploads);
        statuses.len() > 1
    });
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), [200, 503]);
    database.execute(&format!("ALTER ROLE {user} CONNECTION LIMIT -1"));
    eventually("all are answered", || {
        (0..40).all(|seed| server.post("/file", &bytes(seed, 1000)).status == 200)
    });
}

#[test]
fn a_failover_to_a_standby_loses_nothing_and_needs_nobody() {
    let mut first = Cluster::start();
    let database = first.database();
    let second = first.standby();
    // Both clusters are asked, and only the one that can be written to is used.
    let (one, other) = (first.folder().display(), second.folder().display());
    let url = format!(
        "host={one},{other} user=tester dbname={} target_session_attrs=read-write",
        database.name
    );
    let server = Server::try_with(&url, "").expect("started");
    let id = server.upload(b"before");
    eventually("the standby has it", || {
        let url = second.url(&database.name);
        let mut client = postgres::Client::connect(&url, postgres::NoTls).expect("it runs");
        client
            .query("SELECT 1 FROM files", &[])
            .is_ok_and(|rows| rows.len() == 1)
    });
    first.crash();
    let answer = server.post("/file", b"meanwhile");
    answer.assert_error(503);
    second.promote();
    eventually("uploads succeed again", || {
        server.post("/file", b"after").status == 200
    });
    assert_eq!(server.get(&format!("/file/{id}")).body, b"before");
}

/// A file system in memory whose size the test chooses.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, megabytes: u32) -> SmallDisk {
        let options = format!("size={megabytes}m,mode=700");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder);
        assert!(mount.status().expect("mount").success());
        let owner = Command::new("chown").arg("postgres:").arg(folder).status();
        assert!(owner.expect("chown").success());
        SmallDisk(folder.to_path_buf())
    }
}

impl SmallDisk {
    fn grow(&self, megabytes: u32) {
        let options = format!("remount,size={megabytes}m");
        let status = Command::new("mount")
            .args(["-o", &options])
            .arg(&self.0)
            .status();
        assert!(status.expect("mount").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_answered_503_and_what_was_acknowledged_stays() {
    // Only root may mount a file system.
    if !is_root() {
        return;
    }
    let cluster = Cluster::start();
    let database = cluster.database();
    let place = cluster.folder().join("small");
    std::fs::create_dir(&place).expect("a folder");
    let disk = SmallDisk::mount(&place, 24);
    database.execute(&format!(
        "CREATE TABLESPACE small LOCATION '{}'",
        place.display()
    ));
    let server = Server::start(&database);
    database.execute("ALTER TABLE files SET TABLESPACE small");
    let mut acknowledged = Vec::new();
    let full = (0..100).find(|seed| {
        let answer = server.post("/file", &bytes(*seed, 1_000_000));
        if answer.status == 200 {
            acknowledged.push(answer.json()["id"].as_str().expect("an id").to_string());
            return false;
        }
        answer.assert_error(503);
        true
    });
    assert!(full.is_some() && acknowledged.len() > 5, "{acknowledged:?}");
    for (seed, id) in acknowledged.iter().enumerate() {
        let answer = server.get(&format!("/file/{id}"));
        assert!(answer.body == bytes(seed as u64, 1_000_000), "{answer:?}");
    }
    disk.grow(64);
    assert_eq!(server.post("/file", b"room again").status, 200);
}
