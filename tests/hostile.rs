//! What clients can do to a server whose TCP port is open to them, and that ordinary clients
//! are served all the same.

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::raw::{
    LIE, ask, connect, flood, is_served_at_once, make_restart, send, serves, until_closed,
};
use common::{Database, Server, bytes, eventually, under_load};
use socket2::SockRef;

/// Descriptors and threads of a server whose workers have all opened their database
/// connections.
fn settled(server: &Server) -> (usize, usize) {
    let clients = (0..16).map(|_| {
        move || {
            let mut connection = server.connect();
            for _ in 0..50 {
                let answer = connection.request("GET", "/file/none", &[], b"");
                answer.assert_error(404);
            }
        }
    });
    std::thread::scope(|scope| clients.for_each(|client| drop(scope.spawn(client))));
    std::thread::sleep(Duration::from_millis(500));
    (server.descriptors(), server.threads())
}

/// Fails unless everything that clients have used is given back.
fn assert_given_back(server: &Server, descriptors: usize, threads: usize) {
    eventually("descriptors are given back", || {
        server.descriptors() <= descriptors + 8
    });
    // tiny_http keeps some twenty threads, and elastic threads stay for ten seconds.
    eventually("threads are given back", || {
        server.threads() <= threads + 28
    });
}

#[test]
fn a_lie_about_the_length_of_a_body_costs_the_liar_its_connection() {
    let server = Server::start(&Database::new());
    serves(&server);
    let lies = [
        "20000000",
        "100000000",
        "30000000000",
        "1000000000000000",
        "9223372036854775807",
        "9223372036854775813",
        "18446744073709551615",
        "1000000000000000000000000000000",
    ];
    let head = |path: &str, length: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
    };
    let heads = ["/file", "/files"]
        .into_iter()
        .flat_map(|path| lies.map(|length| head(path, length)))
        .chain([head("/file", "10223617")]);
    let liars = heads.map(|head| (send(&server, head.as_bytes()), head));
    for (stream, head) in liars.collect::<Vec<_>>() {
        let (answer, _) = until_closed(stream);
        assert!(answer.starts_with("HTTP/1.1 413 "), "{head}: {answer:?}");
        serves(&server);
    }
}

/// Sends `request` three hundred times. Fails unless the server restarts itself (`exec`), and an
/// ordinary client loses nothing meanwhile.
fn starts_anew(request: &[u8]) {
    let server = Server::start(&Database::new());
    let pid = server.pid();
    let file = bytes(1, 100_000);
    let path = format!("/file/{}", server.upload(&file));
    let ordinary = |_| {
        |_| {
            let answer = server.get(&path);
            assert!(answer.status == 200 && answer.body == file, "{answer:?}");
        }
    };
    under_load(1, ordinary, |wait_for_more| {
        make_restart(&server, request);
        wait_for_more(20);
    });
    assert_eq!(server.pid(), pid);
    assert!(server.descriptors() < 100, "{}", server.descriptors());
    serves(&server);
}

#[test]
fn hundreds_of_liars_make_the_server_start_anew_and_lose_no_request() {
    starts_anew(LIE);
}

/// Found by fuzzing: tiny_http never ends the connection of such a request.
#[test]
fn hundreds_of_requests_of_another_http_make_the_server_start_anew() {
    starts_anew(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
}

#[test]
fn ambiguous_framing_is_refused_and_the_connection_closed() {
    let server = Server::start(&Database::new());
    let ambiguous = [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5, 5",
        "Content-Length: five",
        "Content-Length:",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked;x",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nConnection: Upgrade\r\nUpgrade: h2c",
    ];
    let streams = ambiguous.map(|fields| {
        let request = format!("POST /file HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\nhello");
        send(&server, request.as_bytes())
    });
    for (fields, stream) in ambiguous.into_iter().zip(streams) {
        let (answer, _) = until_closed(stream);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{fields}: {answer:?}");
        assert_eq!(
            answer.matches("HTTP/1.1 400").count(),
            1,
            "{fields}: {answer:?}"
        );
    }
    serves(&server);
}

#[test]
fn heads_and_bodies_that_stall_or_trickle_end_with_their_connection() {
    let server = Server::start(&Database::new());
    let (descriptors, threads) = settled(&server);
    let head = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: ".as_slice();
    let body = b"POST /file HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc".as_slice();
    let small = b"POST /file HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc".as_slice();
    let chunked =
        b"POST /file HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice();
    let [size, extension, chunk] =
        ["1", "1;", "ffffff\r\nabc"].map(|start| [chunked, start.as_bytes()].concat());
    let started = Instant::now();
    std::thread::scope(|scope| {
        let mut ends = Vec::new();
        let starts = [b"", head, body, small, chunked, &size, &extension, &chunk];
        for start in starts {
            for trickles in [false, true] {
                let stream = send(&server, start);
                if trickles {
                    let mut writer = stream.try_clone().expect("a descriptor");
                    scope.spawn(move || {
                        while started.elapsed() < Duration::from_secs(50)
                            && writer.write_all(b"x").is_ok()
                        {
                            std::thread::sleep(Duration::from_millis(300));
                        }
                    });
                }
                ends.push((start, scope.spawn(move || until_closed(stream))));
            }
        }
        while started.elapsed() < Duration::from_secs(5) {
            serves(&server);
        }
        for (start, end) in ends {
            let (answer, after) = end.join().expect("closed");
            let start = String::from_utf8_lossy(start);
            assert!(!answer.contains(" 200 "), "{start}: {answer}");
            // Each connection ends by the deadline for its head or its body, and not only after the
            // minute that an idle connection may stay.
            assert!(after < Duration::from_secs(45), "{start}: after {after:?}");
        }
    });
    serves(&server);
    assert_given_back(&server, descriptors, threads);
}

#[test]
fn a_head_without_end_is_cut_before_it_fills_the_memory() {
    let server = Server::start(&Database::new());
    let before = server.memory();
    let start = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: ";
    for unit in [b"x".as_slice(), b"x\r\nX-Many: "] {
        let most = flood(&server, start, unit);
        assert!(most < before + 400_000_000, "{most} bytes");
        serves(&server);
    }
    // Thousands of small pieces leave holes that malloc keeps for the next ones.
    eventually("most of the memory is given back", || {
        server.memory() < before + 150_000_000
    });
}

#[test]
fn a_chunk_size_without_end_is_cut_before_it_fills_the_memory() {
    let server = Server::start(&Database::new());
    let before = server.memory();
    let head =
        |path| format!("POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    let starts = [
        head("/file"),
        head("/file") + "5\r\nhello\r\n",
        // This request is refused, and the server goes on reading for a while.
        head("/file") + "broken\r\n",
    ];
    for start in starts {
        let mut stream = send(&server, start.as_bytes());
        let chunk = vec![b'0'; 100_000];
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut most = 0;
        while stream.write_all(&chunk).is_ok() {
            assert!(Instant::now() < deadline, "it was never cut: {start:?}");
            most = most.max(server.memory());
        }
        assert!(most < before + 400_000_000, "{start:?}: {most} bytes");
        serves(&server);
    }
}

#[test]
fn clients_that_never_read_cost_their_connection_and_hold_up_nobody() {
    let server = Server::start(&Database::new());
    let file = bytes(3, 10_000_000);
    let id = server.upload(&file);
    let (descriptors, threads) = settled(&server);
    let get = |path: &str, more| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n");
    let (file_path, small) = (format!("/file/{id}"), get("/health", ""));
    // Some of the requests are refused for want of memory. With this field their connections end
    // with the refusal, and not only after a minute of silence.
    let close = "Connection: close\r\n";
    let silent: Vec<TcpStream> = (0..32)
        .map(|number| {
            let request = match number % 2 {
                // Requests after the first are sent ahead of its answer.
                0 => get(&file_path, "") + &small.repeat(7) + &get("/health", close),
                _ => small.repeat(3) + &get(&file_path, close),
            };
            let mut stream = connect(&server);
            // The buffer is small, so that the system can't take the whole answer for the client.
            let small_buffer = SockRef::from(&stream).set_recv_buffer_size(16 * 1024);
            small_buffer.expect("settable");
            stream.write_all(request.as_bytes()).expect("sent");
            stream
        })
        .collect();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3) {
        // These are small answers, which nothing may delay. Large ones may wait for their memory.
        assert_eq!(server.get("/health").status, 200);
        serves(&server);
    }
    eventually("they are disconnected", || {
        let is_gone = |mut stream: &TcpStream| stream.write(b"x").is_err();
        silent.iter().all(is_gone)
    });
    drop(silent);
    assert!(server.get(&file_path).body == file);
    assert_given_back(&server, descriptors, threads);
}

#[test]
fn requests_that_are_sent_ahead_by_the_thousand_end_their_connection() {
    let server = Server::start(&Database::new());
    let many = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2000);
    let answer = ask(&server, many.as_bytes());
    assert!(answer.matches(" 200 OK").count() < 2000);
    serves(&server);
}

#[test]
fn more_connections_than_descriptors_are_survived() {
    let server = Server::with_descriptors(&Database::new(), 200);
    serves(&server);
    let (descriptors, _) = settled(&server);
    for _ in 0..6 {
        // For a client its connection is open, whether the server has accepted it or not.
        let idle: Vec<TcpStream> = (0..300)
            .filter_map(|_| TcpStream::connect(&server.address).ok())
            .collect();
        assert!(idle.len() > 150, "{}", idle.len());
        eventually("an ordinary client is served", || {
            is_served_at_once(&server)
        });
        drop(idle);
        eventually("descriptors are given back", || {
            server.descriptors() <= descriptors + 16
        });
    }
    serves(&server);
}

#[test]
fn resets_at_any_moment_leave_nothing_behind() {
    let server = Server::start(&Database::new());
    let id = server.upload(&bytes(5, 3_000_000));
    let (descriptors, threads) = settled(&server);
    let requests = [
        "GET /hea".to_string(),
        format!("GET /file/{id} HTTP/1.1\r\nHost: x\r\n\r\n"),
        "POST /file HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\nabc".into(),
        "POST /file HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000000\r\n\r\nabc".into(),
    ];
    for number in 0..200 {
        let stream = send(&server, requests[number % 4].as_bytes());
        let reset = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        reset.expect("settable");
    }
    serves(&server);
    // Each of the fifty requests with a false length keeps two descriptors for as long as the
    // process lives.
    assert_given_back(&server, descriptors + 2 * 50, threads + 50);
}

#[test]
fn stalled_uploads_occupy_no_worker_and_delay_nobody() {
    let server = Server::with(&Database::new(), "workers = 1");
    let head = b"POST /file HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n";
    let stalled: Vec<TcpStream> = (0..64).map(|_| send(&server, head)).collect();
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    while started.elapsed() < Duration::from_secs(4) {
        let asked = Instant::now();
        for mut stream in &stalled {
            let _ = stream.write_all(b"x");
        }
        serves(&server);
        slowest = slowest.max(asked.elapsed());
    }
    // This is no measurement: waiting for any of the stalled uploads would take longer.
    assert!(slowest < Duration::from_secs(8), "{slowest:?}");
}
