//! What is written to standard error and standard output, and what happens when it can't be.

mod common;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use common::{BINARY, Connection, Database, Server, config_folder, eventually, run, signal};

#[test]
fn no_request_forges_a_log_line() {
    let database = Database::new();
    for level in ["debug", "trace"] {
        let server = Server::with(&database, &format!("log_level = '{level}'"));
        for (method, target) in [
            ("GET", "/line\nERROR-forged"),
            ("GET", "/return\rERROR-forged"),
            ("GET", "/escape\x1b[2J\x1b]0;title\x07"),
            ("GET", "/others\x01\x08\x0b\x0c\x7f"),
            ("GET", "/query?a\nERROR-forged"),
            ("ME\nERROR-forged\x1b[2J", "/method"),
        ] {
            let mut connection = server.connect();
            let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n");
            connection.send(request.as_bytes()).expect("it listens");
            let line = connection.first_line();
            assert!(line.starts_with("HTTP/1.1 40"), "{target:?}: {line}");
        }
        eventually("all are logged", || server.log().contains("/method"));
        let log = server.log();
        assert!(log.contains("/line\\nERROR-forged"), "{log}");
        assert!(log.contains("/escape\\u{1b}[2J"), "{log}");
        for line in log.lines() {
            assert!(!line.starts_with("ERROR"), "{line:?}");
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }
}

#[test]
fn no_error_of_the_database_forges_a_line() {
    let url = Database::new().url;
    let others = url.split(' ').filter(|part| !part.starts_with("dbname"));
    let others = others.collect::<Vec<_>>().join(" ");
    // The characters are escaped as TOML has it.
    let url = format!("{others} dbname='x\\u202ey\\u0085z\\u001b[2J'");
    let folder = config_folder(&url, "");
    for command in ["status", "serve", "init-db"] {
        let output = run(folder.path(), &["--allow-root", command]);
        assert_eq!(output.status.code(), Some(1));
        let errors = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(errors.contains("x\\u{202e}y\\u{85}z\\u{1b}[2J"), "{errors}");
        let is_ours = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!errors.contains(is_ours), "{errors:?}");
    }
}

/// Runs the binary with redirections as a shell writes them.
fn redirected(folder: &Path, redirections: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("exec \"$0\" \"$@\" {redirections}"), BINARY])
        .args(arguments)
        .current_dir(folder);
    command
}

fn status_of(folder: &Path, redirections: &str, arguments: &[&str]) -> Option<i32> {
    let mut command = redirected(folder, redirections, arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().expect("sh").code()
}

/// Every command that ends by itself, with the exit status that it has.
const COMMANDS: [(&str, &[&str], i32); 12] = [
    ("good", &["--help"], 0),
    ("good", &["--version"], 0),
    ("good", &["nonsense"], 2),
    ("good", &["check-config"], 0),
    ("mistaken", &["check-config"], 1),
    ("good", &["init-db"], 0),
    ("good", &["keys"], 0),
    ("good", &["status"], 0),
    ("good", &["import", "directory", "."], 0),
    ("away", &["status"], 1),
    ("away", &["import", "directory", "."], 1),
    ("away", &["serve", "--allow-root"], 1),
];

/// A folder for each kind of configuration in [`COMMANDS`].
fn folder_for(kind: &str, database: &Database, taken: &TcpListener) -> tempfile::TempDir {
    let folder = match kind {
        "good" => config_folder(&database.url, ""),
        "mistaken" => config_folder(&database.url, "workers = 'many'\nfiles.expiry = 'soon'"),
        _ => {
            let port = taken.local_addr().expect("an address").port();
            let listen = format!("listen = '127.0.0.1:{port}'");
            config_folder("host=/nonexistent user=x dbname=x", &listen)
        }
    };
    let older = folder.path().join("files/main_files");
    std::fs::create_dir_all(&older).expect("a folder");
    for name in ["123", "456"] {
        std::fs::write(older.join(name), name).expect("writable");
    }
    let seed = "00".repeat(32);
    std::fs::write(folder.path().join("key_ed25519"), seed).expect("writable");
    folder
}

#[test]
fn standard_error_changes_no_exit_status() {
    let database = Database::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    for (kind, arguments, expected) in COMMANDS {
        for redirections in ["", "2>/dev/full", "2>&-", "<&- >&- 2>&-", ">&- 2>/dev/full"] {
            let folder = folder_for(kind, &database, &taken);
            let status = status_of(folder.path(), redirections, arguments);
            assert_eq!(
                status,
                Some(expected),
                "{kind}: {arguments:?} {redirections}"
            );
        }
        // A log file that may not grow.
        let folder = folder_for(kind, &database, &taken);
        let mut command = Command::new("sh");
        let script = "ulimit -f 0; exec \"$0\" \"$@\" 2>log";
        command.args(["-c", script, BINARY]).args(arguments);
        command.current_dir(folder.path()).stdout(Stdio::null());
        let status = command.status().expect("sh");
        assert_eq!(status.code(), Some(expected), "{arguments:?} {status:?}");
        // A log that nobody reads any more.
        let mut unread = redirected(folder.path(), "", arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh");
        drop(unread.stderr.take());
        let status = unread.wait().expect("a child");
        assert_eq!(status.code(), Some(expected), "{arguments:?} {status:?}");
    }
}

#[test]
fn a_full_standard_output_fails_what_was_to_be_printed_and_no_work() {
    let database = Database::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    for (kind, arguments, expected) in COMMANDS {
        let is_asked_for = ["--help", "--version", "keys", "status"].contains(&arguments[0]);
        let folder = folder_for(kind, &database, &taken);
        let expected = if is_asked_for { 1 } else { expected };
        let status = status_of(folder.path(), ">/dev/full", arguments);
        assert_eq!(status, Some(expected), "{kind}: {arguments:?}");
    }
}

#[test]
fn whoever_has_read_enough_makes_nothing_fail() {
    let database = Database::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    for (kind, arguments, expected) in COMMANDS {
        let folder = folder_for(kind, &database, &taken);
        let mut command = redirected(folder.path(), "", arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("sh");
        drop(child.stdout.take());
        let status = child.wait().expect("a child");
        assert_eq!(status.code(), Some(expected), "{arguments:?}");
    }
}

/// A server whose standard error is where no test can read it.
struct Silent {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Silent {
    fn start(redirections: &str) -> Silent {
        let settings = "listen = 'unix:http.sock'\nlog_level = 'debug'\nversions.enabled = false";
        let folder = config_folder(&Database::new().url, settings);
        let mut command = redirected(folder.path(), redirections, &["--allow-root"]);
        let child = command.stderr(Stdio::piped()).spawn().expect("sh");
        let address = format!("unix:{}", folder.path().join("http.sock").display());
        eventually("it listens", || Connection::try_open(&address).is_ok());
        Silent {
            child,
            address,
            _folder: folder,
        }
    }

    fn upload_and_stop(&mut self) -> ExitStatus {
        for number in 0..20 {
            let mut connection = Connection::open(&self.address);
            let answer = connection.request("POST", "/file", &[], &[number; 2000]);
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        signal(self.child.id(), "HUP");
        signal(self.child.id(), "TERM");
        self.child.wait().expect("a child")
    }
}

#[test]
fn a_server_goes_on_when_its_log_is_full_or_closed() {
    for redirections in ["2>/dev/full", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>&1"] {
        let mut server = Silent::start(redirections);
        for descriptor in 0..3 {
            let path = format!("/proc/{}/fd/{descriptor}", server.child.id());
            let target = std::fs::read_link(&path).expect("it is open");
            // It must be no socket of a client or of the database, because lines would be written
            // to it.
            assert!(!target.to_string_lossy().contains("socket"), "{target:?}");
        }
        let status = server.upload_and_stop();
        assert_eq!(status.code(), Some(0), "{redirections}: {status:?}");
    }
}

#[test]
fn a_server_goes_on_when_the_reader_of_its_log_goes_away() {
    let mut server = Silent::start("");
    let mut reader = BufReader::new(server.child.stderr.take().expect("a pipe"));
    reader.read_line(&mut String::new()).expect("a line");
    drop(reader);
    let status = server.upload_and_stop();
    assert_eq!(status.code(), Some(0), "{status:?}");
}
