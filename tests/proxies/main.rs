//! The examples for nginx, apache and haproxy, with the real ones in front of the real server.
//!
//! They need nginx, apache2 and haproxy, which other tests don't: `scripts/test-proxies`
//! installs them and runs these.

#[path = "../common/mod.rs"]
mod common;

mod hostile;
mod privacy;
mod requests;
mod site;

use common::{Connection, Web, bytes, under_load};
use session_file_server::protocol::onion::cipher::FreshNonce;
use session_file_server::protocol::onion::client::{OnionRequest, read_v4_reply, v4_plaintext};
use site::Site;

/// The default of `files.max_size`.
const MAX_SIZE: usize = 10_223_616;

fn the_largest_file_goes_up_and_comes_down(kind: Web) {
    let site = Site::start(kind);
    let file = bytes(1, MAX_SIZE);
    let answer = site.connect().request("POST", "/file", &[], &file);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    let path = format!("/file/{}", answer.json()["id"].as_str().expect("an id"));
    let answer = site.connect().request("GET", &path, &[], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.header("Content-Type"),
        Some("application/octet-stream")
    );
    assert!(answer.header("Expires").is_some());
    assert!(answer.body == file, "the same bytes");
    // In the encoding of old clients, which makes the largest request that is taken.
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(&file);
    let body = format!("{{\"file\": \"{encoded}\"}}");
    let answer = site
        .connect()
        .request("POST", "/files", &[], body.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn an_onion_request_is_answered(kind: Web) {
    let site = Site::start(kind);
    let log = site.server(0).log();
    let key = log
        .lines()
        .find_map(|line| line.split("X25519 public key: ").nth(1));
    let mut public = [0; 32];
    hex::decode_to_slice(key.expect("it is logged"), &mut public).expect("hexadecimal");
    let exchange = OnionRequest::new(&public, Some("xchacha20"), [7; 32]).expect("a key");
    let file = bytes(2, MAX_SIZE);
    let plaintext = v4_plaintext("POST", "/file", &[], Some(&file));
    let request = exchange
        .seal(&plaintext, FreshNonce([9; 24]))
        .expect("fits");
    let answer = site
        .connect()
        .request("POST", "/oxen/v4/lsrpc", &[], &request);
    assert_eq!(answer.status, 200, "{answer:?}");
    let reply = exchange.open(answer.body).expect("decrypts");
    let (status, _, _) = read_v4_reply(&reply).expect("well-formed");
    assert_eq!(status, 200);
}

fn what_is_too_large_is_refused(kind: Web) {
    let site = Site::start(kind);
    let answer = site
        .connect()
        .request("POST", "/file", &[], &bytes(3, MAX_SIZE + 1));
    answer.assert_error(413);
    let far_more = vec![0; 17_000_000];
    let answer = site.connect().request("POST", "/file", &[], &far_more);
    match kind {
        // Beyond its own limit nginx doesn't ask us, and answers in its own words.
        Web::Nginx => {
            assert_eq!(answer.status, 413);
            assert_eq!(answer.header("Content-Type"), Some("text/html"));
        }
        _ => answer.assert_error(413),
    }
    // A false length, which would cost our server descriptors until its restart, doesn't reach it.
    let mut liar = site.connect();
    liar.head("POST", "/file", &[("Content-Length", "70000000")]);
    let answer = liar.answer("POST");
    assert_eq!(answer.status, 413);
    assert_ne!(answer.header("Content-Type"), Some("application/json"));
}

fn a_restart_under_load_fails_no_request(kind: Web) {
    let mut site = Site::start(kind);
    let file = bytes(4, 300_000);
    let answer = site.connect().request("POST", "/file", &[], &file);
    let path = format!("/file/{}", answer.json()["id"].as_str().expect("an id"));
    let address = site.address.clone();
    let client = |client: u64| {
        let (address, file, path) = (&address, &file, &path);
        // The connection to the web server is kept alive, as browsers and service nodes keep
        // theirs.
        let mut connection = Connection::open(address);
        move |number| {
            if number % 50 == 0 {
                connection = Connection::open(address);
            }
            let answer = if number % 3 == 0 {
                let new = bytes((client << 32) | number, 20_000);
                connection.request("POST", "/file", &[], &new)
            } else {
                let answer = connection.request("GET", path, &[], b"");
                assert!(answer.status != 200 || answer.body == *file);
                answer
            };
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    };
    under_load(6, client, |wait_for_more| {
        for _ in 0..3 {
            wait_for_more(150);
            site.restart_server(0);
        }
        wait_for_more(150);
    });
}

/// The status line of an answer, which need not be ours.
fn health(site: &Site) -> String {
    let mut connection = site.connect();
    connection.head("GET", "/health", &[]);
    connection.first_line()
}

fn a_server_that_comes_back_is_asked_at_once(kind: Web) {
    let mut site = Site::start(kind);
    assert_eq!(health(&site), "HTTP/1.1 200 OK");
    for is_there in [true, false] {
        site.take_server_away(0, is_there);
        for _ in 0..3 {
            let line = health(&site);
            assert!(line.contains(" 502 ") || line.contains(" 503 "), "{line}");
        }
        site.bring_server_back(0);
        let line = health(&site);
        assert_eq!(
            line, "HTTP/1.1 200 OK",
            "its socket's file was left: {is_there}"
        );
    }
}

fn one_of_two_servers_that_is_down_costs_no_request(kind: Web) {
    let mut site = Site::with_two_servers(kind);
    for down in [0, 1] {
        site.take_server_away(down, true);
        for number in 0..40 {
            let file = bytes((1 << 40) | number, 3000);
            let answer = site.connect().request("POST", "/file", &[], &file);
            assert_eq!(answer.status, 200, "{answer:?}");
            let id = answer.json()["id"].as_str().expect("an id").to_string();
            let answer = site
                .connect()
                .request("GET", &format!("/file/{id}"), &[], b"");
            assert!(answer.status == 200 && answer.body == file, "{answer:?}");
        }
        site.bring_server_back(down);
    }
}

fn uploads_arrive_however_their_length_is_told(kind: Web) {
    let site = Site::start(kind);
    let file = bytes(5, 100_000);
    let get = |id: &str| {
        site.connect()
            .request("GET", &format!("/file/{id}"), &[], b"")
    };

    let length = file.len().to_string();
    let expecting = [("Content-Length", &*length), ("Expect", "100-continue")];
    let mut connection = site.connect();
    connection.head("POST", "/file", &expecting);
    assert_eq!(connection.first_line(), "HTTP/1.1 100 Continue");
    connection.skip_head();
    connection.send(&file).expect("it listens");
    let answer = connection.answer("POST");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(get(answer.json()["id"].as_str().expect("an id")).body == file);

    // nginx hands chunks on as one body; with the others it is our server that takes them.
    let upload = |mut connection: Connection| {
        connection.head("POST", "/file", &[("Transfer-Encoding", "chunked")]);
        for chunk in file.chunks(30_000) {
            let mut framed = format!("{:x}\r\n", chunk.len()).into_bytes();
            framed.extend_from_slice(chunk);
            framed.extend_from_slice(b"\r\n");
            // A server that refuses the upload may have hung up.
            let _ = connection.send(&framed);
        }
        let _ = connection.send(b"0\r\n\r\n");
        connection.answer("POST").status
    };
    let expected = match kind {
        Web::Nginx => 200,
        _ => upload(Connection::open(&site.server_address(0))),
    };
    assert_eq!(upload(site.connect()), expected);
}

macro_rules! with_all {
    ($($behaviour:path, $name:ident)*) => {
        mod nginx {
            $(#[test] #[ignore = "needs nginx: scripts/test-proxies"]
            fn $name() { $behaviour(super::Web::Nginx) })*
        }
        mod apache {
            $(#[test] #[ignore = "needs apache2: scripts/test-proxies"]
            fn $name() { $behaviour(super::Web::Apache) })*
        }
        mod haproxy {
            $(#[test] #[ignore = "needs haproxy: scripts/test-proxies"]
            fn $name() { $behaviour(super::Web::Haproxy) })*
        }
    };
}

with_all! {
    super::the_largest_file_goes_up_and_comes_down, the_largest_file_goes_up_and_comes_down
    super::an_onion_request_is_answered, an_onion_request_is_answered
    super::what_is_too_large_is_refused, what_is_too_large_is_refused
    super::uploads_arrive_however_their_length_is_told, uploads_arrive_however_their_length_is_told
    super::a_restart_under_load_fails_no_request, a_restart_under_load_fails_no_request
    super::a_server_that_comes_back_is_asked_at_once, a_server_that_comes_back_is_asked_at_once
    super::one_of_two_servers_that_is_down_costs_no_request, one_of_two_servers_that_is_down_costs_no_request
    super::hostile::requests_cost_no_other_a_thing, hostile_requests_cost_no_other_a_thing
    super::privacy::no_log_tells_who_fetched_what, no_log_tells_who_fetched_what
}
