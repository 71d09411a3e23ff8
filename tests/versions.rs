//! Session's versions and the token's numbers; GitHub is played by the test.

mod common;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Database, GitHub, Response, Script, Server, eventually, sign};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};

fn release(tag: &str, prerelease: bool) -> Value {
    json!({
        "tag_name": tag, "prerelease": prerelease, "draft": false, "name": format!("Session {tag}"),
        "body": format!("What is new in {tag}"), "id": 5, "author": { "login": "x" },
        "assets": [{ "name": format!("{tag}.deb"), "url": format!("https://api.example/{tag}"), "size": 1 }],
    })
}

fn version(server: &Server, query: &str) -> Response {
    server.get(&format!("/session_version?{query}"))
}

/// Waits until a platform's version is served.
fn until_version(server: &Server, platform: &str, expected: &str) {
    eventually(&format!("{platform} {expected}"), || {
        let answer = version(server, &format!("platform={platform}"));
        answer.status == 200 && answer.json()["result"] == expected
    });
}

/// The time, Unix seconds.
fn seconds_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

/// Lets the projects be asked for again, now.
fn ask_again(database: &Database) {
    database.execute("UPDATE github_projects SET next_check = '-infinity'");
}

/// A stand-in with releases of all channels for the desktop, and one without much for Android.
fn github_with_all_channels() -> GitHub {
    let github = GitHub::start();
    github.set("o/desktop", Script::releases(&json!([
        release("v1.17.5", false), release("v1.18.0-beta.2", true), release("v1.9.9", false),
        release("v1.19.0-alpha.3", true), release("nightly", false),
        { "tag_name": "v9.9.9", "draft": true }, { "tag_name": "v1.0.0", "name": null, "body": null },
    ]), "one"));
    let bare = json!([{ "tag_name": "1.24.0", "name": "", "assets": [] }]);
    github.set("o/android", Script::releases(&bare, "two"));
    github
}

#[test]
fn each_channels_highest_version_is_served_as_github_has_it() {
    let github = github_with_all_channels();
    let server = Server::with(&Database::new(), &github.settings(""));
    until_version(&server, "desktop", "1.17.5");
    let answer = version(&server, "platform=desktop");
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    let checked = answer.number("updated");
    assert!((seconds_now() as f64 - checked).abs() < 60.0);
    assert_eq!(
        answer.json(),
        json!({
            "status_code": 200, "updated": checked, "result": "1.17.5", "name": "Session v1.17.5",
            "notes": "What is new in v1.17.5",
            "assets": [{ "name": "v1.17.5.deb", "url": "https://api.example/v1.17.5" }],
            "prerelease": {
                "updated": checked, "result": "1.18.0-beta.2", "name": "Session v1.18.0-beta.2",
                "notes": "What is new in v1.18.0-beta.2",
                "assets": [{ "name": "v1.18.0-beta.2.deb", "url": "https://api.example/v1.18.0-beta.2" }],
            },
        })
    );
    for (channel, expected) in [
        ("stable", "1.17.5"),
        ("prerelease", "1.18.0-beta.2"),
        ("alpha", "1.19.0-alpha.3"),
    ] {
        let query = format!("platform=desktop&release_channel={channel}");
        let answer = version(&server, &query).json();
        assert_eq!(answer["result"], expected);
        assert_eq!(answer.get("prerelease").is_some(), channel == "stable");
    }
    eventually("the skipped tag is logged", || {
        server.log().contains("nightly")
    });
    until_version(&server, "android", "1.24.0");
    let fields = version(&server, "platform=android").json();
    let fields = fields.as_object().expect("an object").keys();
    let fields: Vec<&String> = fields.collect();
    assert_eq!(fields, ["status_code", "updated", "result"]);
}

#[test]
fn github_is_asked_by_name_and_with_the_token_which_is_not_logged() {
    let github = github_with_all_channels();
    let settings = github.settings("versions.github_token = 'secret'");
    let server = Server::with(&Database::new(), &settings);
    until_version(&server, "desktop", "1.17.5");
    let head = github.asked("o/desktop")[0].to_lowercase();
    assert!(
        head.contains("per_page=") && head.contains("user-agent: session-file-server/"),
        "{head}"
    );
    assert!(head.contains("authorization: bearer secret"), "{head}");
    assert!(!server.log().contains("secret"));
}

#[test]
fn unknown_platforms_and_channels_are_404_and_unknown_versions_502() {
    let server = Server::start(&Database::new());
    for query in [
        "",
        "platform=",
        "platform=windows",
        "platform=Desktop",
        "release_channel=stable",
        "platform=ios&release_channel=beta",
        "platform=ios&release_channel=beta&release_channel=",
        "x=platform=ios",
    ] {
        version(&server, query).assert_error(404);
    }
    server.get("/session_version").assert_error(404);
    for query in [
        "platform=ios",
        "platform=ios&release_channel=",
        "platform=ios&release_channel",
        "platform=ios&release_channel=alpha",
        "platform=ios&release_channel=%61lpha",
        "release_channel=stable&platform=%69os",
    ] {
        version(&server, query).assert_error(502);
    }
}

#[test]
fn a_version_that_was_not_checked_for_24_hours_is_502() {
    let database = Database::new();
    drop(Server::start(&database));
    database.execute(
        "INSERT INTO github_projects VALUES
             ('session-foundation/session-ios', now() - interval '23 h 59 min'),
             ('session-foundation/session-android', now() - interval '24 h 1 min');
         INSERT INTO github_releases VALUES
             ('session-foundation/session-ios', 'stable', '2.1.0'),
             ('session-foundation/session-android', 'stable', '2.1.0')",
    );
    let server = Server::start(&database);
    assert_eq!(version(&server, "platform=ios").json()["result"], "2.1.0");
    version(&server, "platform=android").assert_error(502);
}

#[test]
fn popular_versions_are_answered_without_the_database() {
    let github = GitHub::start();
    github.set(
        "o/ios",
        Script::releases(&json!([release("v1.0.0", false)]), "one"),
    );
    let database = Database::new();
    let server = Server::with(&database, &github.settings(""));
    until_version(&server, "ios", "1.0.0");
    assert_eq!(version(&server, "platform=ios").status, 200);
    database.execute("ALTER TABLE github_releases RENAME TO hidden");
    let answers: Vec<u16> = (0..20)
        .map(|_| version(&server, "platform=ios").status)
        .collect();
    assert!(
        answers.iter().filter(|status| **status == 200).count() >= 10,
        "{answers:?}"
    );
}

#[test]
fn a_check_that_finds_nothing_new_counts_and_a_withdrawn_release_disappears() {
    let github = GitHub::start();
    let script = Script::releases(
        &json!([release("v2.0.0", false), release("v1.0.0", false)]),
        "one",
    );
    github.set("o/ios", script);
    let database = Database::new();
    let server = Server::with(
        &database,
        &github.settings("versions.refresh_interval = '1 s'"),
    );
    until_version(&server, "ios", "2.0.0");
    database.execute("UPDATE github_projects SET checked = now() - interval '1 day'");
    eventually("a 304 counts as checked", || {
        database.number(
            "SELECT count(*) FROM github_projects \
             WHERE project = 'o/ios' AND checked > now() - interval '1 h'",
        ) == 1
    });
    assert!(
        github
            .asked("o/ios")
            .iter()
            .any(|head| head.to_lowercase().contains("if-none-match: \"one\""))
    );
    assert_eq!(version(&server, "platform=ios").json()["result"], "2.0.0");
    github.set(
        "o/ios",
        Script::releases(&json!([release("v1.0.0", false)]), "two"),
    );
    until_version(&server, "ios", "1.0.0");
    github.set("o/ios", Script::releases(&json!([]), "three"));
    eventually("nothing is left", || {
        version(&server, "platform=ios").status == 502
    });
}

#[test]
fn whatever_github_does_the_last_version_is_served_and_nothing_else_is_delayed() {
    let scripts: [(&str, Script); 13] = [
        ("403", Script::status(403, "")),
        ("429", Script::status(429, "Retry-After: 3600\r\n")),
        (
            "403 until",
            Script::status(403, "X-RateLimit-Reset: 99999999999\r\n"),
        ),
        ("500", Script::status(500, "")),
        ("304 unasked", Script::status(304, "")),
        ("HTML", Script::ok("<html>Unicorn!</html>")),
        ("wrong JSON", Script::ok(r#"{"message": "hello"}"#)),
        ("deep JSON", Script::ok("[".repeat(100_000))),
        ("60 MB", Script::Huge),
        ("silence", Script::Silence),
        ("a trickle", Script::Trickle),
        ("a trickling head", Script::TrickleHead),
        ("closed", Script::Close),
    ];
    std::thread::scope(|scope| {
        for (name, script) in scripts {
            scope.spawn(move || serves_through(name, script));
        }
    });
}

/// A server that knows version 1.0.0 of the app for iOS, and has been told of no other.
fn server_that_knows(github: &GitHub, database: &Database) -> Server {
    let releases = json!([release("v1.0.0", false)]);
    github.set("o/ios", Script::ok(releases.to_string()));
    let settings = "versions.refresh_interval = '1 h'\nfiles.cleanup_interval = '1 s'";
    let server = Server::with(database, &github.settings(settings));
    until_version(&server, "ios", "1.0.0");
    // The other two projects' failures are not the ones that a test looks for later.
    eventually("all were asked", || {
        !github.asked("o/android").is_empty() && !github.asked("o/desktop").is_empty()
    });
    server
}

fn serves_through(name: &str, script: Script) {
    let (github, database) = (GitHub::start(), Database::new());
    let server = server_that_knows(&github, &database);
    let known = || version(&server, "platform=ios").json()["result"].clone();
    github.set("o/ios", script);
    let before = github.asked("o/ios").len();
    let due = "UPDATE github_projects SET next_check = '-infinity' WHERE project = 'o/ios'";
    database.execute(due);
    eventually(&format!("{name}: it is asked"), || {
        github.asked("o/ios").len() > before
    });
    // While GitHub answers as the script has it:
    assert_eq!(server.get("/health").status, 200, "{name}");
    server.upload(b"a file");
    database.execute("UPDATE files SET expiry = now()");
    eventually(&format!("{name}: expired files are deleted"), || {
        database.number("SELECT count(*) FROM files") == 0
    });
    assert_eq!(known(), "1.0.0", "{name}");
    // After GitHub's answer, or without one:
    let warning = "GitHub has no answer for o/ios";
    eventually(&format!("{name}: the failure is logged"), || {
        server.log().contains(warning)
    });
    assert_eq!(known(), "1.0.0", "{name}");
    let releases = json!([release("v2.0.0", false)]);
    github.set("o/ios", Script::ok(releases.to_string()));
    eventually(&format!("{name}: the next version is served"), || {
        // Again, because the failure may have been written down only now.
        database.execute(due);
        known() == "2.0.0"
    });
    let warnings = server.log().matches(warning).count();
    assert_eq!(warnings, 1, "{name}: it is logged once");
}

#[test]
fn a_rate_limited_project_is_left_alone_as_long_as_github_says() {
    let github = GitHub::start();
    github.set("o/ios", Script::status(429, "Retry-After: 7200\r\n"));
    github.set("o/android", Script::status(500, ""));
    let database = Database::new();
    let _server = Server::with(
        &database,
        &github.settings("versions.refresh_interval = '30 s'"),
    );
    let wait = |project: &str| {
        database.number(&format!(
            "SELECT coalesce(max(extract(epoch FROM next_check - now())), 0)::int8 \
             FROM github_projects WHERE project = '{project}' AND next_check > '-infinity'"
        ))
    };
    eventually("ios is postponed", || {
        (7000..=7200).contains(&wait("o/ios"))
    });
    eventually("android was asked", || {
        !github.asked("o/android").is_empty()
    });
    assert!(wait("o/android") <= 30);
}

#[test]
fn two_servers_on_one_database_ask_once_between_them() {
    let github = GitHub::start();
    for project in ["o/desktop", "o/android", "o/ios"] {
        github.set(
            project,
            Script::releases(&json!([release("v1.0.0", false)]), "one"),
        );
    }
    let database = Database::new();
    let settings = github.settings("versions.refresh_interval = '1 h'");
    let servers = [
        Server::with(&database, &settings),
        Server::with(&database, &settings),
    ];
    for server in &servers {
        for platform in ["desktop", "android", "ios"] {
            until_version(server, platform, "1.0.0");
        }
    }
    // In this time both servers look several times whether GitHub must be asked.
    std::thread::sleep(Duration::from_secs(6));
    for project in ["o/desktop", "o/android", "o/ios"] {
        assert_eq!(github.asked(project).len(), 1, "{project}");
    }
    ask_again(&database);
    eventually("the next interval", || {
        ["o/desktop", "o/android", "o/ios"]
            .iter()
            .all(|p| github.asked(p).len() == 2)
    });
}

#[test]
fn a_proxy_from_the_environment_is_honoured() {
    let github = GitHub::start();
    github.set(
        "o/ios",
        Script::ok(json!([release("v1.0.0", false)]).to_string()),
    );
    let settings = github.settings("").replace(&github.address, "127.0.0.1:1");
    let proxy = format!("http://{}", github.address);
    let database = Database::new();
    let server = Server::launch(&database.url, &settings, &[("http_proxy", &proxy)]);
    let server = server.unwrap_or_else(|log| panic!("{log}"));
    until_version(&server, "ios", "1.0.0");
    assert!(github.asked("proxy")[0].contains("127.0.0.1:1"));
}

/// A server with those variables, on a database that knows version 0.9.0 for iOS.
fn server_with(settings: &str, variables: &[(&str, &str)]) -> (Database, Server) {
    let database = Database::new();
    drop(Server::start(&database));
    database.execute(
        "INSERT INTO github_projects (project, checked) VALUES ('o/ios', now());
         INSERT INTO github_releases (project, channel, version) VALUES ('o/ios', 'stable', '0.9.0')",
    );
    let server = Server::launch(&database.url, settings, variables);
    (database, server.unwrap_or_else(|log| panic!("{log}")))
}

#[test]
fn a_proxy_that_cannot_be_used_is_never_bypassed() {
    let github = GitHub::start();
    let list = json!([release("v1.0.0", false)]).to_string();
    github.set("o/ios", Script::ok(list));
    let settings = github.settings("");
    std::thread::scope(|scope| {
        for (variable, value) in [
            ("http_proxy", "socks5://user:secret@127.0.0.1:9050"),
            ("all_proxy", "socks5h://user:secret@127.0.0.1:9050"),
            ("ALL_PROXY", "https://user:secret@127.0.0.1:9050"),
            ("HTTP_PROXY", "secret nonsense"),
        ] {
            let warning = "GitHub is not asked, and the known versions are kept: the proxy in";
            let settings = &settings;
            scope.spawn(move || keeps_what_it_knows(settings, variable, value, warning, 1));
        }
        for value in [
            "http://user:secret@127.0.0.1:1",
            "http://user:secret@nowhere.invalid",
        ] {
            let warning = "GitHub has no answer for o/ios";
            let settings = &settings;
            scope.spawn(move || keeps_what_it_knows(settings, "http_proxy", value, warning, 0));
        }
    });
    assert!(
        github.asked("o/ios").is_empty(),
        "nobody was asked directly"
    );
}

/// Fails unless a server with that proxy warns once and serves the versions that it knows, and
/// `check-config` has that exit status.
fn keeps_what_it_knows(settings: &str, variable: &str, value: &str, warning: &str, status: i32) {
    let (_database, server) = server_with(settings, &[(variable, value)]);
    eventually(&format!("{value}: it is said"), || {
        server.log().contains(warning)
    });
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(server.log().matches(warning).count(), 1, "{}", server.log());
    assert!(!server.log().contains("secret"), "{}", server.log());
    assert_eq!(version(&server, "platform=ios").json()["result"], "0.9.0");
    // `check-config` tells this before a start.
    let check = std::process::Command::new(common::BINARY)
        .arg("check-config")
        .current_dir(server.folder.path())
        .env(variable, value)
        .output()
        .expect("the binary runs");
    assert_eq!(check.status.code(), Some(status), "{check:?}");
    assert!(!String::from_utf8_lossy(&check.stderr).contains("secret"));
}

#[test]
fn a_proxy_looks_up_names_and_an_exception_goes_without_it() {
    let (github, proxy) = (GitHub::start(), GitHub::start());
    let list = json!([release("v1.0.0", false)]).to_string();
    github.set("o/ios", Script::ok(list.clone()));
    github.set(
        "o/android",
        Script::status(302, "Location: http://other.invalid/\r\n"),
    );
    proxy.set("o/ios", Script::ok(list));
    let through = format!("http://user:secret@{}", proxy.address);
    // No name server knows the name of the API, so that the proxy must look it up.
    let settings = github.settings("").replace(&github.address, "api.invalid");
    let (_database, server) = server_with(&settings, &[("http_proxy", &through)]);
    until_version(&server, "ios", "1.0.0");
    eventually("all three projects are asked for", || {
        proxy.asked("proxy").len() == 3
    });
    let asked = proxy.asked("proxy");
    let names_it = |head: &String| head.starts_with("CONNECT api.invalid:80 ");
    assert!(asked.iter().all(names_it), "{asked:?}");
    assert!(
        asked[0].contains("Proxy-Authorization: basic "),
        "{asked:?}"
    );
    let before = asked.len();
    for (variable, exceptions) in [
        ("no_proxy", "localhost,127.0.0.1"),
        ("NO_PROXY", "127.0.0.0/8"),
        ("no_proxy", "*"),
    ] {
        let variables = [("http_proxy", through.as_str()), (variable, exceptions)];
        let (_database, server) = server_with(&github.settings(""), &variables);
        until_version(&server, "ios", "1.0.0");
        // A redirection to another host, which is not excepted, would have to go through the proxy.
        eventually("a redirection is not followed", || {
            server
                .log()
                .contains("GitHub has no answer for o/android: it answered 302")
        });
    }
    assert_eq!(
        proxy.asked("proxy").len(),
        before,
        "it is not asked for exceptions"
    );
}

#[test]
fn a_malformed_item_of_githubs_list_costs_no_other() {
    let github = GitHub::start();
    let mut good = release("v1.2.0", false);
    good["assets"] =
        json!([null, { "name": "a.deb", "url": "https://api.example/a" }, { "name": 5 }]);
    good["body"] = json!({ "a": 5 });
    let list = json!([
        { "tag_name": null }, { "tag_name": 5 }, null, 7, { "name": "v9.9.9" },
        release("v9\n9", false), good, release("v1.1.0", false),
    ]);
    github.set("o/ios", Script::releases(&list, "one"));
    let database = Database::new();
    let server = Server::with(&database, &github.settings(""));
    until_version(&server, "ios", "1.2.0");
    let answer = version(&server, "platform=ios").json();
    let assets = json!([{ "name": "a.deb", "url": "https://api.example/a" }]);
    assert_eq!(answer["assets"], assets);
    assert!(answer.get("notes").is_none());
    for line in ["o/ios: skipped what is malformed: release 1: ", "v9\\n9"] {
        eventually(line, || server.log().contains(line));
    }
    // A list of which nothing can be read is ignored: what is known stays.
    github.set(
        "o/ios",
        Script::releases(&json!([null, { "tag_name": 5 }]), "two"),
    );
    ask_again(&database);
    eventually("the failure is logged", || {
        server.log().contains("GitHub has no answer for o/ios")
    });
    assert_eq!(version(&server, "platform=ios").json()["result"], "1.2.0");
}

fn signed_get(server: &Server, path: &str, headers: &[(&'static str, String)]) -> Response {
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    server.connect().request("GET", path, &headers, b"")
}

#[test]
fn signed_checks_are_verified_and_recorded_only_when_configured() {
    let now = seconds_now();
    let key = SigningKey::from_bytes(&[7; 32]);
    let path = "/session_version?platform=ios&release_channel=alpha";
    let good = sign(&key, now, &format!("GET{path}"));
    for (setting, rows) in [("", 0), ("versions.record_checks = true", 1)] {
        let database = Database::new();
        let server = Server::with(&database, setting);
        let status = |headers: &[(&'static str, String)]| {
            let answer = signed_get(&server, path, headers);
            if answer.status != 502 {
                assert_eq!(
                    answer.header("Content-Type"),
                    Some("text/plain; charset=utf-8")
                );
                assert!(!answer.body.is_empty() && !answer.body.contains(&b'\n'));
            }
            answer.status
        };
        // The server knows no version here, so that it answers 502 once the signature is accepted.
        assert_eq!(status(&good), 502);
        assert_eq!(status(&good), 502);
        assert_eq!(status(&sign(&key, now, "GET/elsewhere")), 401);
        assert_eq!(
            status(&sign(&key, now - 90_000, &format!("GET{path}"))),
            425
        );
        assert_eq!(status(&good[..2]), 400);
        let signer = &good[0].1;
        let recorded = format!(
            "SELECT count(*) FROM version_checks WHERE blinded_id = '{signer}' \
             AND platform = 'ios' AND channel = 'alpha' AND checked > now() - interval '1 min'"
        );
        assert_eq!(database.number(&recorded), rows);
    }
}

#[test]
fn recorded_checks_are_kept_for_90_days_also_when_no_more_are_recorded() {
    for setting in ["", "versions.record_checks = true"] {
        let database = Database::new();
        drop(Server::start(&database));
        database.execute(
            "INSERT INTO version_checks VALUES ('old', 'ios', 'stable', now() - interval '91 days'), \
             ('young', 'ios', 'stable', now() - interval '89 days')",
        );
        let _server = Server::with(&database, setting);
        let of = |signer: &str| {
            let count = "SELECT count(*) FROM version_checks WHERE blinded_id =";
            database.number(&format!("{count} '{signer}'"))
        };
        eventually("old checks go", || of("old") == 0);
        assert_eq!(of("young"), 1);
    }
}

#[test]
fn beyond_a_bound_version_checks_of_new_signers_are_not_recorded() {
    let now = seconds_now();
    let database = Database::new();
    let server = Server::with(&database, "versions.record_checks = true");
    let path = "/session_version?platform=ios";
    let check = |key: u8| {
        let key = SigningKey::from_bytes(&[key; 32]);
        let signed = sign(&key, now, &format!("GET{path}"));
        assert_eq!(signed_get(&server, path, &signed).status, 502);
    };
    let recorded = |age: &str| {
        database.number(&format!(
            "SELECT count(*) FROM version_checks WHERE checked < now() - interval '{age}'"
        ))
    };
    check(1);
    assert_eq!(recorded("0 s"), 1);
    // As PostgreSQL would note it for a table that has grown.
    database.execute(
        "UPDATE pg_class SET reltuples = 3e6 WHERE relname = 'version_checks';
         UPDATE version_checks SET checked = now() - interval '1 day'",
    );
    check(2);
    assert_eq!(recorded("0 s"), 1, "nobody new");
    assert_eq!(recorded("1 hour"), 1);
    check(1);
    assert_eq!(recorded("1 hour"), 0, "who is known is noted");
}

#[test]
fn the_tokens_numbers_are_served_as_the_other_program_wrote_them() {
    let database = Database::new();
    let server = Server::start(&database);
    server.get("/token_info").assert_error(502);
    database.execute("INSERT INTO session_token_stats VALUES (240000000, 0, 40000000)");
    let answer = server.get("/token_info");
    assert_eq!(
        answer.json(),
        json!({ "status_code": 200, "info": {
        "maximum_supply": 240000000, "sent_per_node": 0, "staking_reward_pool": 40000000, "history": [] } })
    );
    database.execute(
        "INSERT INTO session_token_history
         SELECT 0.1 + d * 0.000001, 1000 + d, 2000 + d,
             date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - make_interval(days => d)
         FROM generate_series(0, 40) d;
         INSERT INTO session_token_history
         SELECT 9, 9, 9, updated - interval '1 s' FROM session_token_history WHERE circulating_supply = 1007",
    );
    let history = |query: &str| -> Vec<Value> {
        let answer = server.get(&format!("/token_info{query}"));
        assert_eq!(answer.status, 200);
        answer.json()["info"]["history"]
            .as_array()
            .expect("a list")
            .clone()
    };
    let week = history("");
    assert_eq!(week.len(), 8, "from the start of the day 7 days ago");
    assert_eq!(week[0]["circulating_supply"], 1007, "oldest first");
    assert_eq!(week[7]["current_value"], "0.100000", "a decimal text");
    assert_eq!(week[7]["total_nodes"], 2000);
    assert!(week[7]["updated"].as_f64() > week[6]["updated"].as_f64());
    for (query, expected) in [
        ("?days=1", 2),
        ("?days=30", 32),
        ("?days=7", 8),
        ("?days=0", 8),
        ("?days=31", 8),
        ("?days=-1", 8),
        ("?days=x", 8),
        ("?days=", 8),
        ("?days=1.5", 8),
        ("?days=99999999999", 8),
    ] {
        assert_eq!(history(query).len(), expected, "{query}");
    }
}
