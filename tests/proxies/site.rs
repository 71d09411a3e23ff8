//! A web server before one or two of our servers.

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Child;

use crate::common::{self, Connection, Database, Server, Setup, Web, eventually, free_port};

/// The names of our servers' sockets, in the folder of the site.
const SOCKETS: [&str; 2] = ["first.sock", "second.sock"];

/// The web server, and our servers, whose sockets the test holds as systemd would.
pub struct Site {
    pub folder: tempfile::TempDir,
    database: Database,
    behind: Vec<Behind>,
    web: Child,
    /// Where our site is.
    pub address: String,
    /// Where the site is that isn't ours.
    pub other_address: String,
}

/// One of our servers and its socket. Both are `None` while the server is taken away.
#[derive(Default)]
struct Behind {
    listener: Option<UnixListener>,
    server: Option<Server>,
}

impl Site {
    pub fn start(kind: Web) -> Site {
        Site::with(kind, &SOCKETS[..1], |example| example)
    }

    pub fn with_two_servers(kind: Web) -> Site {
        Site::with(kind, &SOCKETS, |example| example)
    }

    /// With a change of our example.
    pub fn edited(kind: Web, edit: fn(String) -> String) -> Site {
        Site::with(kind, &SOCKETS[..1], edit)
    }

    fn with(kind: Web, sockets: &[&str], edit: fn(String) -> String) -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::new();
        let (port, other_port) = (free_port(), free_port());
        fs::create_dir(folder.path().join("log")).expect("a folder");
        keep_syslog(folder.path());
        let web = kind.start(&Setup {
            folder: folder.path(),
            sockets,
            port,
            other_port,
            edit,
        });
        let mut site = Site {
            folder,
            database,
            behind: sockets.iter().map(|_| Behind::default()).collect(),
            web,
            address: format!("127.0.0.1:{port}"),
            other_address: format!("127.0.0.1:{other_port}"),
        };
        for index in 0..sockets.len() {
            site.bring_server_back(index);
        }
        for address in [&site.address, &site.other_address] {
            eventually("the web server listens", || {
                Connection::try_open(address).is_ok()
            });
        }
        site
    }

    pub fn connect(&self) -> Connection {
        Connection::open(&self.address)
    }

    pub fn server(&self, index: usize) -> &Server {
        self.behind[index].server.as_ref().expect("it runs")
    }

    /// Where a server listens behind the web server.
    pub fn server_address(&self, index: usize) -> String {
        let path = self.folder.path().join(SOCKETS[index]);
        format!("unix:{}", path.display())
    }

    /// Stops a server and closes its socket, whose file may be left.
    pub fn take_server_away(&mut self, index: usize, leave_file: bool) {
        self.stop_server(index);
        self.behind[index].listener = None;
        if !leave_file {
            fs::remove_file(self.folder.path().join(SOCKETS[index])).expect("it was there");
        }
    }

    /// Opens a server's socket, and starts the server.
    pub fn bring_server_back(&mut self, index: usize) {
        let path = self.folder.path().join(SOCKETS[index]);
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a socket");
        // The web server's workers are another user's.
        common::open_to_all(self.folder.path(), SOCKETS[index]);
        self.behind[index].listener = Some(listener);
        self.start_server(index);
    }

    /// Restarts a server, whose socket stays open.
    pub fn restart_server(&mut self, index: usize) {
        self.stop_server(index);
        self.start_server(index);
    }

    fn start_server(&mut self, index: usize) {
        let behind = &mut self.behind[index];
        let listener = behind.listener.as_ref().expect("open");
        let socket = listener.try_clone().expect("a descriptor");
        let server = Server::under_systemd(&self.database, Some(socket.into()), &[]);
        behind.server = Some(server.expect("started"));
    }

    fn stop_server(&mut self, index: usize) {
        let server = self.behind[index].server.take().expect("it runs");
        server.signal("TERM");
        let (status, log) = server.ended();
        assert_eq!(status.code(), Some(0), "{log}");
    }

    /// Stops the web server, which has written all of its logs then.
    pub fn stop_web(&mut self) {
        common::signal(self.web.id(), "TERM");
        let _ = self.web.wait();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop_web();
        if std::thread::panicking() {
            for name in ["error.log", "stderr", "haproxy.log"] {
                let log = fs::read_to_string(self.folder.path().join("log").join(name));
                eprintln!("{name}:\n{}", log.unwrap_or_default());
            }
        }
    }
}

/// Writes what is logged to `dev/log` to a file, as Debian's rsyslog does for haproxy; until
/// the folder is gone.
fn keep_syslog(folder: &Path) {
    fs::create_dir(folder.join("dev")).expect("a folder");
    let socket = UnixDatagram::bind(folder.join("dev/log")).expect("a socket");
    common::open_to_all(folder, "dev/log");
    let path = folder.join("log/haproxy.log");
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut line = [0; 65536];
        while let Ok(length) = socket.recv(&mut line) {
            text.extend_from_slice(&line[..length]);
            text.push(b'\n');
            if fs::write(&path, &text).is_err() {
                return;
            }
        }
    });
}
