//! `status`: what an operator is told.

mod common;

use common::{Cluster, Database, Server, config_folder, eventually, free_port, run};
use serde_json::{Value, json};
use session_file_server::db::{ServerRow, Settings};
use session_file_server::statistics::Counts;

fn status(database: &Database, arguments: &[&str]) -> String {
    let folder = config_folder(&database.url, "");
    let output = run(folder.path(), &[&["status"], arguments].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn files_database_and_versions_are_told_to_people_and_programs() {
    let database = Database::new();
    let server = Server::start(&database);
    server.upload(b"a file");
    server.post_with("/file", &[("X-FS-TTL", "3600")], b"another");
    database.execute(
        "UPDATE files SET uploaded = now() - interval '50 hours' WHERE data = 'another';
         INSERT INTO github_projects (project, checked) \
             VALUES ('session-foundation/session-ios', now() - interval '10 minutes');
         INSERT INTO github_releases (project, channel, version) VALUES \
             ('session-foundation/session-ios', 'prerelease', '2.0.0-beta.1'), \
             ('session-foundation/session-ios', 'stable', '1.9.0')",
    );
    let shown = status(&database, &[]);
    let name = &database.name;
    for line in [
        "files        2 files, 13 B\n",
        "(2 days ago)\n",
        "(in 59 minutes)\n",
        &format!("database     {name}, "),
        ", schema version 3\n",
        "desktop      never checked\n",
        "ios          stable 1.9.0, prerelease 2.0.0-beta.1, checked 10 minutes ago\n",
    ] {
        assert!(shown.contains(line), "{line:?} is not in {shown}");
    }
    let found: Value = serde_json::from_str(&status(&database, &["--json"])).expect("JSON");
    assert_eq!(found["files"]["count"], 2);
    assert_eq!(found["files"]["bytes"], 13);
    assert_eq!(found["database"]["name"], json!(name));
    assert_eq!(found["database"]["schema_version"], 3);
    assert!(found["database"]["bytes"].as_u64() > Some(1_000_000));
    let times = ["oldest", "next_expiry"].map(|key| found["files"][key].as_f64().expect("a time"));
    let apart = times[1] - times[0];
    assert!((apart - 51.0 * 3600.0).abs() < 60.0, "{apart}");
    let ios = &found["versions"]["ios"];
    assert_eq!(ios["stable"], "1.9.0");
    assert_eq!(ios["prerelease"], "2.0.0-beta.1");
    assert!(ios["checked"].is_f64() && ios.get("alpha").is_none());
    assert_eq!(found["versions"]["android"]["checked"], Value::Null);
}

#[test]
fn what_each_server_has_done_is_told() {
    let database = Database::new();
    let server = Server::start(&database);
    let noted = "SELECT count(*) FROM servers";
    eventually("it is noted", || database.number(noted) == 1);
    // The server writes its counts again only a minute later.
    database.execute("UPDATE servers SET downloads = 10, cache_hits = 9");
    let shown = status(&database, &[]);
    assert!(
        shown.contains(&format!(" {}: 0 requests, ", server.address))
            && shown.contains("9 of 10 downloads from the cache since the start (as of "),
        "{shown}"
    );
    let found: Value = serde_json::from_str(&status(&database, &["--json"])).expect("JSON");
    assert_eq!(found["servers"][0]["cache_hits"], 9);
    drop(server);
    database.execute("UPDATE servers SET name = 'gone', noted = now() - interval '2 days'");
    let _server = Server::start(&database);
    eventually("who is gone is forgotten", || {
        database.number("SELECT count(*) FROM servers WHERE name = 'gone'") == 0
    });
}

/// The name of this machine.
fn machine() -> String {
    let uname = std::process::Command::new("uname").arg("-n").output();
    let name = String::from_utf8(uname.expect("uname").stdout).expect("UTF-8");
    name.trim().to_string()
}

/// Servers' names in the database, in order.
fn names(database: &Database) -> Vec<String> {
    let rows = database
        .client()
        .query("SELECT name FROM servers ORDER BY name", &[]);
    rows.expect("rows").iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_server_knows_its_machine_also_where_proc_shows_processes_alone() {
    let hidden = "mount -t proc -o subset=pid proc /proc && ! test -e /proc/sys";
    let possible = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", hidden])
        .output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("skipped: only root can mount another /proc");
        return;
    }
    let database = Database::new();
    let script = format!(r#"exec unshare --mount sh -c '{hidden} && exec "$0" "$@"' "$0" "$@""#);
    let server = Server::by_script(&database, &script);
    eventually("it is noted", || !names(&database).is_empty());
    assert_eq!(
        names(&database),
        [format!("{} {}", machine(), server.address)]
    );
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn servers_of_one_name_have_a_row_each_and_a_restarted_one_takes_over_its_own() {
    let database = Database::new();
    drop(Server::start(&database));
    database.execute("DELETE FROM servers");
    let settings = Settings::parse(&database.url).expect("valid");
    let mut db = session_file_server::db::Database::new(settings).connection();
    let mut note = |row: &mut ServerRow| {
        db.note_server(row, &Counts::default()).expect("noted");
    };
    let started = || ServerRow::new("vps 127.0.0.1:8000".into());
    let mut servers = [started(), started(), started()];
    let expected = [
        "vps 127.0.0.1:8000",
        "vps 127.0.0.1:8000 (2)",
        "vps 127.0.0.1:8000 (3)",
    ];
    for round in 0..6 {
        servers.iter_mut().for_each(&mut note);
        if round == 3 {
            // One is started again, and one has been away for so long that it was forgotten.
            servers[1] = started();
            database.execute("DELETE FROM servers WHERE name LIKE '%(3)'");
        }
    }
    assert_eq!(names(&database), expected);
    let counts = "SELECT count(*) FROM servers WHERE noted > now() - interval '1 min'";
    assert_eq!(database.number(counts), 3);
    // From now on no server takes another name.
    let noted = "SELECT count(DISTINCT noted) FROM servers";
    servers.iter_mut().for_each(&mut note);
    assert_eq!((names(&database).len(), database.number(noted)), (3, 3));
}

#[test]
fn an_empty_table_and_files_that_never_expire_have_no_next_expiry() {
    let database = Database::new();
    let server = Server::start(&database);
    let shown = status(&database, &[]);
    assert!(
        shown.contains("oldest       none\nnext expiry  none\n"),
        "{shown}"
    );
    server.upload(b"a file");
    database.execute("UPDATE files SET expiry = 'infinity'");
    let shown = status(&database, &[]);
    assert!(shown.contains("next expiry  never\n"), "{shown}");
}

#[test]
fn a_database_without_tables_is_left_empty() {
    let database = Database::new();
    let folder = config_folder(&database.url, "");
    let output = run(folder.path(), &["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("init-db"));
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(database.number(tables), 0);
}

/// A user of the shared cluster who needs a password, unlike all others.
fn user_with_a_password(database: &Database) -> &'static str {
    let rules = Cluster::shared().folder().join("data/pg_hba.conf");
    let others = std::fs::read_to_string(&rules).expect("readable");
    let rule = format!("local all careful scram-sha-256\n{others}");
    std::fs::write(&rules, rule).expect("writable");
    database.execute(
        "SET password_encryption = 'scram-sha-256'; \
         CREATE ROLE careful LOGIN PASSWORD 'right'; SELECT pg_reload_conf()",
    );
    "careful"
}

#[test]
fn why_the_database_cannot_be_reached_is_told_by_status_and_in_the_log() {
    let database = Database::new();
    let user = user_with_a_password(&database);
    let (name, folder) = (&database.name, Cluster::shared().folder().display());
    let port = free_port();
    for (url, cause) in [
        (
            format!("host=127.0.0.1 port={port} user=x dbname={name}"),
            "Connection refused",
        ),
        (
            format!("host=nowhere.invalid user=x dbname={name}"),
            "failed to lookup address information",
        ),
        (
            format!("host=/nowhere user=x dbname={name}"),
            "No such file or directory",
        ),
        (
            format!("host={folder} user={user} password=wrong dbname={name}"),
            "password authentication failed for user",
        ),
        (
            format!("host={folder} user={user} dbname={name}"),
            "password missing",
        ),
    ] {
        let folder = config_folder(&url, "");
        let output = run(folder.path(), &["status"]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{url}: {told}");
        assert!(told.contains(cause), "{url}: {told}");
        assert!(!told.contains("wrong"), "it repeats the password: {told}");
        // The server waits for a database that may come back, and ends if the database refuses it.
        match Server::try_with(&url, "") {
            Ok(server) => eventually("it is logged", || server.log().contains(cause)),
            Err(log) => assert!(log.contains(cause), "{url}: {log}"),
        }
    }
}
