//! Databases in other encodings than UTF8, as some Python servers have them.

mod common;

use common::{Cluster, GitHub, Script, Server, bytes, config_folder, eventually, run};
use serde_json::json;

/// A stand-in for GitHub with one release, of the app for Android.
fn github() -> GitHub {
    let github = GitHub::start();
    let asset = json!({ "name": "日本.apk", "url": "https://example.org/%E6%97%A5?é" });
    let releases = json!([{
        "tag_name": "v1.2.3", "name": "Fixes for naïve users ✓", "body": NOTES,
        "draft": false, "prerelease": false, "assets": [asset],
    }]);
    github.set("o/android", Script::ok(releases.to_string()));
    github
}

/// The notes of the release, with the character NUL, which no database takes.
const NOTES: &str = "🎉 für C:\\new\\u{41}, 日本語, \u{0} and the rest";

#[test]
fn files_and_versions_are_served_in_every_encoding() {
    let github = github();
    for encoding in [
        "UTF8",
        "SQL_ASCII",
        "LATIN1",
        "LATIN9",
        "WIN1251",
        "KOI8R",
        "EUC_JP",
        "EUC_KR",
        "EUC_TW",
        "EUC_JIS_2004",
    ] {
        serves_in(encoding, &github);
    }
}

fn serves_in(encoding: &str, github: &GitHub) {
    let options = format!("TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
    let database = Cluster::shared().database_with(&options);
    let folder = config_folder(&database.url, "");
    for _ in 0..2 {
        let output = run(folder.path(), &["init-db"]);
        assert!(output.status.success(), "{encoding}: {output:?}");
    }
    let socket = folder.path().join("größe-日本.sock");
    let settings = github.settings(&format!("listen = 'unix:{}'", socket.display()));
    let server = Server::with(&database, &settings);
    let file = bytes(1, 100_000);
    let id = server.upload(&file);
    assert_eq!(server.get(&format!("/file/{id}")).body, file, "{encoding}");
    let path = "/session_version?platform=android";
    eventually("the versions are known", || server.get(path).status == 200);
    let known = server.get(path).json();
    assert_eq!(known["name"], "Fixes for naïve users ✓", "{encoding}");
    assert_eq!(known["notes"], NOTES.replace('\0', ""), "{encoding}");
    assert_eq!(known["assets"][0]["name"], "日本.apk", "{encoding}");
    assert_eq!(known["assets"][0]["url"], "https://example.org/%E6%97%A5?é");
    eventually("what the server has done is noted", || {
        database.number("SELECT count(*) FROM servers") == 1
    });
    let status = run(folder.path(), &["status"]);
    let shown = String::from_utf8(status.stdout).expect("UTF-8");
    assert!(shown.contains("größe-日本.sock: "), "{encoding}: {shown}");
    let log = server.log();
    assert!(!log.contains("could not "), "{encoding}: {log}");
}
