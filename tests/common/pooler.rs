//! A connection pooler, such as many installations have between the server and its database: it
//! hands bytes on, and may end a connection that is idle.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Hands connections on to a cluster.
pub struct Pooler {
    folder: tempfile::TempDir,
    clients: Arc<Mutex<Vec<UnixStream>>>,
    freezing: Arc<Freezing>,
}

/// Whether the pooler hands bytes on.
#[derive(Default)]
struct Freezing {
    /// Whether it freezes at the next statement.
    is_near: AtomicBool,
    is_on: AtomicBool,
}

impl Freezing {
    /// Waits while nothing is handed on.
    fn hold(&self, is_statement: bool) {
        if is_statement && self.is_near.swap(false, Ordering::SeqCst) {
            self.is_on.store(true, Ordering::SeqCst);
        }
        while self.is_on.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Pooler {
    /// Starts a pooler in front of the cluster whose socket is in the folder `host`. Its threads
    /// end with the test program.
    pub fn start(host: &Path) -> Pooler {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).expect("a socket");
        let clients = Arc::<Mutex<Vec<UnixStream>>>::default();
        let (known, host) = (clients.clone(), host.join(".s.PGSQL.5432"));
        let freezing = Arc::<Freezing>::default();
        let frozen = freezing.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let database = UnixStream::connect(&host).expect("the cluster runs");
                let clone = |stream: &UnixStream| stream.try_clone().expect("a descriptor");
                known.lock().expect("no panic").push(clone(&client));
                hand_on(clone(&client), clone(&database), frozen.clone());
                hand_on(database, client, frozen.clone());
            }
        });
        Pooler {
            folder,
            clients,
            freezing,
        }
    }

    /// Hands nothing on from the next statement on, so that a new connection is greeted before.
    pub fn freeze_at_next_statement(&self) {
        self.freezing.is_near.store(true, Ordering::SeqCst);
    }

    /// Whether nothing is handed on.
    pub fn is_frozen(&self) -> bool {
        self.freezing.is_on.load(Ordering::SeqCst)
    }

    /// Hands everything on again.
    pub fn thaw(&self) {
        self.freezing.is_on.store(false, Ordering::SeqCst);
    }

    /// What `database.url` is for a database behind it.
    pub fn url(&self, name: &str) -> String {
        let folder = self.folder.path().display();
        format!("host={folder} user=tester dbname={name}")
    }

    /// Ends all connections: with an error of `severity` and `code`, or without one if `code` is
    /// empty.
    pub fn end_connections(&self, severity: &str, code: &str) {
        for mut client in self.clients.lock().expect("no panic").drain(..) {
            if !code.is_empty() {
                // The message of an error: fields, each with its letter and a zero.
                let fields = format!("S{severity}\0V{severity}\0C{code}\0Mended\0\0");
                let length = (fields.len() as u32 + 4).to_be_bytes();
                // Clients that are gone already need not be told.
                let _ = client.write_all(&[b"E", &length[..], fields.as_bytes()].concat());
            }
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

fn hand_on(mut from: UnixStream, mut to: UnixStream, freezing: Arc<Freezing>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match from.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    // Statements begin with a letter, and the request to connect with its length.
                    freezing.hold(matches!(buffer[0], b'Q' | b'P'));
                    if to.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
