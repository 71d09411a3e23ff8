//! No file that anybody keeps tells which address asked for which file.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Connection, Web, bytes, eventually};
use crate::requests::requests;
use crate::site::Site;

/// The address of the client that may be found nowhere.
const CLIENT: &str = "127.0.0.77";
/// The address of the client of the other site, which is logged.
const OTHER_CLIENT: &str = "127.0.0.78";
/// What that client asks for.
const OTHER_TARGET: &str = "/of-the-other-site";

pub fn no_log_tells_who_fetched_what(kind: Web) {
    // nginx logs by default whom it limits.
    let mut site = Site::edited(kind, |example| {
        example
            .replace("#limit_req", "limit_req")
            .replace("rate=50r/s", "rate=1r/s")
            .replace("burst=200", "burst=40")
    });
    let address = site.address.clone();
    let connect = || Connection::open_from(CLIENT, &address);
    let file = bytes(7, 20_000);
    let answer = connect().request("POST", "/file", &[], &file);
    let id = answer.json()["id"].as_str().expect("an id").to_string();
    let path = format!("/file/{id}");
    ask_in_every_way(&connect, &path);
    if kind == Web::Nginx {
        let limited = |_: &i32| connect().request("GET", &path, &[], b"").status == 503;
        assert!((0..100).any(|number| limited(&number)), "one is limited");
    }
    for is_there in [true, false] {
        site.take_server_away(0, is_there);
        let mut connection = connect();
        connection.head("GET", &path, &[]);
        let line = connection.first_line();
        assert!(line.contains(" 502 ") || line.contains(" 503 "), "{line}");
        site.bring_server_back(0);
    }

    let mut other = Connection::open_from(OTHER_CLIENT, &site.other_address);
    other.head("GET", OTHER_TARGET, &[("Connection", "close")]);
    assert!(other.first_line().contains("404"));
    let log = site.folder.path().join("log");
    eventually("the other site is logged", || {
        find(&log, &[OTHER_TARGET]).is_some()
    });
    site.stop_web();
    for folder in [&log, Path::new("/var/log")] {
        if let Some(found) = find(folder, &[&id, &format!("{CLIENT}:"), &format!("{CLIENT} ")]) {
            panic!("{found}");
        }
    }
}

/// Sends requests for a file, good and bad.
fn ask_in_every_way(connect: &impl Fn() -> Connection, path: &str) {
    for (method, target, status) in [
        ("GET", path.to_string(), 200),
        ("HEAD", path.to_string(), 200),
        ("GET", format!("{path}/info"), 200),
        ("POST", format!("{path}/extend"), 200),
        ("DELETE", path.to_string(), 405),
        ("GET", format!("{path}/nothing"), 404),
    ] {
        let answer = connect().request(method, &target, &[], b"");
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
    }
    let too_large = vec![0; 17_000_000];
    // nginx and apache may hang up while it is sent.
    let _ = connect().try_request("POST", &format!("{path}/extend"), &[], &too_large);
    let mut gone = connect();
    gone.head(
        "POST",
        &format!("{path}/extend"),
        &[("Content-Length", "100")],
    );
    drop(gone);
    for hostile in requests(path) {
        hostile.send(connect());
    }
}

/// A file below `folder` that has one of `needles`, and the line that has it.
fn find(folder: &Path, needles: &[&str]) -> Option<String> {
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
                continue;
            }
            // Not every file is everybody's to read.
            let bytes = fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let mut lines = text.lines();
            if let Some(line) = lines.find(|line| needles.iter().any(|one| line.contains(one))) {
                return Some(format!("{}: {line}", path.display()));
            }
        }
    }
    None
}
