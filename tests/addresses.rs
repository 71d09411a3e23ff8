//! A server with several addresses to listen on.

mod common;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;

use common::raw::{self, LIE};
use common::{Connection, Database, Server, bytes, eventually};
use socket2::{Domain, Socket, Type};

/// Two TCP ports and a Unix socket.
const MIXED: &str = "listen = ['127.0.0.1:0', 'unix:http.sock', '127.0.0.1:0']";

/// The addresses that the server says it listens on.
fn addresses(server: &Server) -> Vec<String> {
    server.address.split(" and ").map(str::to_string).collect()
}

fn assert_serves_on(server: &mut Server, addresses: &[String]) {
    for address in addresses {
        server.address.clone_from(address);
        raw::serves(server);
    }
}

fn is_refused(address: &str) -> bool {
    let refused = Connection::try_open(address).map(drop);
    refused.is_err_and(|error| {
        matches!(
            error.kind(),
            ErrorKind::ConnectionRefused | ErrorKind::NotFound
        )
    })
}

#[test]
fn each_address_serves_and_none_is_left_behind() {
    let mut server = Server::with(&Database::new(), MIXED);
    let addresses = addresses(&server);
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    assert_serves_on(&mut server, &addresses);
    let mut kept: Vec<_> = addresses.iter().map(|a| Connection::open(a)).collect();
    for connection in &mut kept {
        connection.head("POST", "/file", &[("Content-Length", "2000")]);
        connection.send(&[7; 1000]).expect("sent");
    }
    server.signal("TERM");
    for address in &addresses {
        eventually("it refuses", || is_refused(address));
    }
    for mut connection in kept {
        connection.send(&[7; 1000]).expect("sent");
        let answer = connection.answer("POST");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_server_that_restarts_itself_keeps_its_addresses_and_knows_that_they_are_its_own() {
    let mut server = Server::with(&Database::new(), MIXED);
    let addresses = addresses(&server);
    server.address.clone_from(&addresses[2]);
    raw::make_restart(&server, LIE);
    assert_serves_on(&mut server, &addresses);
    server.signal("TERM");
    let (status, log) = server.ended();
    assert_eq!(status.code(), Some(0), "{log}");
    let path = addresses[1].strip_prefix("unix:").expect("a path");
    assert!(!Path::new(path).exists(), "the socket's file stayed");
}

/// A client may connect one of its ports to several of ours, because the system distinguishes
/// connections by both of their ends.
#[test]
fn a_client_that_uses_one_port_for_two_addresses_has_two_connections() {
    let server = Server::with(&Database::new(), MIXED);
    let addresses = addresses(&server);
    let mut own: SocketAddr = ([127, 0, 0, 1], 0).into();
    let mut connect = |address: &str| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&own.into())?;
        own = socket.local_addr()?.as_socket().expect("an address");
        let server: SocketAddr = address.parse().expect("an address");
        socket.connect(&server.into())?;
        Connection::over_tcp(TcpStream::from(socket))
    };
    let mut slow = connect(&addresses[0]).expect("it listens");
    slow.head("POST", "/file", &[("Content-Length", "2000")]);
    slow.send(&[7; 1000]).expect("sent");
    eventually("it is received", || server.has_thread("receive"));
    let mut other = connect(&addresses[2]).expect("it listens");
    for _ in 0..20 {
        let answer = other.request("GET", "/file/absent", &[], b"");
        assert_eq!(answer.status, 404, "{answer:?}");
    }
    slow.send(&[7; 1000]).expect("sent");
    assert_eq!(slow.answer("POST").status, 200);
}

#[test]
fn lines_without_end_are_cut_at_every_address() {
    let mut server = Server::with(&Database::new(), MIXED);
    for address in addresses(&server) {
        server.address.clone_from(&address);
        let most = raw::flood(&server, b"GET /", b"a");
        assert!(most < 150_000_000, "{address}: {most} bytes");
        raw::serves(&server);
    }
}

#[test]
fn all_ipv4_and_all_ipv6_addresses_can_have_one_port() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: this machine has no IPv6");
        return;
    }
    let free = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    for listen in [
        format!("['0.0.0.0:{port}', '[::]:{port}']"),
        format!("['[::]:{port}', '0.0.0.0:{port}']"),
        format!("['[::1]:{port}', '127.0.0.1:{port}']"),
    ] {
        let mut server = Server::with(&Database::new(), &format!("listen = {listen}"));
        let addresses = [format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
        assert_serves_on(&mut server, &addresses);
        server.signal("TERM");
        assert_eq!(server.ended().0.code(), Some(0));
    }
}

#[test]
fn an_address_that_is_taken_is_named_and_the_others_are_left_as_they_were() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|address| (address, taken));
    let (address, _held) = taken.expect("bound");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("http.sock");
    let listen = format!("listen = ['unix:{}', '{address}']", path.display());
    let refused = Server::try_with(&Database::new().url, &listen).err();
    let log = refused.expect("refused");
    let expected = format!("cannot listen on {address}: another program has that port");
    assert!(log.contains(&expected), "{log}");
    assert!(!path.exists(), "the socket's file stayed");
}

#[test]
fn several_sockets_can_be_passed_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("http.sock");
    let local = UnixListener::bind(&path).expect("a socket");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let expected = [
        format!("unix:{}", path.display()),
        tcp.local_addr().expect("bound").to_string(),
    ];
    let passed = [local.into(), tcp.into()];
    let server = Server::under_systemd(&Database::new(), passed, &[]);
    let mut server = server.unwrap_or_else(|log| panic!("{log}"));
    assert_eq!(addresses(&server), expected);
    assert_serves_on(&mut server, &expected);
    let id = {
        server.address.clone_from(&expected[1]);
        server.upload(&bytes(3, 100_000))
    };
    let mut connection = Connection::open(&expected[0]);
    let answer = connection.request("GET", &format!("/file/{id}"), &[], b"");
    assert_eq!(answer.body, bytes(3, 100_000));
    server.signal("TERM");
    assert_eq!(server.ended().0.code(), Some(0));
    assert!(path.exists(), "the socket's file is systemd's");
}
