//! The same large file from many clients at once, at several servers on one database.

mod common;

use std::sync::Mutex;

use common::{Cluster, Database, Server, bytes};

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
