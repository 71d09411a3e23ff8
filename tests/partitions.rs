//! A table of files that is partitioned by id, or distributed over several nodes: every command
//! bears it.

mod common;

use std::path::Path;
use std::process::Output;

use common::{Database, Server, bytes, config_folder, eventually, run};

/// The table of files in four partitions. The operator has tuned one of them, and made another one
/// before it was attached, with the storage that a table has by default.
const PARTITIONED: &str = "CREATE TABLE files (id varchar(44) COLLATE \"C\" PRIMARY KEY, \
         data bytea NOT NULL, uploaded timestamptz NOT NULL DEFAULT now(), \
         expiry timestamptz NOT NULL DEFAULT now() + '30 days') PARTITION BY HASH (id); \
     ALTER TABLE files ALTER data SET STORAGE EXTERNAL; \
     CREATE TABLE part_0 PARTITION OF files FOR VALUES WITH (MODULUS 4, REMAINDER 0); \
     CREATE TABLE \"Part 1\" PARTITION OF files FOR VALUES WITH (MODULUS 4, REMAINDER 1); \
     CREATE TABLE part_2 PARTITION OF files FOR VALUES WITH (MODULUS 4, REMAINDER 2) \
         WITH (autovacuum_vacuum_scale_factor = 0.5); \
     CREATE TABLE part_3 (LIKE files INCLUDING DEFAULTS INCLUDING CONSTRAINTS); \
     ALTER TABLE part_3 ALTER data SET STORAGE EXTENDED; \
     ALTER TABLE files ATTACH PARTITION part_3 FOR VALUES WITH (MODULUS 4, REMAINDER 3)";

fn partitioned() -> Database {
    let database = Database::new();
    database.execute(PARTITIONED);
    succeeded(&database, &["init-db"]);
    database
}

fn done(database: &Database, words: &[&str]) -> Output {
    let folder = config_folder(&database.url, "");
    run(folder.path(), words)
}

/// What a command says that must succeed.
fn succeeded(database: &Database, words: &[&str]) -> String {
    let output = done(database, words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What a command says that must fail.
fn refused(database: &Database, words: &[&str]) -> String {
    let output = done(database, words);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// The partitions of which `condition` holds, `toast` being the table of their bytes.
fn parts(database: &Database, condition: &str) -> Vec<String> {
    let rows = database.client().query(
        &format!(
            "SELECT part.relname::text FROM pg_class part \
                 JOIN pg_class toast ON toast.oid = part.reltoastrelid \
                 JOIN pg_attribute ON attrelid = part.oid AND attname = 'data' \
             WHERE part.oid IN (SELECT relid FROM pg_partition_tree('files') WHERE isleaf) \
                 AND {condition} ORDER BY 1"
        ),
        &[],
    );
    rows.expect("rows").iter().map(|row| row.get(0)).collect()
}

const ALL: [&str; 4] = ["Part 1", "part_0", "part_2", "part_3"];

#[test]
fn init_db_tunes_each_partition_once_and_keeps_what_the_operator_has_set() {
    let database = partitioned();
    let ours = "'{autovacuum_vacuum_scale_factor=0.02}'";
    assert_eq!(parts(&database, "attstorage = 'e'"), ALL);
    assert_eq!(parts(&database, &format!("toast.reloptions = {ours}")), ALL);
    let tuned = parts(&database, &format!("part.reloptions = {ours}"));
    assert_eq!(tuned, ["Part 1", "part_0", "part_3"]);
    let indexed = parts(
        &database,
        "part.oid IN (SELECT indrelid FROM pg_index \
         JOIN pg_inherits ON inhrelid = indexrelid WHERE inhparent = 'files_expiry'::regclass)",
    );
    assert_eq!(indexed, ALL);
    let catalog = || -> String {
        let sql = "SELECT md5(string_agg(xmin::text, ',' ORDER BY oid)) FROM pg_class \
             WHERE relnamespace = 'public'::regnamespace";
        let row = database.client().query_one(sql, &[]);
        row.expect("a row").get(0)
    };
    // A server at work is not waited for, because nothing is changed.
    let mut writer = database.client();
    writer
        .batch_execute("BEGIN; LOCK TABLE files IN ROW EXCLUSIVE MODE")
        .expect("allowed");
    let before = catalog();
    succeeded(&database, &["init-db"]);
    assert_eq!(catalog(), before);
    drop(writer);
    // A partition that is added later is tuned by the next init-db.
    database.execute(
        "ALTER TABLE files DETACH PARTITION part_0; DROP TABLE part_0; \
         CREATE TABLE part_0 PARTITION OF files FOR VALUES WITH (MODULUS 4, REMAINDER 0)",
    );
    succeeded(&database, &["init-db"]);
    let tuned = parts(&database, &format!("part.reloptions = {ours}"));
    assert_eq!(tuned, ["Part 1", "part_0", "part_3"]);
}

#[test]
fn who_uses_a_partition_that_init_db_would_change_is_named() {
    let database = partitioned();
    database.execute("ALTER TABLE part_3 ALTER data SET STORAGE EXTENDED");
    let mut other = database.client();
    other
        .batch_execute("BEGIN; LOCK TABLE part_3 IN ACCESS SHARE MODE")
        .expect("allowed");
    let said = refused(&database, &["init-db"]);
    let sentence = "is using its table part_3; repeat this when that has ended";
    assert!(said.contains(sentence), "{said}");
    drop(other);
    succeeded(&database, &["init-db"]);
    assert_eq!(parts(&database, "attstorage = 'e'"), ALL);
}

#[test]
fn the_schema_for_psql_does_the_same_as_init_db() {
    let database = Database::new();
    database.execute(PARTITIONED);
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.pgsql");
    for _ in 0..2 {
        let schema = std::fs::read_to_string(&schema).expect("a file");
        database.execute(&format!("BEGIN; {schema}; COMMIT"));
    }
    assert_eq!(parts(&database, "attstorage = 'e'"), ALL);
}

#[test]
fn every_command_works_on_partitions() {
    let database = partitioned();
    let server = Server::start(&database);
    let files: Vec<_> = (0..24).map(|seed| bytes(seed, 300_000)).collect();
    let ids: Vec<_> = files.iter().map(|file| server.upload(file)).collect();
    let small = server.upload(b"a small file");
    assert_eq!(parts(&database, "pg_relation_size(part.oid) > 0"), ALL);
    for (id, file) in ids.iter().zip(&files) {
        assert_eq!(server.upload(file), *id);
        assert!(server.get(&format!("/file/{id}")).body == *file);
        let extended = server.post(&format!("/file/{id}/extend"), b"");
        assert_eq!(extended.status, 200, "{extended:?}");
    }
    assert!(succeeded(&database, &["status"]).contains("25 files, 7.20 MB"));
    let checked = done(&database, &["check-config", "--system"]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(!said.contains("files is"), "{said}");
    let shown = succeeded(&database, &["files", "show", &small]);
    assert!(shown.contains("12 B"), "{shown}");
    succeeded(&database, &["files", "delete", &small]);
    succeeded(&database, &["files", "block", &ids[0], "--reason", "spam"]);
    let shown = succeeded(&database, &["files", "show", &ids[0]]);
    assert!(shown.contains("spam"), "{shown}");
    let path = format!("/file/{}", ids[0]);
    eventually("it is gone", || server.get(&path).status == 404);
    assert!(succeeded(&database, &["files", "blocked"]).contains(&ids[0]));
    succeeded(&database, &["files", "unblock", &ids[0]]);
    assert_eq!(server.upload(&files[0]), ids[0]);
    database.execute(
        "CREATE TABLE older AS SELECT * FROM files; UPDATE files SET expiry = now(); \
         DELETE FROM files WHERE id IN (SELECT id FROM files ORDER BY id LIMIT 5)",
    );
    let imported = succeeded(&database, &["import", "database", "--table", "older"]);
    assert!(imported.contains("taken:     5 files"), "{imported}");
    let longer = "SELECT count(*) FROM files WHERE expiry > now() + interval '1 day'";
    assert_eq!(database.number(longer), 24);
    // From a partitioned table, too.
    let other = Database::new();
    succeeded(&other, &["init-db"]);
    let imported = succeeded(&other, &["import", "database", "--from", &database.url]);
    assert!(imported.contains("taken:     24 files"), "{imported}");
    server.assert_no_500();
}

/// The statements for a table whose ids aren't sorted as bytes.
fn in_order_of_a_language(sql: &str) -> String {
    sql.replace("COLLATE \"C\"", "COLLATE \"en-x-icu\"")
}

#[test]
fn ids_of_a_partitioned_table_are_not_rebuilt_but_the_reason_is_told() {
    let database = Database::new();
    database.execute(&in_order_of_a_language(PARTITIONED));
    succeeded(&database, &["init-db"]);
    let said = refused(&database, &["init-db", "--rebuild-ids"]);
    assert!(said.contains("files is partitioned"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn what_the_partitions_take_on_the_disk_counts_at_the_start() {
    let database = partitioned();
    database.execute(
        "INSERT INTO files (id, data) SELECT 'old-' || n, decode(repeat(md5(n::text), 1000), 'hex') \
         FROM generate_series(1, 320) n",
    );
    let server = Server::with(&database, "files.max_total_size = 5_000_000");
    for seed in 0..10 {
        server
            .post("/file", &bytes(seed, 500_000))
            .assert_error(507);
    }
}

#[test]
fn a_partition_that_a_crash_would_empty_is_warned_of() {
    let database = partitioned();
    assert!(!succeeded(&database, &["status"]).contains("unlogged"));
    database.execute("ALTER TABLE \"Part 1\" SET UNLOGGED");
    let said = succeeded(&database, &["status"]);
    let sentence = "the table \"Part 1\" is unlogged: PostgreSQL empties it after a crash; \
         ALTER TABLE \"Part 1\" SET LOGGED";
    assert!(said.contains(sentence), "{said}");
}

/// What the extension Citus has for a table that it distributes, as far as the server looks at it.
const DISTRIBUTED: &str = "SET allow_system_table_mods = on; \
     CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass); \
     GRANT SELECT ON pg_catalog.pg_dist_partition TO PUBLIC; \
     CREATE FUNCTION pg_catalog.citus_table_size(regclass) RETURNS bigint LANGUAGE sql \
         AS $$ SELECT 123456789012 $$";

#[test]
fn a_distributed_table_keeps_its_storage_and_is_told_in_the_whole_size() {
    let database = Database::new();
    database.execute(DISTRIBUTED);
    // Where the extension is there and distributes other tables, all is as without it.
    succeeded(&database, &["init-db"]);
    assert!(!succeeded(&database, &["status"]).contains("123 GB"));
    database.execute(
        "INSERT INTO pg_dist_partition VALUES ('files'); \
         ALTER TABLE files ALTER data SET STORAGE EXTENDED, \
             RESET (autovacuum_vacuum_scale_factor, toast.autovacuum_vacuum_scale_factor)",
    );
    for _ in 0..2 {
        succeeded(&database, &["init-db"]);
    }
    let tuned = "SELECT count(*) FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid \
         WHERE pg_class.oid = 'files'::regclass AND attname = 'data' AND attstorage = 'x' \
             AND reloptions = '{autovacuum_vacuum_scale_factor=0.02}'";
    assert_eq!(database.number(tuned), 1);
    let said = succeeded(&database, &["status"]);
    assert!(said.contains(", 123 GB, schema version"), "{said}");
    database.execute("ALTER TABLE files ALTER id TYPE varchar(44) COLLATE \"en-x-icu\"");
    let said = refused(&database, &["init-db", "--rebuild-ids"]);
    assert!(said.contains("partitioned or distributed"), "{said}");
    let server = Server::start(&database);
    server.upload(&bytes(1, 300_000));
}
