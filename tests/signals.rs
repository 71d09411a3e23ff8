//! What signals do: to uploads in flight, to a start, to an import.

mod common;

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::{
    BINARY, Connection, Database, Response, Server, bytes, config_folder, eventually, signal,
};

/// An upload that has come half.
struct HalfUpload {
    connection: Connection,
    rest: Vec<u8>,
}

impl HalfUpload {
    fn start(server: &Server) -> HalfUpload {
        let mut connection = server.connect();
        let body = bytes(1, 100_000);
        connection.head("POST", "/file", &[("Content-Length", "100000")]);
        connection
            .send(&body[..50_000])
            .expect("the server listens");
        eventually("it is received", || server.has_thread("receive"));
        let rest = body[50_000..].to_vec();
        HalfUpload { connection, rest }
    }

    fn finish(mut self) -> Response {
        self.connection
            .send(&self.rest)
            .expect("the server listens");
        self.connection.answer("POST")
    }
}

fn ended(child: &mut Child, patience: Duration) -> ExitStatus {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        assert!(Instant::now() < deadline, "it doesn't end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn signals_that_stop_nothing_cost_no_upload_and_are_logged() {
    let server = Server::start(&Database::new());
    let upload = HalfUpload::start(&server);
    for name in ["HUP", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO"] {
        server.signal(name);
        let line = format!("SIG{name}: nothing is done");
        eventually(&line, || server.log().contains(&line));
    }
    // These signals have no meaning for the server, and whoever sends them expects none.
    for name in ["PIPE", "XFSZ", "WINCH", "URG", "CHLD", "CONT"] {
        server.signal(name);
    }
    assert!(
        server
            .log()
            .contains("restart the server to let it read the configuration")
    );
    let answer = upload.finish();
    assert_eq!(answer.status, 200, "{answer:?}");
    server.signal("TERM");
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_further_signal_ends_the_server_at_once() {
    let database = Database::new();
    for (first, second, expected) in [
        ("TERM", "TERM", (None, Some(15))),
        ("INT", "INT", (None, Some(2))),
        ("QUIT", "TERM", (None, Some(15))),
        ("TERM", "QUIT", (Some(131), None)),
    ] {
        let server = Server::start(&database);
        let _upload = HalfUpload::start(&server);
        server.signal(first);
        eventually("it is stopping", || server.log().contains("finishing what"));
        std::thread::sleep(Duration::from_millis(1200));
        let asked = Instant::now();
        server.signal(second);
        let (status, log) = server.ended();
        assert!(asked.elapsed() < Duration::from_secs(5));
        assert_eq!((status.code(), status.signal()), expected, "{log}");
        assert!(!status.core_dumped());
        let line = format!("SIG{second}: ending at once");
        assert!(log.contains(&line), "{log}");
    }
}

#[test]
fn two_signals_for_one_wish_cost_no_upload() {
    let server = Server::start(&Database::new());
    let upload = HalfUpload::start(&server);
    // As when Ctrl-C reaches a script and the server, and the script passes it on.
    server.signal("INT");
    server.signal("TERM");
    eventually("both are seen", || {
        server.log().contains("finishing what is in flight already")
    });
    let answer = upload.finish();
    assert_eq!(answer.status, 200, "{answer:?}");
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_further_signal_ends_the_server_even_if_nobody_reads_its_log() {
    let database = Database::new();
    let folder = config_folder(
        &database.url,
        "listen = 'unix:http.sock'\nlog_level = 'debug'\nversions.enabled = false",
    );
    let mut server = Command::new(BINARY)
        .arg("--allow-root")
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let address = format!("unix:{}", folder.path().join("http.sock").display());
    eventually("it listens", || Connection::try_open(&address).is_ok());
    // These requests make more lines than a pipe holds.
    let target = format!("/{}", "a".repeat(6000));
    let _connections = [(); 20].map(|()| {
        let mut connection = Connection::open(&address);
        connection.head("GET", &target, &[]);
        connection
    });
    std::thread::sleep(Duration::from_millis(500));
    signal(server.id(), "TERM");
    std::thread::sleep(Duration::from_millis(1200));
    signal(server.id(), "TERM");
    let status = ended(&mut server, Duration::from_secs(20));
    assert_eq!(status.signal(), Some(15));
}

#[test]
fn a_start_that_waits_for_its_database_is_stopped_in_a_moment() {
    // This database accepts connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let folder = config_folder(
        &format!("host=127.0.0.1 port={port} user=x dbname=x"),
        "listen = '127.0.0.1:0'\nversions.enabled = false",
    );
    for name in ["TERM", "INT", "QUIT"] {
        let mut server = Command::new(BINARY)
            .arg("--allow-root")
            .current_dir(folder.path())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let (_connection, _) = silent.accept().expect("it asks for its database");
        signal(server.id(), "HUP");
        signal(server.id(), name);
        let status = ended(&mut server, Duration::from_secs(4));
        assert_eq!(status.code(), Some(0), "{name}: {status:?}");
    }
}

#[test]
fn an_interrupted_import_ends_at_once_and_can_be_repeated() {
    let database = Database::new();
    let folder = config_folder(&database.url, "");
    let older = folder.path().join("files/main_files");
    std::fs::create_dir_all(&older).expect("a folder");
    for id in 1..50 {
        std::fs::write(older.join(id.to_string()), bytes(id, 5000)).expect("writable");
    }
    let said = folder.path().join("said");
    let import = || {
        let errors = std::fs::File::create(&said).expect("writable");
        Command::new(BINARY)
            .args(["import", "directory", "."])
            .current_dir(folder.path())
            .stderr(errors)
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary runs")
    };
    assert!(common::run(folder.path(), &["init-db"]).status.success());
    let lock = database.lock_files();
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let mut interrupted = import();
        eventually("it waits", || database.waiting_for_locks() >= 1);
        signal(interrupted.id(), name);
        let status = ended(&mut interrupted, Duration::from_secs(30));
        let said = std::fs::read_to_string(&said);
        assert_eq!(status.signal(), Some(number), "{status:?}: {said:?}");
    }
    lock.release();
    let status = ended(&mut import(), Duration::from_secs(60));
    assert_eq!(status.code(), Some(0));
    assert_eq!(database.number("SELECT count(*) FROM files"), 49);
}
