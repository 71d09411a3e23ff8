//! `init-db` on a database that is served and used meanwhile.

mod common;

use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Database, Server, bytes, config_folder, run};
use postgres::{Client, NoTls};

fn init_db(database: &Database) -> Output {
    let folder = config_folder(&database.url, "");
    run(folder.path(), &["init-db"])
}

/// Begins a transaction as pg_dump has it for as long as it runs.
fn dump(database: &Database) -> Client {
    let url = format!("{} application_name=pg_dump", database.url);
    let mut client = Client::connect(&url, NoTls).expect("PostgreSQL runs");
    client
        .batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
             SELECT count(*) FROM files; LOCK TABLE files IN ACCESS SHARE MODE",
        )
        .expect("allowed");
    client
}

/// Uploads and downloads while `work` runs, all of which must succeed. Returns how many there were.
fn serve_during(server: &Server, work: impl FnOnce()) -> u64 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut connection = server.connect();
            let mut served = 0;
            while !stop.load(Ordering::Relaxed) {
                let file = bytes(served, 1 + (served as usize % 2) * 100_000);
                let answer = connection.request("POST", "/file", &[], &file);
                assert_eq!(answer.status, 200, "{answer:?}");
                let id = answer.json()["id"].as_str().expect("an id").to_string();
                let answer = connection.request("GET", &format!("/file/{id}"), &[], b"");
                assert_eq!(answer.status, 200, "{answer:?}");
                served += 1;
            }
            served
        });
        work();
        stop.store(true, Ordering::Relaxed);
        client.join().expect("all served")
    })
}

#[test]
fn on_a_current_database_it_changes_nothing_and_waits_for_nobody() {
    let database = Database::new();
    let server = Server::start(&database);
    server.upload(b"a file");
    let mut catalog = database.client();
    let mut fingerprint = || -> String {
        // Every change of a table or an index leaves a new row in one of these.
        let sql = "SELECT md5(string_agg(xmin::text, ',' ORDER BY oid)) || \
                 (SELECT string_agg(xmin::text, ',') FROM schema_version) \
             FROM pg_class WHERE relnamespace = 'public'::regnamespace";
        catalog.query_one(sql, &[]).expect("a row").get(0)
    };
    let before = fingerprint();
    let mut dump = dump(&database);
    // Another transaction holds the lock that uploads take, for which building an index would wait.
    let mut writer = database.client();
    writer
        .batch_execute("BEGIN; LOCK TABLE files IN ROW EXCLUSIVE MODE")
        .expect("allowed");
    let served = serve_during(&server, || {
        let started = Instant::now();
        let output = init_db(&database);
        assert!(output.status.success(), "{output:?}");
        assert!(started.elapsed() < Duration::from_secs(2), "it waited");
    });
    assert!(served > 0);
    dump.batch_execute("COMMIT").expect("allowed");
    assert_eq!(fingerprint(), before);
    // A setting that the operator has changed stays as it is.
    database.execute("ALTER TABLE files SET (autovacuum_vacuum_scale_factor = 0.5)");
    drop(writer);
    assert!(init_db(&database).status.success());
    let tuned = "SELECT count(*) FROM pg_class WHERE oid = 'files'::regclass \
         AND reloptions @> '{autovacuum_vacuum_scale_factor=0.5}'";
    assert_eq!(database.number(tuned), 1);
}

#[test]
fn a_change_gives_up_its_lock_in_seconds_and_names_who_holds_it() {
    let database = Database::new();
    let server = Server::start(&database);
    server.upload(b"a file");
    database.execute("ALTER TABLE files ALTER data SET STORAGE EXTENDED");
    let mut dump = dump(&database);
    let served = serve_during(&server, || {
        let started = Instant::now();
        let output = init_db(&database);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?}");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("pg_dump (process ")
                && said.contains("of the user tester, since ")
                && said.contains("is using its table files; repeat this when that has ended"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    });
    assert!(served > 0);
    dump.batch_execute("COMMIT").expect("allowed");
    assert!(init_db(&database).status.success());
    let changed = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'files'::regclass \
         AND attname = 'data' AND attstorage = 'e'";
    assert_eq!(database.number(changed), 1);
}
