//! What systemd and the server say to each other, with the test in systemd's place.

mod common;

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::time::Duration;

use common::{Connection, Database, Server, bytes, eventually, under_load};

/// The socket on which systemd gets the messages of a service.
struct Manager {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Manager {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        let patience = Some(Duration::from_secs(60));
        socket.set_read_timeout(patience).expect("settable");
        Manager { folder, socket }
    }

    fn socket(&self) -> String {
        let path = self.folder.path().join("notify");
        path.to_str().expect("UTF-8").to_string()
    }

    /// The next message that has such a line.
    fn expect(&self, line: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer);
            let length = length.unwrap_or_else(|error| panic!("no {line:?}: {error}"));
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if message.lines().any(|found| found == line) {
                return message;
            }
        }
    }
}

#[test]
fn readiness_statistics_signs_of_life_and_the_end_are_told() {
    let manager = Manager::new();
    let database = Database::new();
    let environment = [
        ("NOTIFY_SOCKET", manager.socket()),
        // The manager wants a sign of life more often than the server would give it by itself.
        ("WATCHDOG_USEC", "600000".into()),
    ];
    let environment = environment
        .each_ref()
        .map(|(key, value)| (*key, value.as_str()));
    let server = Server::under_systemd(&database, None, &environment).expect("started");
    manager.expect("READY=1");
    assert_eq!(
        server.get("/health").status,
        200,
        "ready means that it serves"
    );
    let id = server.upload(&[7; 5000]);
    server.get(&format!("/file/{id}"));
    let mut status = String::new();
    eventually("the statistics are told", || {
        status = manager.expect("WATCHDOG=1");
        status.contains("STATUS=3 requests, 5.00 kB up, 5.")
    });
    assert!(
        status.contains("kB down, 1 file stored, 0 of 1 download from the cache since the start"),
        "{status}"
    );
    server.signal("TERM");
    manager.expect("STOPPING=1");
    let (status, _) = server.ended();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_server_that_hangs_gives_no_sign_of_life() {
    let manager = Manager::new();
    let database = Database::new();
    let socket = manager.socket();
    let environment = [("NOTIFY_SOCKET", &*socket), ("WATCHDOG_USEC", "600000")];
    let server = Server::under_systemd(&database, None, &environment).expect("started");
    manager.expect("WATCHDOG=1");
    server.signal("STOP");
    manager.socket.set_nonblocking(true).expect("settable");
    while manager.socket.recv(&mut [0; 4096]).is_ok() {}
    manager.socket.set_nonblocking(false).expect("settable");
    let patience = Some(Duration::from_secs(2));
    manager.socket.set_read_timeout(patience).expect("settable");
    assert!(manager.socket.recv(&mut [0; 4096]).is_err());
    server.signal("CONT");
    let patience = Some(Duration::from_secs(60));
    manager.socket.set_read_timeout(patience).expect("settable");
    manager.expect("WATCHDOG=1");
}

/// A socket as systemd holds it: for longer than any server lives.
fn socket(path: &Path) -> UnixListener {
    UnixListener::bind(path).expect("a socket")
}

fn pass(listener: &UnixListener) -> OwnedFd {
    listener.try_clone().expect("a descriptor").into()
}

#[test]
fn a_restart_refuses_no_connection_and_loses_no_request() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("http.sock");
    let (listener, database) = (socket(&path), Database::new());
    let address = format!("unix:{}", path.display());
    let start = || Server::under_systemd(&database, Some(pass(&listener)), &[]).expect("started");
    let mut server = start();
    assert_eq!(server.address, address);
    let file = bytes(1, 200_000);
    let target = format!("/file/{}", server.upload(&file));
    let client = |client: u64| {
        let (address, file, target) = (&address, &file, &target);
        move |number| {
            // A connection for each request, as nginx opens them.
            let mut connection = Connection::open(address);
            if number % 4 == 0 {
                let new = bytes((client << 32) | number, 2000);
                let answer = connection.request("POST", "/file", &[], &new);
                assert_eq!(answer.status, 200, "{answer:?}");
            } else {
                let answer = connection.request("GET", target, &[], b"");
                assert!(answer.status == 200 && answer.body == *file, "{answer:?}");
            }
        }
    };
    let last = under_load(8, client, |wait_for_more| {
        for _ in 0..5 {
            wait_for_more(200);
            server.signal("TERM");
            let (status, log) = server.ended();
            assert_eq!(status.code(), Some(0), "{log}");
            assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
            server = start();
        }
        wait_for_more(200);
        server
    });
    drop(last);
    assert!(path.exists(), "the socket's file is systemd's");
}

#[test]
fn a_connection_that_is_kept_alive_is_closed_after_the_answer_in_flight() {
    let database = Database::new();
    let server = Server::start(&database);
    let mut connection = server.connect();
    let answer = connection.request("GET", "/health", &[], b"");
    assert_eq!(answer.header("Connection"), None);
    connection.head("POST", "/file", &[("Content-Length", "2000")]);
    connection.send(&[7; 1000]).expect("sent");
    eventually("the body is being received", || {
        server.has_thread("receive")
    });
    server.signal("TERM");
    eventually("it stops", || server.log().contains("SIGTERM"));
    std::thread::sleep(Duration::from_millis(100));
    connection.send(&[7; 1000]).expect("sent");
    let answer = connection.answer("POST");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("Connection"), Some("close"));
    let (status, _) = server.ended();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_tcp_socket_can_be_passed_in_too() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let database = Database::new();
    let server = Server::under_systemd(&database, Some(listener.into()), &[]).expect("started");
    assert_eq!(server.address, address);
    let id = server.upload(b"a file");
    assert_eq!(server.get(&format!("/file/{id}")).body, b"a file");
    let named = format!("SELECT count(*) FROM servers WHERE name LIKE '% {address}'");
    eventually("status names the socket that was passed in", || {
        database.number(&named) == 1
    });
}

#[test]
fn what_is_no_listening_socket_is_refused() {
    let database = Database::new();
    let file = tempfile::tempfile().expect("a file");
    let log = Server::under_systemd(&database, Some(file.into()), &[]).err();
    let log = log.expect("refused");
    assert!(
        log.contains("a socket that was passed in is of no use"),
        "{log}"
    );
}
