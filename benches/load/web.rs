//! nginx in front of the server, with the site file of the package.

use std::process::Child;

use crate::common::{Connection, Server, Setup, Web, eventually, free_port, open_to_all, signal};

pub struct Nginx {
    child: Child,
    pub address: String,
}

impl Nginx {
    /// Starts nginx, which forwards requests to the server's Unix socket.
    pub fn before(server: &Server) -> Nginx {
        // The site finds the server's socket in the folder of the setup.
        let folder = &server.folder;
        open_to_all(folder.path(), "http.sock");
        let port = free_port();
        let child = Web::Nginx.start(&Setup {
            folder: folder.path(),
            sockets: &["http.sock"],
            port,
            other_port: free_port(),
            edit: |example| example,
        });
        let address = format!("127.0.0.1:{port}");
        eventually("nginx listens", || Connection::try_open(&address).is_ok());
        Nginx { child, address }
    }
}

impl Nginx {
    /// The first of its processes.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        signal(self.child.id(), "TERM");
        let _ = self.child.wait();
    }
}
