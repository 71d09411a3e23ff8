//! The tables of the database: made, upgraded from every older layout, or refused.

mod common;

use std::process::Command;

use common::{Database, Server, bytes, config_folder, run};

/// The files of the Python server, in every layout.
const FILES: &str =
    "CREATE TABLE files (id varchar(44) PRIMARY KEY CHECK (id ~ '^[a-zA-Z0-9_-]+$'), \
         data bytea NOT NULL, uploaded timestamptz NOT NULL DEFAULT now(), \
         expiry timestamptz NOT NULL DEFAULT now() + '30 days');
     ALTER TABLE files ALTER data SET STORAGE EXTERNAL;
     CREATE INDEX files_expiry ON files (expiry);
     INSERT INTO files (id, data) VALUES ('1234567890', 'an old one'), ('forever', 'x');
     UPDATE files SET expiry = 'infinity' WHERE id = 'forever';
     INSERT INTO files (id, data) SELECT n::text, decode(md5(n::text), 'hex') \
         FROM generate_series(1, 5000) n;";

/// What the layout of 2021 has beside `files`.
const LAYOUT_2021: &str = "CREATE TABLE release_versions (project text PRIMARY KEY, \
         version text NOT NULL, updated timestamptz NOT NULL DEFAULT now());
     INSERT INTO release_versions VALUES ('session-foundation/session-ios', '1.11.0');";

/// What the layout of 2024 has beside `files`.
const LAYOUT_2024: &str = "CREATE TABLE projects (id serial PRIMARY KEY, name text NOT NULL UNIQUE, \
         updated timestamptz);
     CREATE TABLE releases (id serial PRIMARY KEY, project integer NOT NULL REFERENCES projects, \
         prerelease boolean NOT NULL, version_code integer[] NOT NULL, url text, name text, notes text);
     CREATE TABLE release_assets (release integer REFERENCES releases, name text, url text);
     CREATE VIEW versions AS SELECT projects.name AS project, prerelease, \
         array_to_string(version_code, '.') AS version FROM releases \
         JOIN projects ON projects.id = project;
     CREATE VIEW release_versions AS SELECT * FROM versions WHERE NOT prerelease;
     CREATE VIEW prerelease_versions AS SELECT * FROM versions WHERE prerelease;
     CREATE TABLE account_version_checks (blinded_id text, platform text, \
         \"timestamp\" timestamptz NOT NULL DEFAULT now());
     INSERT INTO projects (name) VALUES ('session-foundation/session-ios');
     INSERT INTO releases (project, prerelease, version_code) VALUES (1, false, '{2,9,0}');
     INSERT INTO account_version_checks VALUES ('07aa', 'ios', now() - interval '5 days'), \
         ('07aa', 'ios', now() - interval '2 days'), ('07bb', 'android', now() - interval '1 day'), \
         ('07cc', 'ios', now() - interval '100 days');
     CREATE TABLE session_token_stats (maximum_supply bigint, sent_per_node int, \
         staking_reward_pool int);
     CREATE TABLE session_token_history (current_value numeric(20,6), circulating_supply int, \
         total_nodes int, updated timestamptz);
     INSERT INTO session_token_stats VALUES (240000000, 25000, 40000000);
     INSERT INTO session_token_history VALUES (0.123456, 80000000, 1500, now());";

/// What the layout of 2025, on the way to storage pools, has beside `files`: newer files lie in a
/// folder, and their rows have no bytes.
const LAYOUT_2025: &str = "ALTER TABLE files ALTER data DROP NOT NULL;
     CREATE TABLE projects (id bigserial PRIMARY KEY, name varchar(50) NOT NULL, \
         updated timestamptz NOT NULL DEFAULT now());
     CREATE TABLE releases (id bigserial PRIMARY KEY, project bigint NOT NULL REFERENCES projects, \
         prerelease boolean NOT NULL DEFAULT false, url varchar(255) NOT NULL, name varchar(255), \
         notes text, vmajor smallint NOT NULL, vminor smallint NOT NULL, vpatch smallint NOT NULL, \
         valpha smallint);
     CREATE VIEW versions AS SELECT name, vmajor FROM releases;
     CREATE TABLE account_version_checks (blinded_id varchar(66) NOT NULL, \
         platform varchar(25) NOT NULL, channel varchar(25) NOT NULL DEFAULT 'stable', \
         \"timestamp\" timestamptz NOT NULL DEFAULT now());
     INSERT INTO account_version_checks VALUES ('07aa', 'ios', 'alpha'), ('07aa', 'ios', 'stable'), \
         ('07aa', 'ios', 'prerelease'), ('07bb', 'ios', ''), ('07cc', 'ios', 'latest');";

fn init_db(database: &Database) -> String {
    let folder = config_folder(&database.url, "");
    let output = run(folder.path(), &["init-db"]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A summary of the table `files` that must be the same before and after a takeover.
fn fingerprint_of_files(database: &Database) -> String {
    let sql = "SELECT count(*) || md5(string_agg(files::text || xmin, ',' ORDER BY id)) FROM files";
    let row = database.client().query_one(sql, &[]).expect("a row");
    row.get(0)
}

/// Takes a layout over twice, and serves its files.
fn take_over(layout: &str) -> (Database, Server, String) {
    let database = Database::new();
    database.execute(FILES);
    database.execute(layout);
    let before = fingerprint_of_files(&database);
    let log = Server::try_with(&database.url, "").err().expect("refused");
    assert!(
        log.contains("an older server's") && log.contains("run session-file-server init-db"),
        "{log}"
    );
    let said = init_db(&database);
    assert_eq!(init_db(&database), said, "safe to repeat");
    assert_eq!(fingerprint_of_files(&database), before, "untouched");
    let server = Server::start(&database);
    assert_eq!(server.get("/file/1234567890").body, b"an old one");
    assert_eq!(
        server.get("/files/1234567890").json()["result"],
        "YW4gb2xkIG9uZQ=="
    );
    let forever = server.get("/file/forever");
    assert_eq!(
        forever.header("Expires"),
        Some("Fri, 31 Dec 9999 23:59:59 GMT")
    );
    server.upload(b"a new one");
    (database, server, said)
}

#[test]
fn a_database_with_nothing_but_files_is_taken_over() {
    let (_, _, said) = take_over("");
    assert!(!said.contains("DROP"), "{said}");
}

#[test]
fn the_layout_of_2021_is_taken_over_and_kept() {
    let (database, _, said) = take_over(LAYOUT_2021);
    assert!(
        said.contains("\n  DROP TABLE release_versions;\n"),
        "{said}"
    );
    assert_eq!(database.number("SELECT count(*) FROM release_versions"), 1);
}

#[test]
fn the_layout_of_2024_is_taken_over_with_the_tokens_numbers() {
    let (database, server, said) = take_over(LAYOUT_2024);
    let info = &server.get("/token_info").json()["info"];
    assert_eq!(info["maximum_supply"], 240_000_000);
    assert_eq!(info["history"][0]["current_value"], "0.123456");
    assert_eq!(info["history"][0]["total_nodes"], 1500);
    // The view that the operator is told to remove can be removed, and the server goes on.
    let statement = said.lines().find(|line| line.contains("DROP VIEW"));
    database.execute(statement.unwrap_or_else(|| panic!("no statement in {said}")));
    assert_eq!(server.get("/file/1234567890").status, 200);
    assert!(!init_db(&database).contains("DROP"));
}

#[test]
fn version_checks_of_the_last_90_days_are_copied_once_for_each_signer() {
    let (database, ..) = take_over(LAYOUT_2024);
    assert_eq!(database.number("SELECT count(*) FROM version_checks"), 2);
    let latest = "SELECT count(*) FROM version_checks WHERE blinded_id = '07aa' \
         AND platform = 'ios' AND channel = 'stable' \
         AND checked BETWEEN now() - interval '49 hours' AND now() - interval '47 hours'";
    assert_eq!(database.number(latest), 1);
}

#[test]
fn version_checks_that_were_kept_as_seconds_are_copied_too() {
    let database = Database::new();
    database.execute(FILES);
    database.execute(
        "CREATE TABLE account_version_checks (blinded_id bytea, platform varchar, \"timestamp\" float8);
         INSERT INTO account_version_checks VALUES ('\\x07ab', 'ios', extract(epoch FROM now()) - 60)",
    );
    init_db(&database);
    let copied = "SELECT count(*) FROM version_checks WHERE blinded_id = '07ab' \
         AND checked BETWEEN now() - interval '3 minutes' AND now()";
    assert_eq!(database.number(copied), 1);
}

#[test]
fn version_checks_keep_their_channel_where_the_older_table_has_one() {
    let without = "blinded_id varchar(66), platform varchar(25), \"timestamp\" timestamptz";
    let channel = format!("{without}, channel varchar(25) NOT NULL DEFAULT 'stable'");
    let release_channel = format!("{without}, release_channel varchar(10) DEFAULT 'latest'");
    for (columns, sent, kept) in [
        (without, "", "stable"),
        (&channel, "alpha", "alpha"),
        (&channel, "prerelease", "prerelease"),
        (&channel, "stable", "stable"),
        (&channel, "", "stable"),
        (&channel, "nonsense", "stable"),
        (&release_channel, "alpha", "alpha"),
        (&release_channel, "latest", "stable"),
    ] {
        let database = Database::new();
        database.execute(FILES);
        let value = match columns == without {
            true => String::new(),
            false => format!(", '{sent}'"),
        };
        database.execute(&format!(
            "CREATE TABLE account_version_checks ({columns});
             INSERT INTO account_version_checks VALUES ('07ab', 'ios', now(){value})"
        ));
        init_db(&database);
        let sql = "SELECT string_agg(channel, ' ') FROM version_checks";
        let copied = database.client().query_one(sql, &[]).expect("a row");
        let copied: String = copied.get(0);
        assert_eq!(copied, kept, "{columns} {sent}");
    }
}

/// The id that the server gives to a file with these bytes.
fn content_id(data: &[u8]) -> String {
    session_file_server::protocol::file_id::FileId::of_content(data)
        .as_str()
        .to_string()
}

/// Takes over the layout of 2025 with three files that aren't expired and have no bytes. Returns
/// the bytes and the ids of two of them, which a test can upload.
fn take_over_2025() -> (Database, Server, String, [(Vec<u8>, String); 2]) {
    let files = [bytes(1, 5000), bytes(2, 200_000)].map(|data| {
        let id = content_id(&data);
        (data, id)
    });
    let layout = format!(
        "{LAYOUT_2025} INSERT INTO files (id, data, expiry) VALUES ('n77', NULL, DEFAULT), \
             ('{}', NULL, 'infinity'), ('{}', NULL, 'infinity'), ('n78', NULL, now())",
        files[0].1, files[1].1
    );
    let (database, server, said) = take_over(&layout);
    (database, server, said, files)
}

#[test]
fn the_layout_of_2025_is_recognised_and_its_files_without_bytes_are_absent() {
    let (_database, server, said, [small, large]) = take_over_2025();
    assert!(
        said.contains("3 files of the older server can't be served yet")
            && said.contains("\n  session-file-server import pools FOLDER\n"),
        "{said}"
    );
    for id in ["n77", "n78", &small.1, &large.1] {
        for path in [
            format!("/file/{id}"),
            format!("/file/{id}/info"),
            format!("/files/{id}"),
        ] {
            server.get(&path).assert_error(404);
            let head = server.connect().request("HEAD", &path, &[], b"");
            assert_eq!(head.status, 404, "{path}");
        }
        let extended = server.post(&format!("/file/{id}/extend"), b"");
        extended.assert_error(404);
    }
}

#[test]
fn files_without_bytes_are_there_when_they_are_uploaded_again() {
    let (database, server, _, files) = take_over_2025();
    let statements = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    for (data, id) in &files {
        for _ in 0..2 {
            assert_eq!(&server.upload(data), id);
        }
        let answer = server.get(&format!("/file/{id}"));
        assert_eq!(&answer.body, data);
        // The expiry that the older server has promised is kept.
        let expires = answer.header("Expires");
        assert_eq!(expires, Some("Fri, 31 Dec 9999 23:59:59 GMT"));
        let extended = server.post(&format!("/file/{id}/extend"), b"");
        assert_eq!(extended.status, 200, "{extended:?}");
    }
    assert!(
        database.number(statements) < 10_000,
        "nothing goes round and round"
    );
    let shown = run(server.folder.path(), &["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    // The files of every layout, the one that `take_over` uploads, and these two.
    assert!(shown.starts_with("files        5,005 files, "), "{shown}");
    assert!(init_db(&database).contains("1 file of the older server can't be served yet"));
}

/// Lets deleting files of that database succeed without any effect.
fn keep_everything(database: &Database) {
    database.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER keep BEFORE DELETE ON files FOR EACH ROW EXECUTE FUNCTION keep()",
    );
}

#[test]
fn below_a_bound_a_row_without_bytes_gets_them_from_an_upload_too() {
    let database = Database::new();
    database.execute(FILES);
    database.execute(LAYOUT_2025);
    init_db(&database);
    let server = Server::with(&database, "files.max_total_size = 1_000_000");
    for (seed, size) in [(1, 1_000), (2, 100_000)] {
        let data = bytes(seed, size);
        let id = content_id(&data);
        database.execute(&format!("INSERT INTO files (id) VALUES ('{id}')"));
        assert_eq!(server.upload(&data), id);
        assert_eq!(server.get(&format!("/file/{id}")).body, data);
    }
}

#[test]
fn an_upload_that_never_finds_room_ends() {
    let database = Database::new();
    database.execute(FILES);
    database.execute(LAYOUT_2025);
    init_db(&database);
    keep_everything(&database);
    let data = bytes(3, 100_000);
    database.execute(&format!(
        "INSERT INTO files (id) VALUES ('{}')",
        content_id(&data)
    ));
    let server = Server::start(&database);
    assert_eq!(server.post("/file", &data).status, 503);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn expired_files_that_cannot_be_deleted_hold_up_nothing_else() {
    let database = Database::new();
    init_db(&database);
    keep_everything(&database);
    database.execute(
        "INSERT INTO files (id, data, expiry) \
             SELECT n::text, 'x', now() FROM generate_series(1, 3000) n",
    );
    let server = Server::with(&database, "files.cleanup_interval = '1 s'");
    common::eventually("the timer thread goes on", || {
        database.number("SELECT count(*) FROM servers") == 1
    });
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn further_tables_of_files_are_named() {
    let database = Database::new();
    database.execute(FILES);
    database.execute(
        "CREATE TABLE files_old (LIKE files INCLUDING ALL);
         INSERT INTO files_old (id, data) VALUES ('n90', 'kept');
         CREATE SCHEMA attic; CREATE TABLE attic.\"Old Files\" (LIKE files);
         INSERT INTO attic.\"Old Files\" (id, data, uploaded, expiry) VALUES ('n91', 'x', now(), 'infinity');
         CREATE TABLE empty (LIKE files INCLUDING ALL);
         CREATE TABLE expired (LIKE files INCLUDING ALL);
         INSERT INTO expired (id, data, expiry) VALUES ('n92', 'x', now());
         CREATE TABLE same (LIKE files INCLUDING ALL); INSERT INTO same SELECT * FROM files;
         CREATE TABLE others (id varchar, data text, uploaded timestamptz, expiry timestamptz);
         INSERT INTO others VALUES ('n93', 'x', now(), 'infinity')",
    );
    let said = init_db(&database);
    for line in [
        "\n  session-file-server import database --table files_old\n",
        "\n  session-file-server import database --table 'attic.\"Old Files\"'\n",
    ] {
        assert!(said.contains(line), "{line} is not in {said}");
    }
    assert_eq!(said.matches("--table").count(), 2, "{said}");
    let folder = config_folder(&database.url, "");
    for (table, taken) in [
        ("files_old", "1 file, 4 B"),
        ("attic.\"Old Files\"", "1 file, 1 B"),
    ] {
        let output = run(folder.path(), &["import", "database", "--table", table]);
        let summary = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        assert!(
            summary.starts_with(&format!("taken:     {taken}\n")),
            "{summary}"
        );
    }
    let server = Server::start(&database);
    assert_eq!(server.get("/file/n90").body, b"kept");
    assert_eq!(server.get("/file/n91").body, b"x");
    assert!(!init_db(&database).contains("--table"));
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let database = Database::new();
    init_db(&database);
    database.execute("UPDATE schema_version SET version = 99");
    let log = Server::try_with(&database.url, "").err().expect("refused");
    assert!(
        log.contains("version 99") && !log.contains("init-db"),
        "{log}"
    );
    let folder = config_folder(&database.url, "");
    let output = run(folder.path(), &["init-db"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        database.number("SELECT version::int8 FROM schema_version"),
        99
    );
}

#[test]
fn a_schema_without_a_version_is_upgraded_by_init_db() {
    let database = Database::new();
    init_db(&database);
    database.execute("DROP TABLE schema_version");
    let log = Server::try_with(&database.url, "").err().expect("refused");
    assert!(log.contains("init-db"), "{log}");
    init_db(&database);
    assert_eq!(
        database.number("SELECT version::int8 FROM schema_version"),
        3
    );
    Server::start(&database);
}

#[test]
fn tables_of_another_user_are_used_once_that_is_granted() {
    let database = Database::new();
    let (owner, user) = (
        format!("owner_{}", database.name),
        format!("newcomer_{}", database.name),
    );
    database.execute(&format!(
        "CREATE ROLE {owner} LOGIN; CREATE ROLE {user} LOGIN; \
         ALTER DATABASE {} OWNER TO {owner}",
        database.name
    ));
    let url = |user: &str| database.url.replace("user=tester", &format!("user={user}"));
    let mut older = postgres::Client::connect(&url(&owner), postgres::NoTls).expect("let in");
    older.batch_execute(FILES).expect("the owner's tables");
    older
        .batch_execute(LAYOUT_2024)
        .expect("the owner's tables");
    let folder = config_folder(&url(&user), "");
    let output = run(folder.path(), &["init-db"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(
        said.contains(&format!("GRANT \"{owner}\" TO \"{user}\"")),
        "{said}"
    );
    database.execute(&format!("GRANT {owner} TO {user}"));
    assert!(run(folder.path(), &["init-db"]).status.success());
    let server = Server::try_with(&url(&user), "").expect("started");
    assert_eq!(server.get("/file/1234567890").status, 200);
    // The operator can go back to the older server.
    let sql = "UPDATE files SET expiry = now() WHERE id = '1234567890'";
    assert_eq!(older.execute(sql, &[]).expect("still its own"), 1);
}

#[test]
fn the_database_of_storage_pools_is_refused_and_import_is_named() {
    let database = Database::new();
    database.execute(
        "CREATE TABLE storage_pools (id serial PRIMARY KEY, name text);
         CREATE TABLE files (id varchar(44) PRIMARY KEY, pool integer REFERENCES storage_pools, \
             uploaded timestamptz, expiry timestamptz)",
    );
    let log = Server::try_with(&database.url, "").err().expect("refused");
    assert!(log.contains("session-file-server import pools"), "{log}");
}

/// A database's schema, as pg_dump writes it.
fn dump_schema(database: &Database) -> String {
    let dump = |options: &[&str]| {
        let output = Command::new(common::tool("pg_dump"))
            .args(["--schema-only", "--no-owner"])
            .args(options)
            .arg(&database.url)
            .output();
        output.expect("pg_dump")
    };
    let output = dump(&["--restrict-key=none"]);
    // Older ones don't know that option.
    let output = if output.status.success() {
        output
    } else {
        dump(&[])
    };
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn init_db_and_psql_load_the_same_schema_and_repeat() {
    let (by_us, by_psql) = (Database::new(), Database::new());
    for _ in 0..2 {
        init_db(&by_us);
        let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/schema.pgsql");
        let psql = Command::new("psql")
            .args(["-q", "-1", "-v", "ON_ERROR_STOP=1"])
            .args(["-f", schema, &by_psql.url])
            .output()
            .expect("psql");
        assert!(psql.status.success(), "{psql:?}");
    }
    let schema = dump_schema(&by_us);
    assert_eq!(schema, dump_schema(&by_psql));
    for line in [
        "id character varying(44)",
        "COLLATE pg_catalog.\"C\"",
        "data bytea NOT NULL",
        "uploaded timestamp with time zone DEFAULT now() NOT NULL",
        "expiry timestamp with time zone DEFAULT (now() + '30 days'::interval) NOT NULL",
        "~ '^[a-zA-Z0-9_-]+$'::text",
        "ALTER COLUMN data SET STORAGE EXTERNAL",
        "USING btree (expiry)",
    ] {
        assert!(schema.contains(line), "{line} is not in {schema}");
    }
}

#[test]
fn another_programs_table_is_refused_and_left_alone() {
    let database = Database::new();
    database.execute("CREATE TABLE files (id bigint PRIMARY KEY, name text)");
    let log = Server::try_with(&database.url, "").err().expect("refused");
    assert!(
        log.contains("no column id of type character varying"),
        "{log}"
    );
    assert_eq!(database.number("SELECT count(*) FROM files"), 0);
}
