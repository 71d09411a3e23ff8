//! The order in which ids are sorted, and what happens when the operating system changes it.

mod common;

use std::process::{Command, Output, Stdio};

use common::{
    BINARY, Cluster, Database, Server, bytes, config_folder, eventually, run, signal, under_load,
};

/// The table of a Python server, in the order of the database.
const FILES: &str = "CREATE TABLE files (id varchar(44) PRIMARY KEY CHECK (id ~ '^[a-zA-Z0-9_-]+$'), \
         data bytea NOT NULL, uploaded timestamptz NOT NULL DEFAULT now(), \
         expiry timestamptz NOT NULL DEFAULT now() + '30 days')";

/// A database whose order is a language's, with an older server's table.
fn database() -> Database {
    let database = Cluster::shared().database_with(
        "TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'",
    );
    database.execute(FILES);
    assert!(init_db(&database, &[]).status.success());
    database
}

fn init_db(database: &Database, more: &[&str]) -> Output {
    let folder = config_folder(&database.url, "");
    run(folder.path(), &[&["init-db"], more].concat())
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn status(database: &Database, more: &[&str]) -> String {
    let folder = config_folder(&database.url, "");
    said(&run(folder.path(), &[&["status"], more].concat()))
}

/// What an upgrade of the operating system does: the same words now stand in another order than
/// the index has.
fn change_order(database: &Database) {
    let name = &database.name;
    database.execute(&format!(
        "ALTER TABLE files ALTER id TYPE varchar(44) COLLATE \"C\"; \
         SET allow_system_table_mods = on; \
         UPDATE pg_attribute SET attcollation = 100 \
             WHERE attrelid = 'files'::regclass AND attname = 'id'; \
         UPDATE pg_index SET indcollation = '100' WHERE indexrelid = 'files_pkey'::regclass; \
         UPDATE pg_database SET datcollversion = '1.0' WHERE datname = '{name}'"
    ));
}

/// A client that uploads, and uploads again what it has uploaded.
fn ask_for_more(server: &Server) -> impl FnMut(u64) {
    let mut connection = server.connect();
    move |number| {
        let file = bytes(50_000 + number % 40, 1 + (number as usize % 2) * 100_000);
        let answer = connection.request("POST", "/file", &[], &file);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// Counts the indexes that an unfinished rebuild would leave.
const LEFT: &str = "SELECT count(*) FROM pg_class WHERE relname LIKE 'files_id_bytewise%'";

/// A server whose order of ids has changed since its files were stored, and these files' ids.
/// Some of them were stored a second time, because they weren't found.
fn server_in_another_order(database: &Database) -> (Server, Vec<String>) {
    let server = Server::start(database);
    let upload = |seed| server.upload(&bytes(seed, 100));
    let ids: Vec<String> = (0..300).map(upload).collect();
    drop(server);
    change_order(database);
    let server = Server::start(database);
    let before = found(&server, &ids);
    assert!(before < 290, "the test shows nothing: {before}");
    // Clients that miss their files upload them once more.
    for seed in 0..100 {
        assert_eq!(server.upload(&bytes(seed, 100)), ids[seed as usize]);
    }
    assert!(database.number("SELECT count(*) FROM files") > 300);
    (server, ids)
}

/// How many of these files the server has.
fn found(server: &Server, ids: &[String]) -> usize {
    let is_found = |id: &&String| server.get(&format!("/file/{id}")).status == 200;
    ids.iter().filter(is_found).count()
}

#[test]
fn a_change_of_the_order_is_warned_of() {
    let database = database();
    let (server, _) = server_in_another_order(&database);
    let warning = "the order of the collation en-US in which ids are sorted has changed from \
         version 1.0 to ";
    eventually("it is warned of", || server.log().contains(warning));
    assert!(status(&database, &[]).contains(warning));
    assert!(status(&database, &["--json"]).contains(warning));
    assert!(said(&init_db(&database, &[])).contains("init-db --rebuild-ids"));
}

#[test]
fn after_a_change_of_the_order_every_file_is_found_again_and_nobody_waits() {
    let database = database();
    let (server, ids) = server_in_another_order(&database);
    let client = |_| ask_for_more(&server);
    let output = under_load(1, client, |wait_for_more| {
        wait_for_more(1);
        init_db(&database, &["--rebuild-ids"])
    });
    let said_all = said(&output);
    for part in [
        "a new index for about ",
        "the ids are sorted as bytes now",
        // The clients that are served meanwhile store some files a second time, too.
        "had been stored a second time; one of each is kept",
        "REFRESH COLLATION VERSION",
    ] {
        assert!(said_all.contains(part), "{part} is not in {said_all}");
    }
    assert_eq!(found(&server, &ids), 300);
    let distinct = "SELECT count(*) - count(DISTINCT id) FROM files";
    assert_eq!(database.number(distinct), 0);
    assert_eq!(database.number(LEFT), 0);
    let whole = "SELECT count(*) FROM pg_constraint WHERE conrelid = 'files'::regclass \
         AND convalidated AND conname IN ('files_pkey', 'files_id_check')";
    assert_eq!(database.number(whole), 2);
    assert!(!status(&database, &[]).contains("warning"));
    let again = said(&init_db(&database, &["--rebuild-ids"]));
    assert!(again.contains("nothing is to be done"), "{again}");
    assert!(!said(&init_db(&database, &[])).contains("rebuild"));
    // The running server goes on, a new one too.
    server.assert_no_500();
    let newer = Server::start(&database);
    assert_eq!(newer.get(&format!("/file/{}", ids[7])).status, 200);
}

#[test]
fn a_new_database_sorts_ids_as_bytes() {
    let database = Cluster::shared().database_with(
        "TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'",
    );
    drop(Server::start(&database));
    let name = &database.name;
    database.execute(&format!(
        "UPDATE pg_database SET datcollversion = '1.0' WHERE datname = '{name}'"
    ));
    assert!(!status(&database, &[]).contains("warning"));
    // Nor does any other key depend on the order of a language.
    let others = "SELECT count(*) FROM pg_index, unnest(indcollation) AS sorted \
         WHERE indrelid::regclass::text !~ '^pg_' AND sorted NOT IN (0, 950)";
    assert_eq!(database.number(others), 0);
}

#[test]
fn an_interrupted_rebuild_leaves_nothing_and_can_be_repeated() {
    let database = database();
    let server = Server::start(&database);
    let id = server.upload(b"a file");
    // The build waits for this transaction, as it would for pg_dump.
    let mut dump = database.client();
    dump.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM files")
        .expect("allowed");
    let building = "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'";
    let folder = config_folder(&database.url, "");
    for name in ["INT", "TERM"] {
        let mut child = Command::new(BINARY)
            .args(["init-db", "--rebuild-ids"])
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        eventually("it builds", || database.number(building) == 1);
        assert_eq!(server.get(&format!("/file/{id}")).status, 200);
        assert_eq!(server.upload(b"a file"), id);
        // A second `init-db` at the same time is told to wait.
        let second = run(folder.path(), &["init-db", "--rebuild-ids"]);
        let told = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(told.contains("another init-db"), "{told}");
        signal(child.id(), name);
        // Removing the unfinished index waits for the dump, too.
        std::thread::sleep(std::time::Duration::from_secs(1));
        dump.batch_execute("COMMIT").expect("allowed");
        let status = child.wait().expect("a child");
        assert_eq!(status.code(), Some(1), "{name}");
        assert_eq!(database.number(LEFT), 0, "{name}");
        dump.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM files")
            .expect("allowed");
    }
    dump.batch_execute("COMMIT").expect("allowed");
    // The next rebuild removes what a killed one has left.
    database.execute("CREATE INDEX files_id_bytewise ON files (id)");
    said(&init_db(&database, &["--rebuild-ids"]));
    assert_eq!(database.number(LEFT), 0);
    assert_eq!(server.get(&format!("/file/{id}")).body, b"a file");
}

#[test]
fn a_rebuild_whose_words_nobody_can_keep_is_done_all_the_same() {
    for output in ["/dev/full", "&-"] {
        let database = database();
        let folder = config_folder(&database.url, "");
        let script = format!("exec \"$0\" \"$@\" >{output}");
        let rebuilt = Command::new("sh")
            .args(["-c", &script, BINARY, "init-db", "--rebuild-ids"])
            .current_dir(folder.path())
            .output()
            .expect("sh");
        assert_eq!(rebuilt.status.code(), Some(0), "{output}: {rebuilt:?}");
        let again = said(&init_db(&database, &["--rebuild-ids"]));
        assert!(again.contains("nothing is to be done"), "{output}: {again}");
    }
}

#[test]
fn what_stands_in_the_way_of_a_rebuild_is_named_and_left_alone() {
    for (sql, named) in [
        (
            "CREATE VIEW names AS SELECT id FROM files",
            "the view names",
        ),
        (
            "CREATE TABLE notes (id varchar(44) REFERENCES files)",
            "the foreign key notes_id_fkey of notes",
        ),
        (
            "CREATE INDEX other ON files (id, expiry)",
            "the index other",
        ),
        (
            "ALTER TABLE files REPLICA IDENTITY USING INDEX files_pkey",
            "the replica identity",
        ),
        (
            "ALTER TABLE files DROP CONSTRAINT files_pkey; CREATE UNIQUE INDEX ON files (id)",
            "no primary key",
        ),
    ] {
        let database = database();
        database.execute(sql);
        let output = init_db(&database, &["--rebuild-ids"]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{sql}: {told}");
        assert!(told.contains(named), "{sql}: {told}");
        assert_eq!(database.number(LEFT), 0);
    }
}

#[test]
fn a_table_that_is_used_all_the_time_is_left_as_it_was() {
    let database = database();
    let server = Server::start(&database);
    let id = server.upload(b"a file");
    let folder = config_folder(&database.url, "");
    let mut child = Command::new(BINARY)
        .args(["init-db", "--rebuild-ids"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // This transaction has no snapshot, so that the build doesn't wait for it, but its lock holds
    // up the change of the table.
    let mut user = database.client();
    user.batch_execute("BEGIN; LOCK TABLE files IN ACCESS SHARE MODE")
        .expect("allowed");
    std::thread::sleep(std::time::Duration::from_secs(4));
    let answer = server.get(&format!("/file/{id}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    signal(child.id(), "INT");
    std::thread::sleep(std::time::Duration::from_secs(1));
    user.batch_execute("COMMIT").expect("allowed");
    let status = child.wait().expect("a child");
    // On a quick machine the rebuild may have ended before the signal.
    assert!(matches!(status.code(), Some(0 | 1)), "{status:?}");
    assert_eq!(database.number(LEFT), 0);
    assert_eq!(server.upload(b"a file"), id);
}
