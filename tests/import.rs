//! Taking over the files of older servers.

mod common;

use std::path::Path;
use std::process::Output;
use std::time::{Duration, SystemTime};

use common::{Cluster, Database, Server, bytes, config_folder, run};

/// A day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes a file that was modified at the time `age` ago.
fn write(path: &Path, content: &[u8], age: Duration) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
    std::fs::write(path, content).expect("writable");
    let file = std::fs::File::options().write(true).open(path);
    file.expect("there")
        .set_modified(SystemTime::now() - age)
        .expect("settable");
}

fn import(database: &Database, settings: &str, arguments: &[&str]) -> Output {
    let folder = config_folder(&database.url, settings);
    run(folder.path(), &[&["import"], arguments].concat())
}

/// The summary of an import that must succeed, or fail if it has refused something.
fn imported(database: &Database, arguments: &[&str]) -> String {
    let output = import(database, "", arguments);
    let summary = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    let refused = summary.contains("refused:");
    assert_eq!(output.status.code(), Some(refused.into()), "{output:?}");
    assert_eq!(
        errors(&output).contains(" not taken, for the reasons above"),
        refused
    );
    summary
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn content_id(prefix: &str) -> String {
    format!("{prefix:x<44}")
}

#[test]
fn a_directorys_files_live_for_the_expiry_from_their_modification_on() {
    let (database, older) = (Database::new(), tempfile::tempdir().expect("a folder"));
    let files = older.path().join("files/main_files");
    write(&files.join("123"), b"two days old", 2 * DAY);
    write(&files.join("124"), &bytes(1, 5_000_000), DAY);
    write(&files.join("125"), b"expired", 22 * DAY);
    write(&files.join("126"), b"", DAY);
    write(&files.join("127"), &vec![0; 10_223_617], DAY);
    write(&files.join("thumbs.db"), b"no id", DAY);
    write(&files.join("0128"), b"no id either", DAY);
    std::fs::create_dir(files.join("129")).expect("a folder");
    std::os::unix::fs::symlink(files.join("123"), files.join("130")).expect("a link");
    let output = import(&database, "", &["directory", text(older.path())]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = errors(&output);
    for name in ["thumbs.db", "0128", "126", "127", "129", "130"] {
        assert!(said.contains(&format!("{name:?} was not taken")), "{said}");
    }
    let summary = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(
        summary,
        "taken:     2 files, 5.00 MB\nskipped:   1 file: expired already\n\
         refused:   1 file: empty\nrefused:   1 file: larger than files.max_size\n\
         refused:   2 files: no decimal id\nrefused:   2 files: no plain file\n"
    );
    let server = Server::start(&database);
    assert_eq!(server.get("/files/123").status, 200);
    assert_eq!(server.get("/file/124").body, bytes(1, 5_000_000));
    let info = server.get("/file/123/info");
    let lifetime = info.number("expires") - info.number("uploaded");
    assert_eq!(lifetime.round() as u64, 21 * DAY.as_secs());
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    let age = now.as_secs_f64() - info.number("uploaded");
    assert!((age - 2.0 * DAY.as_secs_f64()).abs() < 60.0, "{age}");
}

#[test]
fn nothing_is_overwritten_and_an_import_can_be_repeated() {
    let (database, older) = (Database::new(), tempfile::tempdir().expect("a folder"));
    let files = older.path().join("files/main_files");
    for number in 0..1500 {
        write(&files.join(number.to_string()), &bytes(number, 100), DAY);
    }
    let arguments = ["directory", text(older.path())];
    assert!(imported(&database, &arguments).starts_with("taken:     1,500 files, 150 kB\n"));
    // The database is now as after an interrupted import, and has a file that came by other means.
    database.execute("DELETE FROM files WHERE id::bigint % 3 = 0");
    database.execute("INSERT INTO files (id, data) VALUES ('0', 'newer')");
    let summary = imported(&database, &arguments);
    assert_eq!(
        summary,
        "taken:     499 files, 49.9 kB\nskipped:   1,001 files: there already\n"
    );
    assert!(imported(&database, &arguments).starts_with("taken:     0 files"));
    let server = Server::start(&database);
    assert_eq!(server.get("/file/0").body, b"newer");
    assert_eq!(server.get("/file/999").body, bytes(999, 100));
}

#[test]
fn an_import_that_is_killed_goes_on_where_it_was() {
    let (database, older) = (Database::new(), tempfile::tempdir().expect("a folder"));
    let files = older.path().join("files/main_files");
    for number in 0..200 {
        write(
            &files.join(number.to_string()),
            &bytes(number, 300_000),
            DAY,
        );
    }
    let folder = config_folder(&database.url, "");
    let mut first = std::process::Command::new(common::BINARY)
        .args(["import", "directory", text(older.path())])
        .current_dir(folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("the binary runs");
    common::eventually("some are taken", || {
        let there = "SELECT count(to_regclass('schema_version'))";
        database.number(there) == 1 && database.number("SELECT count(*) FROM files") > 10
    });
    first.kill().expect("a child");
    first.wait().expect("a child");
    imported(&database, &["directory", text(older.path())]);
    let server = Server::start(&database);
    for number in 0..200 {
        let answer = server.get(&format!("/file/{number}"));
        assert!(
            answer.body == bytes(number, 300_000),
            "{number}: {answer:?}"
        );
    }
}

/// The newest Python server's layout, with a row for each case.
fn older_pools(folder: &Path) -> Database {
    let older = Database::new();
    older.execute(
        "CREATE TABLE storage_pools (id serial PRIMARY KEY, name text NOT NULL, full_at bigint);
         CREATE TABLE files (id varchar(44) PRIMARY KEY, pool integer REFERENCES storage_pools, \
             uploaded timestamptz NOT NULL, expiry timestamptz, size bigint);
         INSERT INTO storage_pools (name) VALUES ('first'), ('second'), ('../outside')",
    );
    let row = |id: &str, pool: &str, expiry: &str| {
        older.execute(&format!(
            "INSERT INTO files (id, pool, uploaded, expiry) \
             VALUES ('{id}', {pool}, '2026-11-01 12:34:56.789012Z', {expiry})"
        ));
    };
    let content_id = content_id("Zq-");
    row("1234567", "1", "now() + '3 days'");
    row("5", "2", "'infinity'");
    row(&content_id, "2", "now() + '1 day'");
    row("71", "1", "now() - interval '1 second'");
    row("72", "1", "now() + '3 days'");
    row("73", "3", "now() + '3 days'");
    row("74", "NULL", "now() + '3 days'");
    row("75", "1", "NULL");
    row("abc", "1", "now() + '3 days'");
    for (path, content) in [
        ("first/567/1234567", "first"),
        ("second/005/5", "second"),
        (&format!("second/Zq/{content_id}"), "third"),
        ("first/071/71", "expired"),
        ("outside/073/73", "not in a pool"),
        ("first/075/75", "for how long?"),
    ] {
        write(&folder.join(path), content.as_bytes(), DAY);
    }
    older
}

#[test]
fn pools_are_taken_over_with_their_ids_and_times() {
    let (database, pools) = (Database::new(), tempfile::tempdir().expect("a folder"));
    let older = older_pools(pools.path());
    let arguments = ["pools", text(pools.path()), "--from", &older.url];
    let summary = imported(&database, &arguments);
    assert_eq!(
        summary,
        "taken:     3 files, 16 B\nskipped:   1 file: expired already\n\
         refused:   1 file: known to the database, but not in the folder\n\
         refused:   1 file: neither a decimal id nor a content id\n\
         refused:   1 file: of a storage pool that is unknown\n\
         refused:   1 file: of a storage pool whose name is no folder's\n\
         refused:   1 file: without a time of upload or expiry\n"
    );
    let server = Server::start(&database);
    assert_eq!(server.get("/file/1234567").body, b"first");
    assert_eq!(server.get("/file/5").body, b"second");
    let path = format!("/file/{}", content_id("Zq-"));
    assert_eq!(server.get(&path).body, b"third");
    let carried = "SELECT count(*) FROM files WHERE uploaded = '2026-11-01 12:34:56.789012Z' \
         AND (expiry = 'infinity') = (id = '5')";
    assert_eq!(database.number(carried), 3);
}

#[test]
fn a_databases_files_are_taken_over_as_they_are() {
    let (database, older) = (Database::new(), Database::new());
    older.execute(
        "CREATE TABLE files (id varchar(44) PRIMARY KEY, data bytea NOT NULL, \
             uploaded timestamptz NOT NULL DEFAULT now(), expiry timestamptz);
         INSERT INTO files SELECT n::text, convert_to(repeat(n::text, 1000), 'UTF8'), \
             now() - n * interval '1 second', now() + n * interval '1 minute' \
             FROM generate_series(1, 1200) n;
         INSERT INTO files VALUES ('expired', 'x', now(), now()), ('no/id', 'x', now(), 'infinity'), \
             ('endless', 'x', now(), NULL), ('empty', '', now(), 'infinity')",
    );
    // The check of ids came later.
    let summary = imported(&database, &["database", "--from", &older.url]);
    assert_eq!(
        summary,
        "taken:     1,200 files, 3.69 MB\nskipped:   1 file: expired already\n\
         refused:   1 file: empty\nrefused:   1 file: no file id\n\
         refused:   1 file: without a time of upload or expiry\n"
    );
    let fingerprint = |database: &Database| -> String {
        let sql = "SELECT md5(string_agg(id || md5(data) || uploaded || expiry, ',' ORDER BY id)) \
             FROM files WHERE id ~ '^[0-9]+$'";
        let row = database.client().query_one(sql, &[]).expect("a row");
        row.get(0)
    };
    assert_eq!(fingerprint(&database), fingerprint(&older));
}

#[test]
fn mistakes_of_an_import_are_named() {
    let database = Database::new();
    let folder = tempfile::tempdir().expect("a folder");
    let nowhere = folder.path().join("nowhere");
    let (nowhere, here) = (text(&nowhere), text(folder.path()));
    let away = "host=/nowhere dbname=older";
    for (arguments, expected) in [
        (&["directory", nowhere][..], "files/main_files"),
        (&["pools", nowhere, "--from", &database.url], "no folder"),
        (
            &["pools", here, "--from", &database.url],
            "no table files with a column pool",
        ),
        (&["pools", nowhere], "no folder"),
        (
            &["database", "--table", "nothing"],
            "it has no table nothing",
        ),
        (
            &["database", "--table", "a.b.c.d.e"],
            "it has no table a.b.c.d.e",
        ),
        (
            &["database", "--table", "files; DROP TABLE files"],
            "it has no table",
        ),
        (
            &["database", "--from", away],
            "the older server's database older can't be read",
        ),
    ] {
        let output = import(&database, "", arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(errors(&output).contains(expected), "{output:?}");
    }
}

#[test]
fn what_is_no_import_exits_2() {
    let folder = tempfile::tempdir().expect("a folder");
    for wrong in [
        &["import"][..],
        &["import", "everything"],
        &["import", "directory"],
        &["import", "pools"],
        &["import", "directory", "here", "--table", "files"],
        &["init-db", "--table", "files"],
        &["import", "database"],
        &["import", "database", "--from", "port=x password=secret"],
        &["import", "directory", "here", "--from", "dbname=x"],
        &["import", "directory", "here", "there"],
        &["serve", "--json"],
    ] {
        let output = run(folder.path(), wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
        assert!(!errors(&output).contains("secret"), "{output:?}");
    }
}

#[test]
fn files_that_cannot_be_read_fail_the_import_after_all_others_were_taken() {
    let (database, older) = (Database::new(), tempfile::tempdir().expect("a folder"));
    let pool = older.path().join("main");
    write(&pool.join("001/1"), b"a file", DAY);
    write(&pool.join("002"), b"not the folder that it should be", DAY);
    let rows = Database::new();
    rows.execute(
        "CREATE TABLE storage_pools (id int, name text);
         CREATE TABLE files (id text PRIMARY KEY, pool int, uploaded timestamptz, expiry timestamptz);
         INSERT INTO storage_pools VALUES (1, 'main');
         INSERT INTO files SELECT n::text, 1, now(), 'infinity' FROM generate_series(1, 2) n",
    );
    let output = import(
        &database,
        "",
        &["pools", text(older.path()), "--from", &rows.url],
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("refused:   1 file: could not be read")
    );
    assert!(errors(&output).contains("repeat the import"), "{output:?}");
    assert_eq!(database.number("SELECT count(*) FROM files"), 1);
}

/// The layout of 2025: newer files lie in a folder, older ones in the database.
fn layout_of_2025(folder: &Path) -> Database {
    let older = Database::new();
    older.execute(
        "CREATE TABLE files (id varchar(44) PRIMARY KEY CHECK (id ~ '^[a-zA-Z0-9_-]+$'), \
             data bytea, uploaded timestamptz NOT NULL DEFAULT now(), \
             expiry timestamptz NOT NULL DEFAULT now() + '30 days');
         CREATE TABLE files_old (LIKE files INCLUDING ALL);
         INSERT INTO files VALUES ('12', 'in its row', '2025-11-01 12:34:56.789012Z', 'infinity'), \
             ('1234567', NULL, '2025-11-01 12:34:56.789012Z', 'infinity'), \
             ('71', NULL, now(), now()), ('72', NULL, now(), 'infinity');
         INSERT INTO files_old VALUES ('13', NULL, '2025-11-01 12:34:56.789012Z', 'infinity'), \
             ('14', 'old', '2025-11-01 12:34:56.789012Z', 'infinity')",
    );
    let content_id = content_id("Zq-");
    older.execute(&format!(
        "INSERT INTO files (id, uploaded, expiry) VALUES ('{content_id}', \
         '2025-11-01 12:34:56.789012Z', 'infinity')"
    ));
    write(&folder.join("567/1234567"), b"in the folder", DAY);
    write(
        &folder.join(format!("Zq/{content_id}")),
        &bytes(5, 300_000),
        DAY,
    );
    write(&folder.join("013/13"), b"of the other table", DAY);
    older
}

#[test]
fn the_layout_of_2025_is_taken_over_into_another_database() {
    let folder = tempfile::tempdir().expect("a folder");
    let (older, new) = (layout_of_2025(folder.path()), Database::new());
    let from = ["--from", older.url.as_str()];
    let summary = import_layout_of_2025(folder.path(), &new, &from);
    assert!(
        summary.starts_with(
            "taken:     3 files, 300 kB\nskipped:   1 file: expired already\n\
             refused:   1 file: known to the database, but not in the folder\n"
        ),
        "{summary}"
    );
    // Files whose bytes only the folder has can be taken only by the import from the folder.
    let arguments = [&["database", "--table", "files"], &from[..]].concat();
    let refused = imported(&new, &arguments);
    let reason = "refused:   3 files: without bytes, which lie in the older server's folder";
    assert!(refused.contains(reason), "{refused}");
    assert_layout_of_2025_is_served(&new);
}

#[test]
fn the_layout_of_2025_is_taken_over_where_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = layout_of_2025(folder.path());
    let summary = import_layout_of_2025(folder.path(), &database, &[]);
    let there = "skipped:   1 file: there already\n";
    assert!(summary.contains(there), "{summary}");
    let refused = imported(&database, &["database", "--table", "files"]);
    // The one file whose bytes the folder didn't have either is refused.
    assert!(
        refused.contains("refused:   1 file: without bytes"),
        "{refused}"
    );
    assert_layout_of_2025_is_served(&database);
}

/// Imports both tables of [`layout_of_2025`] into `database`; the summary of the first one.
fn import_layout_of_2025(folder: &Path, database: &Database, from: &[&str]) -> String {
    let init = run(config_folder(&database.url, "").path(), &["init-db"]);
    assert!(init.status.success(), "{init:?}");
    let arguments = [&["pools", text(folder)], from].concat();
    let summary = imported(database, &arguments);
    let hint = format!("import pools {}", folder.display());
    assert!(
        summary.contains(&hint) && summary.contains("--table files_old\n"),
        "{summary}"
    );
    // The other table's files, in their rows and in the folder.
    let arguments = [&arguments[..], &["--table", "public.FILES_OLD"]].concat();
    assert_eq!(imported(database, &arguments), "taken:     2 files, 21 B\n");
    summary
}

fn assert_layout_of_2025_is_served(database: &Database) {
    let server = Server::start(database);
    for (id, content) in [
        ("12", b"in its row".to_vec()),
        ("1234567", b"in the folder".to_vec()),
        (&content_id("Zq-"), bytes(5, 300_000)),
        ("13", b"of the other table".to_vec()),
        ("14", b"old".to_vec()),
    ] {
        assert_eq!(server.get(&format!("/file/{id}")).body, content, "{id}");
    }
    let carried = "SELECT count(*) FROM files \
         WHERE uploaded = '2025-11-01 12:34:56.789012Z' AND expiry = 'infinity' AND data IS NOT NULL";
    assert_eq!(database.number(carried), 5);
}

/// An older server's pool of 1,201 files, in a folder and a database.
fn pool_of_1201(folder: &Path) -> Database {
    let older = Database::new();
    older.execute(
        "CREATE TABLE storage_pools (id int, name text);
         INSERT INTO storage_pools VALUES (1, 'main');
         CREATE TABLE files (id text PRIMARY KEY, data bytea, pool int, uploaded timestamptz, \
             expiry timestamptz, deleting boolean NOT NULL DEFAULT false);
         INSERT INTO files SELECT n::text, NULL, 1, now() - interval '1 h', now() + interval '1 day' \
             FROM generate_series(1, 1201) n;
         INSERT INTO files VALUES ('5000', NULL, 1, now(), now() + interval '1 day', true)",
    );
    for number in 1..=1201 {
        let path = format!("main/{:03}/{number}", number % 1000);
        write(&folder.join(path), b"x", DAY);
    }
    older
}

#[test]
fn a_repeated_import_brings_the_later_of_both_times() {
    let (database, pools) = (Database::new(), tempfile::tempdir().expect("a folder"));
    let older = pool_of_1201(pools.path());
    let pools = ["pools", text(pools.path()), "--from", &older.url];
    assert_eq!(
        imported(&database, &pools),
        "taken:     1,201 files, 1.20 kB\n"
    );
    // Meanwhile files are extended and uploaded again, first on the older server, then on this one.
    older.execute(
        "UPDATE files SET expiry = now() + interval '9 days' WHERE id::int BETWEEN 1 AND 700;
         UPDATE files SET uploaded = now() WHERE id = '701'",
    );
    database.execute(
        "UPDATE files SET expiry = now() + interval '19 days' WHERE id IN ('1', '702');
         UPDATE files SET uploaded = now() WHERE id = '703';
         -- Expired here before it was deleted, but not there.
         UPDATE files SET expiry = now() - interval '1 s' WHERE id = '704'",
    );
    let summary = imported(&database, &pools);
    assert_eq!(
        summary,
        "taken:     0 files, 0 B\n\
         refreshed: 701 files: there already, extended or uploaded again since\n\
         skipped:   500 files: there already\n"
    );
    assert!(imported(&database, &pools).ends_with("B\nskipped:   1,201 files: there already\n"));
    for (days, files) in [(18, 2), (8, 701), (0, 1201)] {
        let later =
            format!("SELECT count(*) FROM files WHERE expiry > now() + interval '{days} days'");
        assert_eq!(database.number(&later), files, "{days}");
    }
    let uploaded = "SELECT count(*) FROM files WHERE uploaded > now() - interval '10 min'";
    assert_eq!(database.number(uploaded), 2);
    let server = Server::start(&database);
    assert_eq!(server.get("/file/704").body, b"x");
}

#[test]
fn every_kind_of_import_brings_the_later_times_when_it_is_repeated() {
    let (database, pools) = (Database::new(), tempfile::tempdir().expect("a folder"));
    let older = pool_of_1201(pools.path());
    imported(
        &database,
        &["pools", text(pools.path()), "--from", &older.url],
    );
    older
        .execute("UPDATE files SET data = 'x', expiry = now() + interval '25 days' WHERE id = '7'");
    let summary = imported(&database, &["database", "--from", &older.url]);
    assert!(summary.contains("refreshed: 1 file: "), "{summary}");
    let folder = tempfile::tempdir().expect("a folder");
    for number in ["1200", "1201"] {
        let path = folder.path().join("files/main_files").join(number);
        write(&path, b"x", 2 * DAY);
    }
    let summary = imported(&database, &["directory", text(folder.path())]);
    assert!(summary.contains("refreshed: 2 files: "), "{summary}");
}

#[test]
fn a_file_whose_row_is_there_twice_is_taken_once_with_the_later_times() {
    let (older, database) = (Database::new(), Database::new());
    older.execute(
        "CREATE TABLE files (id varchar(44), data bytea, uploaded timestamptz, expiry timestamptz);
         INSERT INTO files VALUES ('n1', 'twice', '2026-01-01', '2096-01-01'),
             ('n2', 'once', '2026-01-01', '2096-01-01'),
             ('n1', 'twice', '2026-01-02', '2097-01-01')",
    );
    let from = ["database", "--from", &older.url];
    for _ in 0..2 {
        let summary = imported(&database, &from);
        assert!(!summary.contains("refused:"), "{summary}");
        let later = "SELECT count(*) FROM files WHERE id = 'n1' AND uploaded = '2026-01-02' \
             AND expiry = '2097-01-01' AND data = 'twice'";
        assert_eq!(database.number(later), 1, "{summary}");
        assert_eq!(database.number("SELECT count(*) FROM files"), 2);
    }
}

/// Behind a pooler that shares connections between transactions, the server would be the next one
/// to use them, and acknowledge uploads that are not on the disk.
#[test]
fn an_import_leaves_no_setting_to_who_uses_its_connection_next() {
    let (cluster, older) = (Cluster::start(), tempfile::tempdir().expect("a folder"));
    let database = cluster.database();
    let log_all = format!("ALTER DATABASE {} SET log_statement = 'all'", database.name);
    database.execute(&log_all);
    write(&older.path().join("files/main_files/123"), b"a file", DAY);
    for _ in 0..2 {
        imported(&database, &["directory", text(older.path())]);
    }
    let log = std::fs::read_to_string(cluster.folder().join("log")).expect("a log");
    for setting in [
        "synchronous_commit",
        "statement_timeout = 0",
        "lock_timeout = 0",
    ] {
        assert!(log.contains(&format!("SET LOCAL {setting}")), "{setting}");
        assert!(!log.contains(&format!("SET {setting}")), "{setting}");
    }
}

#[test]
fn an_import_that_can_store_nothing_ends_with_the_reason() {
    let (database, older) = (Database::new(), tempfile::tempdir().expect("a folder"));
    drop(Server::start(&database));
    database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE 'not today'; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON files FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    // These are more files than the writers and their queue hold.
    for number in 0..12 {
        let file = older.path().join(format!("files/main_files/{number}"));
        write(&file, &bytes(number, 2_000_000), DAY);
    }
    let output = import(&database, "", &["directory", text(older.path())]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("not today"), "{output:?}");
}
