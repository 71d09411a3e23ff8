//! nginx before the server, with the site of the package.

use std::net::TcpListener;
use std::process::Child;

use crate::common::{Connection, Server, eventually, nginx, signal};

pub struct Nginx {
    folder: tempfile::TempDir,
    child: Child,
    pub address: String,
}

impl Nginx {
    /// It passes on what comes to the server's Unix socket.
    pub fn before(server: &Server) -> Nginx {
        let folder = tempfile::tempdir().expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.expect("a port").port();
        for path in [folder.path(), server.folder.path()] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(path, mode).expect("ours");
        }
        let socket = server.folder.path().join("http.sock");
        let child = nginx(folder.path(), &socket, port);
        let address = format!("127.0.0.1:{port}");
        eventually("nginx listens", || Connection::try_open(&address).is_ok());
        Nginx {
            folder,
            child,
            address,
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        signal(self.child.id(), "TERM");
        let _ = self.child.wait();
        let log = std::fs::read_to_string(self.folder.path().join("error.log"));
        eprint!("{}", log.unwrap_or_default());
    }
}
