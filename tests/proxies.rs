//! The examples for nginx and apache, with the real ones in front of the real server.
//!
//! They need nginx and apache2, which other tests don't: `scripts/test-proxies` installs
//! both and runs these.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{
    Connection, Database, Server, bytes, eventually, free_port, is_root, nginx, path_with_sbin,
};
use session_file_server::onion::cipher::FreshNonce;
use session_file_server::onion::client::{Exchange, read_v4_reply, v4_plaintext};

/// The default of `files.max_size`.
const MAX_SIZE: usize = 10_223_616;

#[derive(Clone, Copy, Debug)]
enum Web {
    Nginx,
    Apache,
}

/// A web server before our server, whose socket the test holds as systemd would.
struct Site {
    folder: tempfile::TempDir,
    database: Database,
    listener: UnixListener,
    server: Option<Server>,
    web: Child,
    address: String,
}

impl Site {
    fn start(kind: Web) -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        // The web server's workers are another user's.
        let path = folder.path().join("http.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        for (path, mode) in [(folder.path(), 0o755), (&*path, 0o666)] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("ours");
        }
        let port = free_port();
        let web = match kind {
            Web::Nginx => nginx(folder.path(), &path, port),
            Web::Apache => apache(folder.path(), &path, port),
        };
        let address = format!("127.0.0.1:{port}");
        eventually("the web server listens", || {
            Connection::try_open(&address).is_ok()
        });
        let mut site = Site {
            folder,
            database: Database::new(),
            listener,
            server: None,
            web,
            address,
        };
        site.start_server();
        site
    }

    fn start_server(&mut self) {
        let socket = self.listener.try_clone().expect("a descriptor");
        let server = Server::under_systemd(&self.database, Some(socket.into()), &[]);
        self.server = Some(server.expect("started"));
    }

    fn restart_server(&mut self) {
        let server = self.server.take().expect("it runs");
        server.signal("TERM");
        let (status, log) = server.ended();
        assert_eq!(status.code(), Some(0), "{log}");
        self.start_server();
    }

    fn connect(&self) -> Connection {
        Connection::open(&self.address)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        common::signal(self.web.id(), "TERM");
        let _ = self.web.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("error.log"));
            eprintln!("{}", log.unwrap_or_default());
        }
    }
}

fn apache(folder: &Path, socket: &Path, port: u16) -> Child {
    let site = include_str!("../packaging/apache/session-file-server.conf")
        .replace("*:80", &format!("127.0.0.1:{port}"))
        .replace(common::SOCKET, socket.to_str().expect("UTF-8"));
    assert!(site.contains(&format!(":{port}>")) && !site.contains(common::SOCKET));
    let folder = folder.display();
    let modules = [
        ("mpm_event_module", "mod_mpm_event"),
        ("authz_core_module", "mod_authz_core"),
        ("proxy_module", "mod_proxy"),
        ("proxy_http_module", "mod_proxy_http"),
    ]
    .map(|(name, file)| format!("LoadModule {name} /usr/lib/apache2/modules/{file}.so"))
    .join("\n");
    let user = if is_root() {
        "User www-data\nGroup www-data"
    } else {
        ""
    };
    let config = format!(
        "{modules}\n{user}\nServerRoot {folder}\nServerName localhost\nPidFile {folder}/pid\n\
         DefaultRuntimeDir {folder}\nErrorLog {folder}/error.log\nListen 127.0.0.1:{port}\n{site}\n"
    );
    let path = format!("{folder}/apache.conf");
    std::fs::write(&path, config).expect("writable");
    let mut apache = Command::new("apache2");
    apache.args(["-f", &path, "-D", "FOREGROUND"]);
    apache.env("PATH", path_with_sbin());
    apache.spawn().expect("apache2 is installed")
}

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
    let server = site.server.as_ref().expect("it runs");
    let log = server.log();
    let key = log
        .lines()
        .find_map(|line| line.split("X25519 public key: ").nth(1));
    let mut public = [0; 32];
    hex::decode_to_slice(key.expect("it is logged"), &mut public).expect("hexadecimal");
    let exchange = Exchange::new(&public, Some("xchacha20"), [7; 32]).expect("a key");
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
        Web::Apache => answer.assert_error(413),
    }
}

fn a_restart_under_load_fails_no_request(kind: Web) {
    let mut site = Site::start(kind);
    let file = bytes(4, 300_000);
    let answer = site.connect().request("POST", "/file", &[], &file);
    let path = format!("/file/{}", answer.json()["id"].as_str().expect("an id"));
    let address = site.address.clone();
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    // A test that has failed meanwhile tells nobody to stop.
    let deadline = Instant::now() + Duration::from_secs(120);
    std::thread::scope(|scope| {
        for client in 0..6u64 {
            let (address, file, path) = (&address, &file, &path);
            let (stop, answered) = (&stop, &answered);
            scope.spawn(move || {
                // Kept alive to the web server, as browsers and service nodes do.
                let mut connection = Connection::open(address);
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) || Instant::now() > deadline {
                        return;
                    }
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
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..4 {
            let before = answered.load(Ordering::Relaxed);
            eventually("load", || answered.load(Ordering::Relaxed) > before + 150);
            if round < 3 {
                site.restart_server();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

macro_rules! with_both {
    ($($behaviour:ident)*) => {
        mod nginx {
            $(#[test] #[ignore = "needs nginx: scripts/test-proxies"]
            fn $behaviour() { super::$behaviour(super::Web::Nginx) })*
        }
        mod apache {
            $(#[test] #[ignore = "needs apache2: scripts/test-proxies"]
            fn $behaviour() { super::$behaviour(super::Web::Apache) })*
        }
    };
}

with_both! {
    the_largest_file_goes_up_and_comes_down
    an_onion_request_is_answered
    what_is_too_large_is_refused
    a_restart_under_load_fails_no_request
}
