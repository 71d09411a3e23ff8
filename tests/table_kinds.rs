//! Tables and settings that others have made: they work, or are refused at the start with a
//! sentence.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};

use common::{Database, Server, bytes, config_folder, eventually, run};

/// The table `files` as the server makes it, but for what `NAME` and `SUFFIX` stand for.
const FILES: &str = "CREATE TABLE NAME (id varchar(44) COLLATE \"C\" PRIMARY KEY, data bytea NOT NULL, \
     uploaded timestamptz NOT NULL DEFAULT now(), expiry timestamptz NOT NULL DEFAULT now() + '30 days') SUFFIX";

fn files(name: &str, suffix: &str) -> String {
    FILES.replace("NAME", name).replace("SUFFIX", suffix)
}

/// Sends every kind of request that uses the table.
fn serve(url: &str, what: &str) {
    let server = Server::try_with(url, "files.cleanup_interval = '1 s'")
        .unwrap_or_else(|log| panic!("{what}: {log}"));
    let ids = [1_000, 200_000].map(|size| {
        let file = bytes(size as u64, size);
        // A connection begins with the database's own time limits. A busy machine may take longer
        // than the shortest of them, and a client gets 503 then.
        eventually(what, || server.post("/file", &file).status == 200);
        let id = server.upload(&file);
        assert_eq!(server.upload(&file), id, "{what}");
        assert_eq!(server.get(&format!("/file/{id}")).body, file, "{what}");
        id
    });
    for (method, path) in [("GET", "/info"), ("POST", "/extend")] {
        let path = format!("/file/{}{path}", ids[0]);
        let answer = server.connect().request(method, &path, &[], b"");
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
    }
    let older = server.post("/files", br#"{"file": "YQ=="}"#);
    assert_eq!(older.status, 200, "{what}: {older:?}");
    assert_eq!(server.get("/health").status, 200, "{what}");
    let folder = config_folder(url, "");
    let status = run(folder.path(), &["status"]);
    assert!(status.status.success(), "{what}: {status:?}");
    let mut client = postgres::Client::connect(url, postgres::NoTls).expect("let in");
    let expire = "SET statement_timeout = 0; SET lock_timeout = 0; \
         UPDATE files SET expiry = now() - interval '1 s'";
    client.batch_execute(expire).expect("allowed");
    eventually("expired files are deleted", || {
        let count = client.query_one("SELECT count(*) FROM files", &[]);
        count.expect("a row").get::<_, i64>(0) == 0
    });
    server.assert_no_500();
}

#[test]
fn settings_of_the_database_change_nothing() {
    for setting in [
        "quote_all_identifiers = on",
        "standard_conforming_strings = off",
        "bytea_output = 'escape'",
        "DateStyle = 'SQL, DMY'",
        "IntervalStyle = 'sql_standard'",
        "TimeZone = 'Pacific/Auckland'",
        "client_encoding = 'LATIN1'",
        "statement_timeout = '1ms'",
        "lock_timeout = '1ms'",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
        "row_security = off",
        "array_nulls = off",
        "transform_null_equals = on",
        "extra_float_digits = -15",
        "plan_cache_mode = 'force_custom_plan'",
        "enable_indexscan = off",
        "check_function_bodies = off",
        "xmlbinary = 'hex'",
        "idle_in_transaction_session_timeout = '1s'",
        "synchronous_commit = off",
        "search_path = 'elsewhere'",
    ] {
        let database = Database::new();
        let name = &database.name;
        database.execute(&format!(
            "CREATE SCHEMA elsewhere; ALTER DATABASE {name} SET {setting}"
        ));
        let folder = config_folder(&database.url, "");
        for _ in 0..2 {
            let output = run(folder.path(), &["init-db"]);
            assert!(output.status.success(), "{setting}: {output:?}");
        }
        serve(&database.url, setting);
    }
}

/// Tables that the server can use as they are, with what is unusual about each.
fn unusual() -> Vec<(&'static str, String)> {
    let with = |more: &str| format!("{}; {more}", files("files", ""));
    let partitions = "; CREATE TABLE p0 PARTITION OF files FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
         CREATE TABLE p1 PARTITION OF files FOR VALUES WITH (MODULUS 2, REMAINDER 1)";
    let partitioned = files("files", "PARTITION BY HASH (id)") + partitions;
    let trigger = "CREATE FUNCTION same() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RETURN NEW; END $$; \
         CREATE TRIGGER same BEFORE INSERT OR UPDATE ON files \
         FOR EACH ROW EXECUTE FUNCTION same()";
    let columns = "ALTER TABLE files ADD note text, ADD number serial, \
         ADD twice int NOT NULL GENERATED ALWAYS AS (length(data) * 2) STORED";
    let includes_more = "CREATE TABLE files (id text NOT NULL, data bytea NOT NULL, \
         uploaded timestamptz, expiry timestamptz); \
         CREATE UNIQUE INDEX ON files (id) INCLUDE (expiry)";
    let without_default = "ALTER TABLE files ALTER uploaded DROP DEFAULT";
    let row_level = "ALTER TABLE files ENABLE ROW LEVEL SECURITY";
    vec![
        ("partitioned by hash", partitioned),
        ("no default of uploaded", with(without_default)),
        ("more columns", with(columns)),
        ("a trigger", with(trigger)),
        ("an index that includes more", includes_more.into()),
        (
            "row-level security on a table of the server's own user",
            with(row_level),
        ),
        (
            "another schema",
            format!("CREATE SCHEMA tester; {}", files("tester.files", "")),
        ),
    ]
}

#[test]
fn tables_of_other_kinds_are_served() {
    for (what, sql) in unusual() {
        let database = Database::new();
        database.execute(&sql);
        let folder = config_folder(&database.url, "");
        for _ in 0..2 {
            let output = run(folder.path(), &["init-db"]);
            assert!(output.status.success(), "{what}: {output:?}");
        }
        serve(&database.url, what);
    }
}

/// Returns what the server says when it is started with its own tables after `sql` has changed
/// them.
fn refusal(sql: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let database = Database::new();
    drop(Server::start(&database));
    let role = format!("owner_of_kind_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    database.execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; \
         GRANT ALL ON SCHEMA public TO {role}; {sql}; \
         GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"
    ));
    let url = database.url.replace("user=tester", &format!("user={role}"));
    let log = Server::try_with(&url, "").err();
    let log = log.unwrap_or_else(|| panic!("not refused: {sql}"));
    // `status` and `init-db` say the same.
    for command in ["status", "init-db"] {
        let folder = config_folder(&url, "");
        let output = run(folder.path(), &[command]);
        assert_eq!(output.status.code(), Some(1), "{sql}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(log.contains(said.trim()), "{said} is not {log}");
    }
    log
}

/// What is done to the tables that the server has made, and a part of what it says of them then.
const UNUSABLE: [(&str, &str); 8] = [
    (
        "ALTER TABLE files ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE files DISABLE ROW LEVEL SECURITY",
    ),
    (
        "ALTER TABLE schema_version ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE schema_version DISABLE ROW LEVEL SECURITY",
    ),
    (
        "ALTER TABLE files DROP CONSTRAINT files_pkey",
        "ALTER TABLE files ADD PRIMARY KEY (id)",
    ),
    (
        "ALTER TABLE files DROP CONSTRAINT files_pkey, ADD PRIMARY KEY (id) DEFERRABLE",
        "no unique index on id alone",
    ),
    (
        "ALTER TABLE files DROP CONSTRAINT files_pkey; \
         CREATE UNIQUE INDEX ON files (id) WHERE length(id) = 44",
        "no unique index on id alone",
    ),
    (
        "CREATE RULE kept AS ON INSERT TO files DO ALSO NOTIFY files",
        "DROP RULE",
    ),
    (
        "ALTER TABLE files ADD owner text NOT NULL",
        "a column owner that must be filled",
    ),
    (
        "ALTER TABLE files ALTER id TYPE varchar(20)",
        "ALTER TABLE files ALTER id TYPE varchar(44)",
    ),
];

/// What takes the place of the server's table `files`, which is renamed to `kept`, and a part of
/// what the server says then.
const NO_TABLE: [(&str, &str); 4] = [
    (
        "CREATE TABLE files (id varchar(44), data bytea, uploaded timestamptz, \
         expiry timestamptz) PARTITION BY RANGE (expiry); \
         CREATE TABLE p PARTITION OF files DEFAULT",
        "no unique index on id alone",
    ),
    (
        "CREATE VIEW files AS SELECT * FROM kept",
        "its files is a view",
    ),
    (
        "CREATE MATERIALIZED VIEW files AS SELECT * FROM kept",
        "its files is a materialized view",
    ),
    (
        "CREATE EXTENSION IF NOT EXISTS file_fdw; \
         CREATE SERVER disk FOREIGN DATA WRAPPER file_fdw; \
         CREATE FOREIGN TABLE files (id text, data bytea, uploaded timestamptz, \
         expiry timestamptz) SERVER disk OPTIONS (filename '/dev/null')",
        "its files is a foreign table",
    ),
];

#[test]
fn tables_that_cannot_be_served_are_refused_with_a_sentence() {
    let replaced = NO_TABLE.map(|(sql, sentence)| {
        let sql = format!("ALTER TABLE files RENAME TO kept; {sql}");
        (sql, sentence)
    });
    let changed = UNUSABLE.map(|(sql, sentence)| (sql.to_string(), sentence));
    for (sql, sentence) in changed.into_iter().chain(replaced) {
        let log = refusal(&sql);
        assert!(log.contains(sentence), "{sql}: {log}");
    }
}

#[test]
fn a_table_that_a_crash_would_empty_is_warned_of() {
    let database = Database::new();
    let server = Server::start(&database);
    assert!(!server.log().contains("unlogged"), "{}", server.log());
    database.execute("ALTER TABLE files SET UNLOGGED");
    let server = Server::start(&database);
    eventually("it is warned of", || {
        server.log().contains("ALTER TABLE files SET LOGGED")
    });
}
