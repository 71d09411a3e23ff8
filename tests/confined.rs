//! What the system may refuse the server, in containers, sandboxes and under limits; and that
//! the bounds of SECURITY.md hold all the same.

mod common;

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use common::raw::{connect, connect_locally, flood, is_served_at_once, send, serves, until_closed};
use common::{Database, Server, bytes, eventually, is_root};

/// Connections that say nothing, or not enough, end within a minute.
fn ends_silent_connections(server: &Server) {
    let starts = ["", "GET /health HTTP/1.1\r\nHost:", "GET"];
    std::thread::scope(|scope| {
        let ends = starts.map(|start| {
            let stream = send(server, start.as_bytes());
            scope.spawn(move || until_closed(stream))
        });
        serves(server);
        for end in ends {
            let (answer, after) = end.join().expect("it is closed");
            assert!(answer.is_empty(), "{answer}");
            assert!(after < Duration::from_secs(45), "after {after:?}");
        }
    });
}

#[test]
fn without_the_calls_that_containers_forbid_slow_clients_are_disconnected() {
    let calls = [libc::SYS_pidfd_getfd, libc::SYS_pidfd_open, libc::SYS_kcmp];
    std::thread::scope(|scope| {
        for error in [libc::EPERM, libc::ENOSYS] {
            scope.spawn(move || {
                let database = Database::new();
                let server = Server::without_calls(&database, "", &calls, error);
                let server = server.unwrap_or_else(|log| panic!("{log}"));
                let before = server.memory();
                ends_silent_connections(&server);
                let most = flood(&server, b"GET /health HTTP/1.1\r\nX-Long: ", b"x");
                assert!(most < before + 400_000_000, "{most} bytes");
                serves(&server);
                assert!(!server.log().contains("WARN"), "{}", server.log());
            });
        }
    });
}

/// The calls of today's kernels that docker's default profile refuses to a program without
/// capabilities, as docker's documentation lists them.
const REFUSED_BY_DOCKER: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mbind,
    libc::SYS_mount,
    libc::SYS_move_pages,
    libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy,
    libc::SYS_name_to_handle_at,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

#[test]
fn without_the_calls_that_docker_refuses_the_server_stores_files_and_stops_in_order() {
    let database = Database::new();
    let server = Server::without_calls(&database, "", REFUSED_BY_DOCKER, libc::EPERM);
    let server = server.unwrap_or_else(|log| panic!("{log}"));
    for length in [10, 3_000_000] {
        let file = bytes(length as u64, length);
        let id = server.upload(&file);
        assert_eq!(server.get(&format!("/file/{id}")).body, file);
    }
    serves(&server);
    server.signal("TERM");
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

#[test]
fn without_proc_the_start_says_what_is_missing_and_the_server_serves() {
    // Only root may unmount /proc, and not in a chroot, which has no mount of its own.
    let possible = Command::new("unshare").args(["--mount", "true"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        return;
    }
    let script = "umount -l /proc && exec \"$0\" \"$@\"";
    let wrapper = ["unshare", "--mount", "sh", "-c", script];
    let server = Server::within(&Database::new(), "", &wrapper);
    let server = server.unwrap_or_else(|log| panic!("{log}"));
    serves(&server);
    let log = server.log();
    assert!(log.contains("mount /proc where the server runs"), "{log}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid()));
    let limits = limits.expect("it runs");
    let descriptors = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = descriptors.and_then(|line| line.split_whitespace().nth(3));
    let soft: u32 = soft.expect("a limit").parse().expect("digits");
    // Those of the database's connections are among them.
    assert!(soft <= 3 * 1024 + 64 + 60, "{soft}");
}

#[test]
fn silent_connections_to_the_unix_socket_are_closed_and_bounded_in_number() {
    let server = Server::with(&Database::new(), "listen = 'unix:http.sock'");
    let silent: Vec<_> = (0..1300).map(|_| connect_locally(&server)).collect();
    let started = Instant::now();
    // Beyond the bound the oldest connections end before their time has come.
    eventually("the number is bounded", || server.descriptors() < 2 * 1100);
    assert!(started.elapsed() < Duration::from_secs(9));
    serves(&server);
    for stream in silent {
        let (answer, after) = until_closed(stream);
        assert!(answer.is_empty() && after < Duration::from_secs(45));
    }
    let before = server.memory();
    let most = flood(&server, b"GET /health HTTP/1.1\r\nX-Long: ", b"x");
    assert!(most < before + 400_000_000, "{most} bytes");
    serves(&server);
}

#[test]
fn a_body_that_comes_slowly_over_the_unix_socket_is_received_beside_silent_connections() {
    use std::io::{Read, Write};
    let server = Server::with(&Database::new(), "listen = 'unix:http.sock'");
    let silent = connect_locally(&server);
    let mut slow = connect_locally(&server);
    let head = b"POST /file HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\n";
    slow.write_all(head).expect("sent");
    // Sending the body takes longer than a head may take.
    for _ in 0..16 {
        slow.write_all(&[7; 25_000]).expect("sent");
        std::thread::sleep(Duration::from_millis(900));
    }
    let mut answer = String::new();
    slow.read_to_string(&mut answer).expect("it ends");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("Connection: close"), "{answer}");
    until_closed(silent);
}

/// A server on a Unix socket that may have about forty connections.
fn with_few_connections() -> Server {
    let script = "ulimit -n 200; exec \"$0\" \"$@\"";
    let settings = "listen = 'unix:http.sock'\nworkers = 2";
    let server = Server::within(&Database::new(), settings, &["sh", "-c", script]);
    server.unwrap_or_else(|log| panic!("{log}"))
}

#[test]
fn a_body_that_is_cut_off_to_keep_the_bounds_is_503_and_not_its_clients_mistake() {
    for (framing, body) in [
        ("Content-Length: 100000", "a beginning"),
        ("Transfer-Encoding: chunked", "ffff\r\na beginning"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n"),
        ("Transfer-Encoding: chunked", "5"),
    ] {
        let server = with_few_connections();
        let mut client = server.connect();
        let request = format!("POST /file HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n{body}");
        client.send(request.as_bytes()).expect("sent");
        eventually("it is received", || server.has_thread("receive"));
        // The server looks at its connections every second, and shuts the oldest if there are too
        // many. After this pause it has seen this connection before the others.
        std::thread::sleep(Duration::from_secs(2));
        let others: Vec<_> = (0..60).map(|_| connect_locally(&server)).collect();
        let answer = client.answer("POST");
        answer.assert_error(503);
        assert!(answer.header("Retry-After").is_some(), "{answer:?}");
        drop(others);
        eventually("an ordinary client is served", || {
            server.get("/health").status == 200
        });
    }
}

/// A shell script that starts its arguments with a limit of so many threads, as a user that has no
/// other processes, because the limit counts all threads of a user.
fn limited(threads: u32, user: u32) -> String {
    format!(
        "chown -R {user} . && exec setpriv --reuid={user} --regid={user} --clear-groups \
         prlimit --nproc={threads} \"$0\" \"$@\""
    )
}

#[test]
fn with_few_threads_the_server_refuses_to_start_with_a_sentence_or_survives_and_recovers() {
    // Only root may become another user.
    if !is_root() {
        return;
    }
    std::thread::scope(|scope| {
        for (number, threads) in [4, 16, 24, 28, 32, 48, 100, 300].into_iter().enumerate() {
            scope.spawn(move || survives_with(threads, 3_000_000_000 + number as u32));
        }
    });
}

fn survives_with(threads: u32, user: u32) {
    let database = Database::new();
    let script = limited(threads, user);
    let server = match Server::within(&database, "", &["sh", "-c", &script]) {
        Ok(server) => server,
        Err(log) => {
            assert!(threads < 24, "{threads}: {log}");
            assert!(
                log.contains("threads") && !log.contains("panicked"),
                "{log}"
            );
            return;
        }
    };
    for _ in 0..2 {
        let silent: Vec<TcpStream> = (0..threads + 20).map(|_| connect(&server)).collect();
        std::thread::sleep(Duration::from_secs(2));
        drop(silent);
        eventually("an ordinary client is served", || {
            is_served_at_once(&server)
        });
    }
    let log = server.log();
    assert!(!log.contains("panicked"), "{threads}: {log}");
    server.signal("TERM");
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(0), "{threads}: {log}");
}
