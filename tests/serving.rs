//! How requests come in and answers go out: sockets, queues, slow clients, stopping.

mod common;

use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{Cluster, Connection, Database, Server, bytes, eventually, run};
use session_file_server::config::{Config, Listen};
use session_file_server::machine::Limits;
use session_file_server::protocol::http::{BodyRule, Method, Response};
use session_file_server::server::{self, Listener, Outcome, Service, Turn, Work, Workers};
use session_file_server::stop::Stop;

#[test]
fn a_connection_is_kept_alive_and_closed_when_asked() {
    let server = Server::start(&Database::new());
    let mut connection = server.connect();
    for number in 0..50 {
        let answer = connection.request("POST", "/file", &[], &bytes(number, 2000));
        assert_eq!(answer.status, 200);
    }
    let answer = connection.request("GET", "/health", &[("Connection", "close")], b"");
    assert_eq!(answer.header("Connection"), Some("close"));
    assert!(connection.is_closed());
}

#[test]
fn requests_that_are_sent_ahead_are_answered_in_order() {
    let server = Server::start(&Database::new());
    let sizes = [100, 60_100, 300_000, 100, 60_100, 300_000];
    let files = [0, 1, 2, 3, 4, 5].map(|number| bytes(number, sizes[number as usize]));
    let ids = files.each_ref().map(|file| server.upload(file));
    let mut connection = server.connect();
    for id in &ids {
        connection.head("GET", &format!("/file/{id}"), &[]);
        connection.head("GET", &format!("/file/{id}/nothing"), &[]);
    }
    for file in &files {
        let answer = connection.answer("GET");
        assert!(answer.body == *file, "{answer:?}");
        connection.answer("GET").assert_error(404);
    }
}

#[test]
fn http_1_0_is_answered_and_closed_or_kept_as_asked() {
    let server = Server::start(&Database::new());
    let mut connection = server.connect();
    connection
        .send(b"GET /health HTTP/1.0\r\n\r\n")
        .expect("the server listens");
    let answer = connection.answer("GET");
    assert_eq!(
        (answer.status, answer.header("Connection")),
        (200, Some("close"))
    );
    assert!(connection.is_closed());
    let mut connection = server.connect();
    for _ in 0..2 {
        let request = b"GET /health HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
        connection.send(request).expect("the server listens");
        let answer = connection.answer("GET");
        assert_eq!(
            (answer.status, answer.header("Connection")),
            (200, Some("keep-alive"))
        );
    }
}

#[test]
fn no_answer_is_chunked_even_for_a_client_that_prefers_it() {
    let server = Server::start(&Database::new());
    let id = server.upload(&bytes(1, 1_000_000));
    let mut connection = server.connect();
    for path in [format!("/file/{id}"), "/health".into()] {
        let answer = connection.request("GET", &path, &[("TE", "chunked")], b"");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("Transfer-Encoding"), None);
    }
}

#[test]
fn a_target_with_scheme_and_host_is_its_path() {
    let server = Server::start(&Database::new());
    assert_eq!(server.get("http://files.example/health").status, 200);
    let answer = server.post("http://files.example/file", &bytes(1, 300_000));
    assert_eq!(answer.status, 200, "with the limit of its endpoint");
}

#[test]
fn a_unix_socket_has_its_mode_and_serves() {
    let server = Server::with(
        &Database::new(),
        "listen = 'unix:http.sock'\nsocket_mode = '606'",
    );
    let path = server.folder.path().join("http.sock");
    let mode = std::fs::metadata(&path)
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o606);
    let id = server.upload(&bytes(1, 1_000_000));
    assert!(server.get(&format!("/file/{id}")).body == bytes(1, 1_000_000));
    server.signal("TERM");
    let (status, _) = server.ended();
    assert_eq!(status.code(), Some(0));
    assert!(!path.exists(), "the socket's file is removed");
}

#[test]
fn a_stale_socket_file_is_replaced_a_live_one_and_other_files_are_refused() {
    let database = Database::new();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("http.sock");
    let listen = format!("listen = 'unix:{}'", path.display());

    drop(UnixListener::bind(&path).expect("a stale socket"));
    let server = Server::with(&database, &listen);
    assert_eq!(server.get("/health").status, 200);

    let refused = Server::try_with(&database.url, &listen)
        .err()
        .expect("refused");
    assert!(
        refused.contains("a running server has that socket"),
        "{refused}"
    );
    assert_eq!(server.get("/health").status, 200, "the first one goes on");
    drop(server);

    std::fs::remove_file(&path).expect("killed servers leave it");
    std::fs::write(&path, "precious").expect("writable");
    let refused = Server::try_with(&database.url, &listen)
        .err()
        .expect("refused");
    assert!(refused.contains("not a socket"), "{refused}");
    assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
}

#[test]
fn a_start_that_fails_leaves_no_socket_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("http.sock");
    let listen = format!("listen = 'unix:{}'", path.display());
    let url = Cluster::shared().url("there_is_none");
    let refused = Server::try_with(&url, &listen).err().expect("refused");
    assert!(refused.contains("there_is_none"), "{refused}");
    assert!(!path.exists());
}

#[test]
fn a_server_that_nobody_can_reach_any_more_ends_with_an_error() {
    let server = Server::with(&Database::new(), "listen = 'unix:http.sock'");
    assert_eq!(server.get("/health").status, 200);
    // Unlike a port, a socket's file can be taken away from its server.
    std::fs::remove_file(server.folder.path().join("http.sock")).expect("removable");
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("doesn't answer itself"), "{log}");
}

#[test]
fn a_port_in_use_is_named() {
    let database = Database::new();
    let server = Server::start(&database);
    let listen = format!("listen = '{}'", server.address);
    let refused = Server::try_with(&database.url, &listen)
        .err()
        .expect("refused");
    assert!(refused.contains(&server.address), "{refused}");
    assert!(
        refused.contains("another program has that port"),
        "{refused}"
    );
}

#[test]
fn root_is_refused_unless_allowed() {
    if !common::is_root() {
        eprintln!("not root: nothing to refuse");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let output = run(folder.path(), &["serve"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--allow-root"));
}

#[test]
fn clients_that_read_late_occupy_no_worker_and_get_all_of_their_file() {
    let server = Server::with(&Database::new(), "workers = 1");
    let id = server.upload(&bytes(1, 9_000_000));
    let mut stalled: Vec<Connection> = (0..8).map(|_| server.connect()).collect();
    for connection in &mut stalled {
        connection.head("GET", &format!("/file/{id}"), &[]);
    }
    for number in 0..20 {
        let id = server.upload(&bytes(number, 5000));
        assert_eq!(server.get(&format!("/file/{id}")).status, 200);
    }
    // Those who come back get all of it.
    assert!(stalled[0].answer("GET").body == bytes(1, 9_000_000));
}

#[test]
fn a_full_queue_is_answered_503_at_once() {
    let database = Database::new();
    let server = Server::with(
        &database,
        "workers = 1\nlog_level = 'debug'\nfiles.cleanup_interval = '1 day'",
    );
    server.wait_for_first_cleanup();
    let id = server.upload(b"a file");
    let lock = database.lock_files();
    // One request is with the worker, 32 wait in the queue, the rest is refused.
    let ask = || {
        let mut connection = server.connect();
        connection.head("GET", &format!("/file/{id}"), &[]);
        connection
    };
    let mut waiting = vec![ask()];
    eventually("the worker waits", || database.waiting_for_locks() == 1);
    waiting.extend((0..59).map(|_| ask()));
    eventually("27 are refused", || {
        server.log().matches("→ 503").count() == 27
    });
    let refused = server.get("/file/another");
    refused.assert_error(503);
    assert!(refused.header("Retry-After").is_some());
    lock.release();
    let answers: Vec<u16> = waiting.iter_mut().map(|c| c.answer("GET").status).collect();
    assert!(
        answers.iter().filter(|status| **status == 200).count() >= 33,
        "{answers:?}"
    );
    assert!(
        answers.iter().all(|status| [200, 503].contains(status)),
        "{answers:?}"
    );
}

#[test]
fn a_stop_finishes_what_is_in_flight_and_exits_0() {
    for signal in ["TERM", "INT", "QUIT"] {
        let database = Database::new();
        let server = Server::with(&database, "files.cleanup_interval = '1 day'");
        server.wait_for_first_cleanup();
        let id = server.upload(b"a file");
        // One request waits for the database, one body is on its way.
        let lock = database.lock_files();
        let mut waiting = server.connect();
        waiting.head("GET", &format!("/file/{id}"), &[]);
        let mut sending = server.connect();
        let body = bytes(1, 100_000);
        sending.head("POST", "/file", &[("Content-Length", "100000")]);
        sending.send(&body[..50_000]).expect("the server listens");
        eventually("one waits", || database.waiting_for_locks() == 1);
        eventually("one is received", || server.has_thread("receive"));

        server.signal(signal);
        eventually("the signal is seen", || {
            server.log().contains("finishing what is in flight")
        });
        std::thread::sleep(Duration::from_millis(200));
        lock.release();
        sending.send(&body[50_000..]).expect("the server listens");
        assert_eq!(waiting.answer("GET").body, b"a file");
        let answer = sending.answer("POST");
        assert_eq!(answer.status, 200);
        let address = server.address.clone();
        let (status, _) = server.ended();
        assert_eq!(status.code(), Some(0));
        assert!(Connection::try_open(&address).is_err());
        assert_eq!(database.number("SELECT count(*) FROM files"), 2);
    }
}

#[test]
fn an_idle_connection_does_not_delay_a_stop() {
    let server = Server::start(&Database::new());
    let mut idle = server.connect();
    assert_eq!(idle.request("GET", "/health", &[], b"").status, 200);
    server.signal("TERM");
    assert_eq!(server.ended().0.code(), Some(0));
}

/// Answers all requests but those for `/panic`.
struct Panicking;

impl Service for Panicking {
    type Worker = usize;
    type Waiting = ();

    fn worker(&self) -> usize {
        0
    }

    fn body_rule(&self, _: Method, _: &str) -> BodyRule {
        BodyRule::AtMost(0)
    }

    fn alive(&self) {}

    fn answer(&self, work: Work<()>, turn: Turn<usize>) -> Outcome<Panicking> {
        let Work::New(incoming) = work else {
            return Err(());
        };
        *turn.worker += 1;
        assert!(incoming.target != "/panic", "on purpose");
        Ok(Response::text(200, &turn.worker.to_string()))
    }
}

#[test]
fn a_panic_is_a_500_for_its_request_and_the_worker_goes_on() {
    let config = Config {
        listen: vec![Listen::Tcp("127.0.0.1:0".into())],
        ..Config::default()
    };
    let listeners = Listener::open_all(&config, None).expect("a free port");
    let address = listeners[0].address().to_string();
    let stop = Stop::default();
    let running = {
        let stop = stop.clone();
        let hour = Duration::from_secs(3600);
        let memory = config.shares(&Limits::default());
        let (service, workers) = (Arc::new(Panicking), Workers { all: 1, writing: 1 });
        std::thread::spawn(move || {
            server::run(listeners, None, workers, &memory, hour, service, &stop)
        })
    };
    let mut connection = Connection::open(&address);
    let mut get = |path| connection.request("GET", path, &[], b"");
    assert_eq!(get("/").body, b"1");
    assert_eq!(get("/").body, b"2");
    get("/panic").assert_error(500);
    assert_eq!(
        get("/").body,
        b"1",
        "the only worker goes on with a new state"
    );
    stop.request();
    assert!(running.join().expect("no panic").is_ok());
}

#[test]
fn many_clients_at_once_are_all_served() {
    let server = Server::start(&Database::new());
    std::thread::scope(|scope| {
        for client in 0..64 {
            let server = &server;
            scope.spawn(move || {
                let mut connection = server.connect();
                for number in 0..10 {
                    let body = bytes(client * 100 + number, 3000);
                    let answer = connection.request("POST", "/file", &[], &body);
                    assert_eq!(answer.status, 200, "{answer:?}");
                    let path = format!("/file/{}", answer.json()["id"].as_str().expect("an id"));
                    assert!(connection.request("GET", &path, &[], b"").body == body);
                }
            });
        }
    });
}

#[test]
fn memory_for_large_files_is_given_back() {
    let server = Server::start(&Database::new());
    std::thread::scope(|scope| {
        for client in 0..16 {
            let server = &server;
            scope.spawn(move || {
                let body = bytes(client, 10_000_000);
                let id = server.upload(&body);
                assert!(server.get(&format!("/file/{id}")).body == body);
                let of_old_clients = format!(r#"{{"file": "{}"}}"#, STANDARD.encode(&body));
                assert_eq!(server.post("/files", of_old_clients.as_bytes()).status, 200);
            });
        }
    });
    eventually("little memory is left with the server", || {
        server.memory() < 40_000_000
    });
}

#[test]
fn a_log_at_info_level_names_no_file() {
    let server = Server::start(&Database::new());
    let id = server.upload(b"a file");
    server.get(&format!("/file/{id}"));
    let started = Instant::now();
    std::io::stderr().flush().expect("standard error");
    while started.elapsed() < Duration::from_millis(100) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!server.log().contains(&id), "{}", server.log());
}

#[test]
fn every_address_of_both_families_is_one_setting() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6");
        return;
    }
    let server = Server::with(&Database::new(), "listen = '[::]:0'");
    let id = server.upload(b"a file");
    let port = server.address.rsplit(':').next().expect("a port");
    for host in ["127.0.0.1", "[::1]"] {
        let mut connection = Connection::open(&format!("{host}:{port}"));
        let answer = connection.request("GET", &format!("/file/{id}"), &[], b"");
        assert_eq!(
            (answer.status, answer.body),
            (200, b"a file".to_vec()),
            "{host}"
        );
    }
}

/// Behind a load balancer with several servers a refused connection goes to another one, and a
/// connection that is reset is an error.
#[test]
fn a_server_that_stops_refuses_connections_at_once_and_finishes_what_it_has() {
    let server = Server::start(&Database::new());
    let mut slow = server.connect();
    let file = bytes(1, 200_000);
    let head = "POST /file HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n";
    slow.send(head.as_bytes()).expect("sent");
    slow.send(&file[..100_000]).expect("sent");
    eventually("it is received", || server.has_thread("receive"));
    server.signal("TERM");
    eventually("connections are refused", || {
        let refused = TcpStream::connect(&server.address).map(drop);
        refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    slow.send(&file[100_000..]).expect("sent");
    assert_eq!(slow.answer("POST").status, 200);
    assert_eq!(server.ended().0.code(), Some(0));
}
