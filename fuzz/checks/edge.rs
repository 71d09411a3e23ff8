//! The HTTP server as a whole, over a socket: whatever a client sends, the process survives, and an
//! ordinary client is answered.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use session_file_server::config::{Config, Listen};
use session_file_server::machine::Limits;
use session_file_server::protocol::http::{BodyRule, Method, Response};
use session_file_server::server::{self, Listener, Outcome, Service, Turn, Work, Workers};
use session_file_server::stop::Stop;

/// The largest body that the test's service accepts, bytes.
const MAX_BODY: usize = 100_000;

struct Echo;

impl Service for Echo {
    type Worker = ();
    type Waiting = std::convert::Infallible;

    fn worker(&self) {}

    fn body_rule(&self, method: Method, _: &str) -> BodyRule {
        match method {
            Method::Post => BodyRule::Required(MAX_BODY),
            _ => BodyRule::AtMost(1024),
        }
    }

    fn alive(&self) {}

    fn answer(&self, work: Work<Self::Waiting>, _: Turn<()>) -> Outcome<Echo> {
        let incoming = match work {
            Work::New(incoming) => incoming,
            Work::Waiting(never) => match never {},
        };
        assert!(incoming.body.len() <= MAX_BODY);
        Ok(Response::text(200, &incoming.target))
    }
}

fn address() -> &'static str {
    static ADDRESS: OnceLock<String> = OnceLock::new();
    ADDRESS.get_or_init(|| {
        let config = Config {
            listen: vec![Listen::Tcp("127.0.0.1:0".into())],
            ..Config::default()
        };
        let listeners = Listener::open_all(&config, None).expect("a free port");
        let address = listeners[0].address().to_string();
        let hour = Duration::from_secs(3600);
        let memory = config.shares(&Limits::default());
        std::thread::spawn(move || {
            let (service, stop) = (Arc::new(Echo), Stop::default());
            let workers = Workers { all: 2, writing: 1 };
            let ended = server::run(listeners, None, workers, &memory, hour, service, &stop);
            panic!("the server ended: {ended:?}");
        });
        address
    })
}

/// Whether the input may occupy a thread of tiny_http for ever. The server restarts itself after
/// some hundreds of those, which is intended but would end the test. Such inputs have long lengths,
/// or another version of HTTP.
fn may_be_kept(input: &[u8]) -> bool {
    let mut digits = 0;
    let is_long = input.iter().any(|byte| {
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        digits > 7
    });
    is_long
        || input
            .windows(7)
            .any(|word| word == b"HTTP/2." || word == b"HTTP/3.")
}

fn ask(bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address()).expect("it listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("settable");
    let mut answer = Vec::new();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// Panics if the target does what it must not do with `input`.
pub fn check(input: &[u8]) {
    if may_be_kept(input) {
        return;
    }
    let answer = ask(input);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/"));
    let answer = ask(b"GET /ordinary HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.ends_with(b"\r\n\r\n/ordinary"), "{answer:?}");
}
