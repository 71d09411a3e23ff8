//! Files that were reported: what the operator deletes or blocks is gone from every server, and
//! what is blocked stays gone.

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{BINARY, Cluster, Database, Onion, Server, bytes, config_folder, eventually, run};
use serde_json::{Value, json};
use session_file_server::protocol::file_id::FileId;

/// The default size of the cache, because servers of the test fixture have none.
const CACHE: &str = "files.cache_size = 16_000_000";

/// Runs `files` with these words.
fn files(folder: &Path, words: &[&str]) -> Output {
    run(folder, &[&["files"], words].concat())
}

/// Runs `files` with these words, which must succeed. Returns what it printed.
fn done(folder: &Path, words: &[&str]) -> String {
    let output = files(folder, words);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs `files` with these words, some of which it must not find. Returns its sentences for that.
fn not_found(folder: &Path, words: &[&str]) -> String {
    let output = files(folder, words);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

fn content_id(data: &[u8]) -> String {
    FileId::of_content(data).as_str().to_string()
}

/// Uploads a file as old clients do.
fn upload_deprecated(server: &Server) -> String {
    let answer = server.post("/files", br#"{"file": "YW4gb2xkIG9uZQ=="}"#);
    answer.json()["id"].as_u64().expect("a number").to_string()
}

/// Whether a server refuses all requests for an id. Before it knows of a removal, it may hand out
/// what it has in memory.
fn refuses(server: &Server, id: &str) -> bool {
    let paths = [
        format!("/file/{id}"),
        format!("/files/{id}"),
        format!("//file/{id}"),
    ];
    if paths.iter().any(|path| server.get(path).status == 200) {
        return false;
    }
    for path in &paths {
        server.get(path).assert_error(404);
        let head = server.connect().request("HEAD", path, &[], b"");
        assert_eq!(head.status, 404, "{path}");
    }
    server.get(&format!("/file/{id}/info")).assert_error(404);
    server
        .post(&format!("/file/{id}/extend"), b"")
        .assert_error(404);
    true
}

#[test]
fn a_blocked_file_is_gone_from_every_server_and_stays_gone_until_it_is_unblocked() {
    let database = Database::new();
    let servers = ["", "\nfiles.max_total_size = 1_000_000"]
        .map(|settings| Server::with(&database, &format!("{CACHE}{settings}")));
    let folder = servers[0].folder.path();
    let uploads = [1_000, 300_000].map(|size| bytes(size as u64, size));
    let mut ids = uploads
        .each_ref()
        .map(|data| servers[0].upload(data))
        .to_vec();
    ids.push(upload_deprecated(&servers[0]));
    for path in ids.iter().map(|id| format!("/file/{id}")) {
        for server in &servers {
            assert_eq!(server.get(&path).status, 200, "in memory now");
        }
    }
    let mut words = vec!["block"];
    words.extend(ids.iter().map(String::as_str));
    let said = done(folder, &words);
    for line in [
        format!("{} blocked, 1.00 kB deleted\n", ids[0]),
        format!("{} blocked, 300 kB deleted\n", ids[1]),
        format!("{} blocked, 10 B deleted\n", ids[2]),
    ] {
        assert!(said.contains(&line), "{line:?} is not in {said}");
    }
    assert_eq!(database.number("SELECT count(*) FROM files"), 0);
    for server in &servers {
        for id in &ids {
            eventually("it is gone", || refuses(server, id));
        }
        for data in &uploads {
            server.post("/file", data).assert_error(404);
        }
        server.upload(b"another file");
    }
    assert_eq!(database.number("SELECT count(*) FROM files"), 1);
    done(folder, &["unblock", &ids[0], &ids[1]]);
    for (data, id) in uploads.iter().zip(&ids) {
        for server in &servers {
            assert_eq!(&server.upload(data), id);
            assert!(server.get(&format!("/file/{id}")).body == *data);
        }
    }
    for server in &servers {
        assert!(!server.log().contains(&ids[0]), "{}", server.log());
    }
}

#[test]
fn what_was_stored_while_its_id_was_blocked_is_not_handed_out() {
    let database = Database::new();
    let server = Server::start(&database);
    let data = bytes(1, 100_000);
    let id = server.upload(&data);
    // This is as if the upload had begun before the id was blocked.
    database.execute(&format!("INSERT INTO blocked_files (id) VALUES ('{id}')"));
    assert!(refuses(&server, &id));
    server.post("/file", &data).assert_error(404);
    let there = "SELECT count(*) FROM files";
    assert_eq!(database.number(there), 1);
    // The operator's command notes the removal, and a server's next look at the notes deletes the
    // file.
    database.execute(&format!(
        "INSERT INTO removed_files VALUES ('{id}', now()), ('12', now()); \
         INSERT INTO files (id, data) VALUES ('12', 'not blocked'); \
         ALTER TABLE files ALTER id TYPE varchar(44) COLLATE \"und-x-icu\""
    ));
    let _another = Server::start(&database);
    eventually("it is deleted", || database.number(there) == 1);
    assert_eq!(server.get("/file/12").status, 200);
}

#[test]
fn a_deleted_file_is_gone_from_every_server_and_may_come_back() {
    let database = Database::new();
    let [one, another] = [CACHE, CACHE].map(|settings| Server::with(&database, settings));
    let data = bytes(1, 5_000);
    let id = one.upload(&data);
    let path = format!("/file/{id}");
    assert!(one.get(&path).body == data && another.get(&path).body == data);
    let said = done(one.folder.path(), &["delete", &id, &id]);
    assert_eq!(said, format!("{id} deleted, 5.00 kB\n"));
    for server in [&one, &another] {
        eventually("it is gone", || refuses(server, &id));
    }
    let said = not_found(one.folder.path(), &["delete", &id]);
    assert_eq!(
        said,
        format!("session-file-server: {id} isn't stored here\n")
    );
    assert_eq!(one.upload(&data), id);
    assert!(another.get(&path).body == data);
}

#[test]
fn more_removals_than_are_told_apart_empty_the_memory() {
    let database = Database::new();
    let server = Server::with(&database, CACHE);
    let id = server.upload(b"a file");
    database.execute(
        "DELETE FROM files; INSERT INTO removed_files \
         SELECT n::text, now() FROM generate_series(1, 11000) n",
    );
    eventually("it is gone", || refuses(&server, &id));
}

#[test]
fn removals_that_every_server_knows_of_are_forgotten() {
    let database = Database::new();
    drop(Server::start(&database));
    database.execute(
        "INSERT INTO removed_files VALUES ('old', now() - interval '1 hour'), ('new', now())",
    );
    let _server = Server::start(&database);
    let old = "SELECT count(*) FROM removed_files WHERE id = 'old'";
    eventually("the old one is forgotten", || database.number(old) == 0);
    assert_eq!(database.number("SELECT count(*) FROM removed_files"), 1);
}

#[test]
fn clients_of_the_onion_network_are_refused_a_blocked_file() {
    let onion = Onion::start(CACHE);
    let data = bytes(1, 2_000);
    let id = onion.server.upload(&data);
    done(onion.server.folder.path(), &["block", &id]);
    let [path, extend] = ["", "/extend"].map(|end| format!("/file/{id}{end}"));
    eventually("it is gone", || {
        onion.v4_request("GET", &path, None).status == 404
    });
    for (method, endpoint, body) in [
        ("POST", "/file", Some(&data[..])),
        ("POST", &extend, None),
        ("GET", &format!("{path}/info"), None),
    ] {
        let reply = onion.v4_request(method, endpoint, body);
        assert_eq!(reply.json(), json!({ "status_code": 404 }), "{endpoint}");
        assert_eq!(reply.status, 404, "{endpoint}");
    }
    for request in [
        json!({ "method": "GET", "endpoint": format!("files/{id}") }),
        json!({ "method": "POST", "endpoint": extend }),
    ] {
        let reply: Value = serde_json::from_slice(&onion.v3(request)).expect("JSON");
        assert_eq!(reply, json!({ "status_code": 404 }));
    }
}

/// Runs `files` with these words and that input.
fn files_from(folder: &Path, words: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(BINARY);
    command.arg("files").args(words).current_dir(folder);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

#[test]
fn ids_come_in_every_form_as_words_and_on_standard_input() {
    let database = Database::new();
    let server = Server::start(&database);
    let folder = server.folder.path();
    let ids: Vec<String> = (0..10)
        .map(|seed| server.upload(&bytes(seed, 100)))
        .collect();
    let links = [
        ids[0].clone(),
        format!("{}#p=00ff", ids[1]),
        format!("/file/{}", ids[2]),
        format!("http://example.org/file/{}#p=00ff&d", ids[3]),
        format!("https://example.org:8000/file/{}?x=1#p=00ff", ids[4]),
    ];
    let mut words = vec!["block"];
    words.extend(links.iter().map(String::as_str));
    words.push("-");
    let list = format!(
        "\n{}\r\n  \n/file/{}#p=0\nhttp://example.org/file/{}\n{}\nno id\n\u{1b}[2J\n  {}",
        ids[5], ids[6], ids[7], ids[8], ids[9]
    );
    let output = files_from(folder, &words, list.as_bytes());
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(said.lines().count(), ids.len(), "{said}");
    let sentence = |shown: &str| {
        format!("session-file-server: {shown} is neither a file's id nor a link to a file\n")
    };
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(errors, sentence("no id") + &sentence("\\u{1b}[2J"));
    for id in &ids {
        assert!(refuses(&server, id));
    }
    let output = files_from(folder, &["unblock", "-"], b"\n\n");
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
}

#[test]
fn an_id_that_begins_with_a_hyphen_is_no_option() {
    let database = Database::new();
    let server = Server::start(&database);
    let folder = server.folder.path();
    let data = (0..).map(|seed| bytes(seed, 10));
    let data = data.filter(|data| content_id(data).starts_with('-'));
    for data in data.take(3) {
        let id = server.upload(&data);
        let link = format!("{id}#p=00ff");
        assert!(done(folder, &["show", &id, "--json"]).contains(&id));
        done(folder, &["block", "--reason", "spam", &link]);
        done(folder, &["unblock", "--", &id]);
        server.upload(&data);
        done(folder, &["delete", &id]);
    }
}

/// What a command has printed for programs.
fn json_of(output: &[u8]) -> Value {
    serde_json::from_slice(output).expect("JSON")
}

#[test]
fn show_tells_people_and_programs() {
    let server = Server::start(&Database::new());
    let folder = server.folder.path();
    let (there, gone) = (server.upload(b"a file"), content_id(b"another"));
    let said = not_found(folder, &["show", "12", &gone]);
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(
        said.contains(": 12 is neither stored here nor blocked\n"),
        "{said}"
    );
    done(folder, &["block", &gone, "--reason", "a\u{1b} reason"]);
    let shown = done(folder, &["show", &there, &gone]);
    for text in [
        format!("{there}\n  size      6 B\n  uploaded  20"),
        "  blocked   no\n".into(),
        format!("{gone}\n  not stored\n  blocked   20"),
        " ago): a\\u{1b} reason\n".into(),
    ] {
        assert!(shown.contains(&text), "{text:?} is not in {shown}");
    }
    let shown = json_of(done(folder, &["show", "--json", &there, &gone]).as_bytes());
    assert_eq!(shown.as_array().map(Vec::len), Some(2));
    let info = server.get(&format!("/file/{there}/info")).json();
    for field in ["size", "uploaded", "expires"] {
        assert_eq!(shown[0][field], info[field], "{field}");
        assert_eq!(shown[1][field], Value::Null, "{field}");
    }
    assert_eq!(shown[0]["blocked"], Value::Null);
    assert!(shown[1]["blocked"].is_f64());
    assert_eq!(shown[1]["reason"], "a\u{1b} reason");
}

#[test]
fn blocked_ids_are_told_to_people_and_programs() {
    let server = Server::start(&Database::new());
    let folder = server.folder.path();
    assert_eq!(done(folder, &["blocked"]), "");
    assert_eq!(done(folder, &["blocked", "--json"]), "[]\n");
    let (there, gone) = (server.upload(b"a file"), content_id(b"another"));
    done(folder, &["block", &gone, "--reason", "spam"]);
    done(folder, &["block", &gone]);
    let shown = json_of(done(folder, &["show", "--json", &gone]).as_bytes());
    let blocked = json_of(done(folder, &["blocked", "--json"]).as_bytes());
    let since = &shown[0]["blocked"];
    let expected = json!([{ "id": gone, "blocked": since, "reason": "spam" }]);
    assert_eq!(blocked, expected);
    let blocked = done(folder, &["blocked"]);
    assert!(blocked.starts_with(&format!("{gone}  20")), "{blocked}");
    let status = run(folder, &["status"]).stdout;
    let status = String::from_utf8(status).expect("UTF-8");
    assert!(status.contains("blocked      1 id\n"), "{status}");
    let status = json_of(&run(folder, &["status", "--json"]).stdout);
    assert_eq!(status["files"]["blocked"], 1);
    let said = not_found(folder, &["unblock", &there]);
    assert_eq!(
        said,
        format!("session-file-server: {there} isn't blocked\n")
    );
}

#[test]
fn a_long_list_of_blocked_ids_is_whole() {
    let database = Database::new();
    drop(Server::start(&database));
    database
        .execute("INSERT INTO blocked_files (id) SELECT 'n' || n FROM generate_series(1, 2500) n");
    let folder = config_folder(&database.url, "");
    let blocked = done(folder.path(), &["blocked", "--json"]);
    let blocked: Value = serde_json::from_str(&blocked).expect("JSON");
    assert_eq!(blocked.as_array().map(Vec::len), Some(2500));
    assert_eq!(done(folder.path(), &["blocked"]).lines().count(), 2500);
}

#[test]
fn a_full_output_fails_what_tells_something_and_nothing_else() {
    let database = Database::new();
    let server = Server::start(&database);
    let id = server.upload(b"a file");
    let run_full = |words: &str| {
        let script = format!("exec \"$0\" files {words} >/dev/full 2>/dev/full");
        let mut command = Command::new("sh");
        command.args(["-c", &script, BINARY]);
        let status = command.current_dir(server.folder.path()).status();
        status.expect("sh").code()
    };
    assert_eq!(run_full(&format!("show {id}")), Some(1));
    assert_eq!(run_full(&format!("block {id}")), Some(0));
    assert!(refuses(&server, &id));
    assert_eq!(run_full("blocked"), Some(1));
    assert_eq!(run_full(&format!("unblock {id}")), Some(0));
    assert_eq!(run_full(&format!("delete {id}")), Some(1));
}

#[test]
fn an_import_brings_no_blocked_file_back() {
    let database = Database::new();
    let server = Server::start(&database);
    let folder = server.folder.path();
    // An older server's ids may be in the order of a language.
    database.execute(
        "CREATE TABLE older (id varchar(44) COLLATE \"und-x-icu\" PRIMARY KEY, data bytea, \
             uploaded timestamptz, expiry timestamptz);
         INSERT INTO older SELECT n::text, 'x', now(), 'infinity' FROM generate_series(1, 5) n",
    );
    done(folder, &["block", "2", "4"]);
    for summary in [
        "taken:     3 files, 3 B\n",
        "taken:     0 files, 0 B\nskipped:   3 files: there already\n",
    ] {
        let output = run(folder, &["import", "database", "--table", "older"]);
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        let expected = format!(
            "{}blocked:   2 files: not taken, see session-file-server files blocked\n",
            summary
        );
        let lines = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&said), lines(&expected));
    }
    assert_eq!(database.number("SELECT count(*) FROM files"), 3);
    for (id, status) in [("1", 200), ("2", 404), ("4", 404), ("5", 200)] {
        assert_eq!(server.get(&format!("/file/{id}")).status, status, "{id}");
    }
}

#[test]
fn ids_in_the_order_of_a_language_are_blocked_too() {
    let database = Database::new();
    drop(Server::start(&database));
    database.execute("ALTER TABLE files ALTER id TYPE varchar(44) COLLATE \"und-x-icu\"");
    let server = Server::start(&database);
    let folder = server.folder.path();
    for size in [100, 100_000] {
        let data = bytes(1, size);
        let id = server.upload(&data);
        done(folder, &["block", &id]);
        assert!(refuses(&server, &id));
        server.post("/file", &data).assert_error(404);
        assert!(done(folder, &["show", &id]).contains("  not stored\n"));
        done(folder, &["unblock", &id]);
        server.upload(&data);
    }
    assert!(run(folder, &["init-db", "--rebuild-ids"]).status.success());
    assert_eq!(database.number("SELECT count(*) FROM files"), 2);
}

#[test]
fn a_reason_is_kept_in_every_encoding() {
    let options = "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
    let database = Cluster::shared().database_with(options);
    drop(Server::start(&database));
    let folder = config_folder(&database.url, "");
    let reason = "gemeldet: für 🎉";
    done(folder.path(), &["block", "12", "--reason", reason]);
    assert!(done(folder.path(), &["blocked"]).ends_with(&format!(": {reason}\n")));
    assert!(done(folder.path(), &["show", "12"]).contains(reason));
}

#[test]
fn a_database_of_the_version_before_is_upgraded_by_init_db_and_keeps_its_files() {
    let database = Database::new();
    let server = Server::start(&database);
    let id = server.upload(b"a file");
    drop(server);
    database
        .execute("DROP TABLE blocked_files, removed_files, stored_bytes; UPDATE schema_version SET version = 1");
    let folder = config_folder(&database.url, "");
    let log = Server::try_with(&database.url, "").err().expect("refused");
    for said in [log, not_found(folder.path(), &["block", &id])] {
        assert!(
            said.contains("it is an older server's: the table blocked_files is missing")
                && said.contains("run session-file-server init-db"),
            "{said}"
        );
    }
    for _ in 0..2 {
        let output = run(folder.path(), &["init-db"]);
        assert!(output.status.success(), "{output:?}");
    }
    let version = "SELECT version::int8 FROM schema_version";
    assert_eq!(database.number(version), 3);
    let server = Server::start(&database);
    assert_eq!(server.get(&format!("/file/{id}")).body, b"a file");
    done(folder.path(), &["block", &id]);
    assert!(refuses(&server, &id));
}

#[test]
fn rights_that_are_missing_on_the_new_tables_are_named() {
    let database = Database::new();
    drop(Server::start(&database));
    let user = format!("partly_{}", database.name);
    database.execute(&format!(
        "CREATE ROLE {user} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}; \
         REVOKE INSERT ON blocked_files, removed_files FROM {user}"
    ));
    let url = database.url.replace("user=tester", &format!("user={user}"));
    let server = Server::try_with(&url, "").expect("started");
    eventually("it is warned of", || {
        server
            .log()
            .contains("may not read and write blocked_files, removed_files")
    });
    let said = not_found(server.folder.path(), &["block", "12"]);
    assert!(said.contains("forbids this server's user"), "{said}");
}
