//! The server behind the real PgBouncer, in each of its modes. The tests are skipped on a machine
//! without one.

mod common;

use std::collections::BTreeSet;
use std::process::Output;
use std::time::{Duration, Instant};

use common::{Cluster, Database, PgBouncer, Server, bytes, config_folder, eventually, run};
use postgres::{Client, NoTls};

/// What the server says of a pooler that it can't work with.
const MIXES_UP: &str = "it mixes up the prepared statements of its clients; set \
                        max_prepared_statements = 200 in PgBouncer 1.21 or newer, or pool_mode = session";
const SESSION: &[&str] = &["pool_mode = session", "default_pool_size = 20"];
const TRANSACTION: &[&str] = &[
    "pool_mode = transaction",
    "default_pool_size = 3",
    "max_prepared_statements = 200",
];
const FORGETTING: &[&str] = &["pool_mode = transaction", "default_pool_size = 3"];

/// A pooler that keeps no statements, in words that its version knows.
fn forgetting(keeps: bool, further: &[&'static str]) -> Vec<&'static str> {
    let explicit = keeps.then_some("max_prepared_statements = 0");
    let all = FORGETTING.iter().chain(further).copied();
    all.chain(explicit).collect()
}

/// A database with the server's tables.
fn prepared(cluster: &Cluster) -> Database {
    let database = cluster.database();
    drop(Server::start(&database));
    database
}

/// Runs a command of the program on the database behind the pooler.
fn command(pooler: &PgBouncer, database: &Database, arguments: &[&str]) -> Output {
    run(
        config_folder(&pooler.url(&database.name), "").path(),
        arguments,
    )
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// All kinds of requests by several clients at two servers.
fn serve_mixed_load(pooler: &PgBouncer, database: &Database) -> Vec<Server> {
    let start = || Server::try_with(&pooler.url(&database.name), "workers = 4");
    let servers: Vec<Server> = (0..2).map(|_| start().expect("it listens")).collect();
    std::thread::scope(|scope| {
        for client in 0..6u64 {
            let servers = &servers;
            scope.spawn(move || {
                for round in 0..15 {
                    let server = &servers[round as usize % 2];
                    for size in [1_000, 200_000] {
                        let file = bytes(client << 32 | round, size);
                        let id = server.upload(&file);
                        let other = &servers[1 - round as usize % 2];
                        assert_eq!(other.get(&format!("/file/{id}")).body, file);
                        assert_eq!(other.get(&format!("/file/{id}/info")).status, 200);
                        let extended = server.post(&format!("/file/{id}/extend"), b"");
                        assert_eq!(extended.status, 200, "{extended:?}");
                    }
                    let older = server.post("/files", br#"{"file": "YQ=="}"#);
                    assert_eq!(older.status, 200, "{older:?}");
                }
            });
        }
    });
    for server in &servers {
        server.assert_no_500();
    }
    servers
}

/// The settings of a session, except for what identifies it, and for those of modules that it may
/// have loaded.
fn settings(url: &str) -> BTreeSet<(String, String)> {
    let mut client = Client::connect(url, NoTls).expect("it accepts connections");
    let rows = client.simple_query(
        "SELECT name, setting FROM pg_settings \
         WHERE name <> 'application_name' AND name NOT LIKE '%.%'",
    );
    let of = |message: &postgres::SimpleQueryMessage| match message {
        postgres::SimpleQueryMessage::Row(row) => Some((
            row.get(0).expect("a name").to_string(),
            row.get(1).unwrap_or_default().to_string(),
        )),
        _ => None,
    };
    rows.expect("settings").iter().filter_map(of).collect()
}

/// Fails if any of the pooler's sessions has other settings than a new one.
fn assert_settings_of_all(pooler: &PgBouncer, database: &Database, sessions: usize) {
    let fresh = settings(&database.url);
    let url = pooler.url(&database.name);
    // Each holds a session, so that the next one gets another.
    let mut holders = Vec::new();
    for _ in 0..sessions {
        let found = settings(&url);
        let different: Vec<_> = found.symmetric_difference(&fresh).collect();
        assert!(different.is_empty(), "{different:?}");
        let mut holder = Client::connect(&url, NoTls).expect("it accepts connections");
        holder.batch_execute("BEGIN; SELECT 1").expect("held");
        holders.push(holder);
    }
}

#[test]
fn behind_a_session_pooler_everything_works_and_no_setting_stays() {
    let Some(_) = PgBouncer::version() else {
        return;
    };
    let cluster = Cluster::start();
    let database = prepared(&cluster);
    let pooler = PgBouncer::start(&database, SESSION);
    let servers = serve_mixed_load(&pooler, &database);
    assert!(servers[0].log().contains("listening"));
    assert!(!servers[0].log().contains("pooler"), "{}", servers[0].log());
    drop(servers);
    let status = command(&pooler, &database, &["status"]);
    assert!(status.status.success(), "{status:?}");
    assert_settings_of_all(&pooler, &database, 12);
}

#[test]
fn behind_a_transaction_pooler_that_keeps_statements_everything_works_and_no_setting_stays() {
    if PgBouncer::keeps_statements() != Some(true) {
        return;
    }
    let cluster = Cluster::start();
    let database = prepared(&cluster);
    let pooler = PgBouncer::start(&database, TRANSACTION);
    let servers = serve_mixed_load(&pooler, &database);
    let log = servers[0].log();
    assert!(
        log.contains("connect_query='SET quote_all_identifiers"),
        "{log}"
    );
    assert_settings_of_all(&pooler, &database, 3);
    drop(servers);
    let older = tempfile::tempdir().expect("a folder");
    let files = older.path().join("files/main_files");
    std::fs::create_dir_all(&files).expect("writable");
    for number in 0..40 {
        std::fs::write(files.join(number.to_string()), bytes(number, 50_000)).expect("writable");
    }
    let folder = older.path().to_str().expect("UTF-8");
    let imported = command(&pooler, &database, &["import", "directory", folder]);
    assert!(imported.status.success(), "{imported:?}");
    for other in [&["status"][..], &["init-db"]] {
        let output = command(&pooler, &database, other);
        assert!(output.status.success(), "{output:?}");
    }
    assert_settings_of_all(&pooler, &database, 3);
}

#[test]
fn the_settings_that_the_server_asks_for_are_those_that_it_misses() {
    if PgBouncer::keeps_statements() != Some(true) {
        return;
    }
    let cluster = Cluster::start();
    let database = prepared(&cluster);
    let pooler = PgBouncer::start(&database, TRANSACTION);
    let url = pooler.url(&database.name);
    let log = Server::try_with(&url, "").expect("it listens").log();
    let query = log.split_once("connect_query=").expect("the advice").1;
    let query = format!("connect_query={}", query.lines().next().expect("a line"));
    drop(pooler);
    let pooler = PgBouncer::start(&database, &[TRANSACTION, &[&query]].concat());
    let server = Server::try_with(&pooler.url(&database.name), "").expect("it listens");
    server.upload(b"a file");
    assert!(!server.log().contains("pooler"), "{}", server.log());
}

#[test]
fn a_transaction_pooler_that_keeps_no_statements_is_refused_at_the_start() {
    let Some(keeps) = PgBouncer::keeps_statements() else {
        return;
    };
    let cluster = Cluster::start();
    let database = prepared(&cluster);
    for further in [
        &["min_pool_size = 0"][..],
        &["default_pool_size = 1"],
        &["server_round_robin = 1", "min_pool_size = 3"],
    ] {
        let pooler = PgBouncer::start(&database, &forgetting(keeps, further));
        // The pooler has all of its sessions.
        settings(&pooler.url(&database.name));
        let began = Instant::now();
        let refused = Server::try_with(&pooler.url(&database.name), "");
        let log = refused.err().expect("refused");
        assert!(log.contains(MIXES_UP), "{further:?}: {log}");
        assert!(began.elapsed() < Duration::from_secs(30), "{further:?}");
        for arguments in [&["status"][..], &["init-db"], &["files", "blocked"]] {
            let output = command(&pooler, &database, arguments);
            assert!(!output.status.success(), "{further:?} {arguments:?}");
            let error = text(&output.stderr);
            assert!(
                error.contains(MIXES_UP),
                "{further:?} {arguments:?}: {error}"
            );
        }
        let output = command(&pooler, &database, &["check-config", "--system"]);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains(MIXES_UP), "{further:?}: {said}");
    }
}

/// While other programs use the pooler, which of its sessions is free is a matter of chance.
#[test]
fn it_is_refused_as_well_while_others_use_the_pooler() {
    let Some(keeps) = PgBouncer::keeps_statements() else {
        return;
    };
    let cluster = Cluster::start();
    let database = prepared(&cluster);
    let pooler = PgBouncer::start(&database, &forgetting(keeps, &[]));
    let url = pooler.url(&database.name);
    common::under_load(
        3,
        |_| {
            let mut client = Client::connect(&url, NoTls).expect("it accepts connections");
            move |_| client.batch_execute("SELECT 1").expect("an answer")
        },
        |wait| {
            wait(100);
            for _ in 0..10 {
                let output = command(&pooler, &database, &["files", "blocked"]);
                let error = text(&output.stderr);
                assert!(error.contains(MIXES_UP), "{error}");
            }
        },
    );
}

#[test]
fn a_pooler_without_transactions_is_refused() {
    let Some(_) = PgBouncer::version() else {
        return;
    };
    let cluster = Cluster::start();
    let database = prepared(&cluster);
    let pooler = PgBouncer::start(&database, &["pool_mode = statement"]);
    let refused = Server::try_with(&pooler.url(&database.name), "");
    let log = refused.map_or_else(|log| log, |server| panic!("{}", server.log()));
    assert!(
        log.contains("it ends connections that begin a transaction"),
        "{log}"
    );
}

/// PgBouncer can't give these settings to a session.
#[test]
fn options_in_the_url_are_refused_unless_the_pooler_drops_them() {
    let Some(_) = PgBouncer::version() else {
        return;
    };
    let cluster = Cluster::start();
    let database = prepared(&cluster);
    let pooler = PgBouncer::start(&database, SESSION);
    let url = |pooler: &PgBouncer| pooler.url(&database.name) + " options='-c search_path=public'";
    let refused = Server::try_with(&url(&pooler), "");
    let log = refused.map_or_else(|log| log, |server| panic!("{}", server.log()));
    assert!(log.contains("take options out of database.url"), "{log}");
    drop(pooler);
    let drops = ["ignore_startup_parameters = options"];
    let pooler = PgBouncer::start(&database, &[SESSION, &drops].concat());
    let server = Server::try_with(&url(&pooler), "").expect("it listens");
    server.upload(b"a file");
}

#[test]
fn a_session_pooler_without_a_free_session_costs_a_command_some_seconds() {
    let Some(_) = PgBouncer::version() else {
        return;
    };
    let cluster = Cluster::start();
    let database = prepared(&cluster);
    let pooler = PgBouncer::start(&database, &["pool_mode = session", "default_pool_size = 1"]);
    let began = Instant::now();
    let output = command(&pooler, &database, &["files", "blocked"]);
    assert!(output.status.success(), "{output:?}");
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn ids_are_not_rebuilt_through_a_pooler_that_shares_sessions() {
    if PgBouncer::keeps_statements() != Some(true) {
        return;
    }
    let cluster = Cluster::start();
    let sorted =
        "TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'";
    let database = cluster.database_with(sorted);
    drop(Server::start(&database));
    database.execute("ALTER TABLE files ALTER id TYPE varchar(44) COLLATE \"default\"");
    let pooler = PgBouncer::start(&database, TRANSACTION);
    let rebuild = ["init-db", "--rebuild-ids"];
    let output = command(&pooler, &database, &rebuild);
    let error = text(&output.stderr);
    assert!(error.contains("this needs a session of its own"), "{error}");
    let direct = run(config_folder(&database.url, "").path(), &rebuild);
    assert!(direct.status.success(), "{direct:?}");
}

/// The deadline is the server's own: behind such a pooler no time-outs are set for the session.
#[test]
fn an_upload_that_waits_for_a_lock_is_cancelled_through_the_pooler() {
    if PgBouncer::keeps_statements() != Some(true) {
        return;
    }
    let cluster = Cluster::start();
    let database = prepared(&cluster);
    let pooler = PgBouncer::start(&database, TRANSACTION);
    let server = Server::try_with(&pooler.url(&database.name), "workers = 2").expect("it listens");
    let lock = database.lock_files();
    assert_eq!(server.post("/file", b"a file").status, 503);
    let uploads = "SELECT count(*) FROM pg_stat_activity \
                   WHERE wait_event_type = 'Lock' AND query ~ 'INSERT INTO files'";
    assert_eq!(database.number(uploads), 0);
    lock.release();
    eventually("uploads are taken again", || {
        server.post("/file", b"a file").status == 200
    });
}

/// Another client of the pooler may have left its settings in a session.
#[test]
fn uploads_wait_for_the_disk_whatever_others_have_set() {
    if PgBouncer::keeps_statements() != Some(true) {
        return;
    }
    let cluster = Cluster::start();
    let database = prepared(&cluster);
    database.execute(
        "CREATE TABLE seen (setting text); \
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN INSERT INTO seen SELECT current_setting('synchronous_commit'); RETURN NEW; \
                END $$; \
         CREATE TRIGGER see AFTER INSERT OR UPDATE ON files FOR EACH ROW EXECUTE FUNCTION see()",
    );
    let alone = ["default_pool_size = 1"];
    let pooler = PgBouncer::start(&database, &[TRANSACTION, &alone].concat());
    let url = pooler.url(&database.name);
    let mut other = Client::connect(&url, NoTls).expect("it accepts connections");
    other
        .batch_execute("SET synchronous_commit = off")
        .expect("set");
    let server = Server::try_with(&url, "workers = 2").expect("it listens");
    for size in [1_000, 200_000] {
        let id = server.upload(&bytes(1, size));
        server.upload(&bytes(1, size));
        assert_eq!(server.post(&format!("/file/{id}/extend"), b"").status, 200);
    }
    let older = server.post("/files", br#"{"file": "YQ=="}"#);
    assert_eq!(older.status, 200, "{older:?}");
    let mut setting = String::new();
    for message in other.simple_query("SHOW synchronous_commit").expect("it") {
        if let postgres::SimpleQueryMessage::Row(row) = message {
            setting = row.get(0).expect("a value").to_string();
        }
    }
    assert_eq!(setting, "off", "the session is the same one");
    assert!(database.number("SELECT count(*) FROM seen") >= 5);
    let off = "SELECT count(*) FROM seen WHERE setting <> 'on'";
    assert_eq!(database.number(off), 0);
}

/// The pooler is told to forget statements while the server runs. Its sessions still have those that
/// it has kept until then.
#[test]
fn a_pooler_that_begins_to_forget_costs_503s_until_it_is_set_right() {
    if PgBouncer::keeps_statements() != Some(true) {
        return;
    }
    let cluster = Cluster::start();
    let database = prepared(&cluster);
    for size in ["default_pool_size = 1", "default_pool_size = 3"] {
        let keeping = [TRANSACTION, &[size]].concat();
        let pooler = PgBouncer::start(&database, &keeping);
        let url = pooler.url(&database.name);
        let server = Server::try_with(&url, "workers = 4").expect("it listens");
        let file = bytes(1, 1_000);
        let path = format!("/file/{}", server.upload(&file));
        pooler.reload(&forgetting(true, &[size]));
        eventually("the pooler is refused", || {
            let answer = server.get(&path);
            assert!(answer.status == 503 || answer.body == file, "{answer:?}");
            server.log().contains(MIXES_UP)
        });
        pooler.reload(&keeping);
        eventually("the pooler is used again", || {
            server.get(&path).status == 200
        });
        server.assert_no_500();
    }
}
