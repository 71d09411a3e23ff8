//! The accepted connections of this process, whoever holds them.
//!
//! **Fault.** tiny_http shows no descriptor of a connection, so that nobody but its own threads
//! can shut one down.
//!
//! **Where.** `request.rs`: a `Request` has the client's address and no more.
//!
//! **Seen** in its source.
//!
//! **Until** a request shows its connection, and tiny_http tells of those without a request.
//!
//! The system's list of our descriptors has them, and [`super::duplicates`] make them ours.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::SocketAddr as UnixAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use rustix::io::{Errno, ioctl_fionread};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{SockAddr, SockRef};

use super::duplicates::Duplicator;
use crate::descriptors::AT_ONCE;
use crate::lock::lock;
use crate::server::address::Address;
use crate::server::arrival::Client;

/// Spare descriptors, for looking at the connections when no others are left. They are freed one
/// at a time: tiny_http needs two for a connection, so it can't take the one that we freed.
const RESERVE: usize = 4;

/// The TCP connections to our ports.
#[derive(Debug, Default)]
pub struct TcpSockets {
    /// The clients of those that are open; of each whether bytes have arrived that nobody has
    /// read.
    pub open: HashMap<Client, bool>,
    /// How many have ended, but were not closed.
    pub ended: usize,
}

/// The connections to our addresses.
pub struct Sockets {
    addresses: Vec<Address>,
    /// `None` where the system shows us no descriptors: see [`Sockets::open`].
    duplicator: Option<Duplicator>,
    /// The spare descriptors.
    reserve: Mutex<Vec<File>>,
    /// Whether the reserve could not be filled up after the last look.
    is_lacking: AtomicBool,
}

impl Sockets {
    /// The connections to `addresses`. Where they can't be looked at, a warning is logged that
    /// names the remedy.
    pub fn open(addresses: &[Address]) -> Sockets {
        let usable = Duplicator::new().and_then(|duplicator| {
            let one = numbers()?.first().copied().unwrap_or_default();
            duplicator.duplicate(one)?;
            Ok(duplicator)
        });
        let duplicator = usable.inspect_err(|error| {
            log::warn!(
                "slow and silent clients can't be told from others ({error}), and have a minute \
                 for each step; mount /proc where the server runs, or let clients come through a \
                 web server alone"
            );
        });
        let sockets = Sockets {
            addresses: addresses.to_vec(),
            duplicator: duplicator.ok(),
            reserve: Mutex::default(),
            is_lacking: AtomicBool::new(false),
        };
        sockets.refill();
        sockets
    }

    /// The addresses.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Whether connections can be looked at and shut down.
    pub fn are_visible(&self) -> bool {
        self.duplicator.is_some()
    }

    /// Whether there was a descriptor to spare when last looked at.
    pub fn has_spare_descriptors(&self) -> bool {
        !self.is_lacking.load(Ordering::SeqCst)
    }

    /// Looks at the TCP connections to our ports.
    ///
    /// # Errors
    /// When there is no descriptor to look with.
    pub fn survey(&self) -> io::Result<TcpSockets> {
        let mut sockets = TcpSockets::default();
        self.each_client(|client, socket| match client {
            Some(client) => {
                let unread = ioctl_fionread(&*socket);
                let has_unread = unread.is_ok_and(|bytes| bytes > 0);
                sockets.open.insert(client, has_unread);
            }
            None => sockets.ended += 1,
        })?;
        Ok(sockets)
    }

    /// Calls `visit` for each accepted TCP connection to our ports, with the client unless the
    /// connection has ended.
    ///
    /// # Errors
    /// When there is no descriptor to look with.
    pub fn each_client(&self, mut visit: impl FnMut(Option<Client>, SockRef)) -> io::Result<()> {
        if !self.addresses.iter().any(Address::is_tcp) {
            return Ok(());
        }
        self.each(|_, socket| {
            let local = address_of(socket.local_addr());
            let Some(listener) = local.and_then(|local| self.listener(local)) else {
                return;
            };
            let address = address_of(socket.peer_addr());
            if address.is_some() || socket.is_listener().is_ok_and(|is| !is) {
                visit(address.map(|address| Client { listener, address }), socket);
            }
        })
    }

    /// To which of our addresses a TCP connection leads of which our end is `local`. That has the
    /// concrete address where we listen on all of them.
    fn listener(&self, local: SocketAddr) -> Option<usize> {
        let place = |is_it: &dyn Fn(&SocketAddr) -> bool| {
            let mut addresses = self.addresses.iter();
            addresses.position(|own| matches!(own, Address::Tcp(own) if is_it(own)))
        };
        place(&|own| own.port() == local.port() && own.ip() == local.ip()).or_else(|| {
            place(&|own| own.port() == local.port() && own.is_ipv4() == local.is_ipv4())
        })
    }

    /// Calls `visit` for each accepted connection to our Unix sockets, with its inode, by which
    /// the system knows it for as long as anybody holds it.
    ///
    /// # Errors
    /// When there is no descriptor to look with.
    pub fn each_local_client(&self, mut visit: impl FnMut(u64, SockRef)) -> io::Result<()> {
        if self.addresses.iter().all(Address::is_tcp) {
            return Ok(());
        }
        self.each(|inode, socket| {
            let local = socket.local_addr().ok().and_then(|a| a.as_unix());
            let is_own = |own: &Address| match (own, &local) {
                (Address::Unix(own), Some(local)) => is_same(local, own),
                _ => false,
            };
            if self.addresses.iter().any(is_own) && socket.peer_addr().is_ok() {
                visit(inode, socket);
            }
        })
    }

    /// Calls `visit` with the inode and a duplicate of each of our sockets, once for each socket:
    /// tiny_http has two descriptors of a connection.
    fn each(&self, mut visit: impl FnMut(u64, SockRef)) -> io::Result<()> {
        let Some(duplicator) = &self.duplicator else {
            return Ok(());
        };
        drop(self.lock().pop());
        let mut seen = HashSet::new();
        let mut show = |duplicate: OwnedFd| {
            let file = File::from(duplicate);
            let metadata = file.metadata().ok();
            let metadata = metadata.filter(|metadata| metadata.file_type().is_socket());
            if let Some(inode) = metadata.map(|metadata| metadata.ino()) {
                if seen.insert(inode) {
                    visit(inode, SockRef::from(&file));
                }
            }
        };
        let outcome = numbers().and_then(|numbers| {
            let mut chunks = numbers.chunks(AT_ONCE);
            chunks.try_for_each(|chunk| each_duplicate(duplicator, chunk, &mut show))
        });
        self.refill();
        outcome
    }

    fn refill(&self) {
        let mut reserve = self.lock();
        while reserve.len() < RESERVE {
            match File::open("/dev/null") {
                Ok(file) => reserve.push(file),
                Err(error) => return self.is_lacking.store(is_lack(&error), Ordering::SeqCst),
            }
        }
        self.is_lacking.store(false, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<File>> {
        lock(&self.reserve)
    }
}

/// Our descriptors. The list takes one, which is free again when this returns.
fn numbers() -> io::Result<Vec<i32>> {
    let entries = fs::read_dir("/proc/self/fd")?;
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(entries.flatten().filter_map(number).collect())
}

/// Calls `show` with a duplicate of each descriptor, one at a time if they can't all be had.
fn each_duplicate(
    duplicator: &Duplicator,
    numbers: &[i32],
    show: &mut impl FnMut(OwnedFd),
) -> io::Result<()> {
    if let Some(duplicates) = duplicator.duplicate_all(numbers) {
        duplicates.into_iter().for_each(show);
        return Ok(());
    }
    for number in numbers {
        match duplicator.duplicate(*number) {
            Ok(Some(duplicate)) => show(duplicate),
            Err(error) if is_lack(&error) => return Err(error),
            // It was closed meanwhile, or is nothing that can be sent.
            _ => {}
        }
    }
    Ok(())
}

fn address_of(address: io::Result<SockAddr>) -> Option<SocketAddr> {
    address.ok()?.as_socket()
}

/// Whether an error says that the process, or the system, has no descriptor to spare.
fn is_lack(error: &io::Error) -> bool {
    let error = Errno::from_io_error(error);
    matches!(error, Some(Errno::MFILE | Errno::NFILE))
}

/// Whether two addresses are the same and have a name: the clients' ends of all connections
/// have none, our own to the database among them.
fn is_same(one: &UnixAddr, other: &UnixAddr) -> bool {
    let path = one.as_pathname();
    let name = one.as_abstract_name();
    path.is_some() && path == other.as_pathname()
        || name.is_some() && name == other.as_abstract_name()
}

/// Lets the process have as many descriptors as it may; their number.
pub fn raise_descriptor_limit() -> u64 {
    let maximum = getrlimit(Resource::Nofile).maximum;
    set_descriptor_limit(maximum).unwrap_or(u64::MAX)
}

/// Lets the process have so many descriptors and no more, until it asks for more; their
/// number, or what it was if the system refuses. `None` is no limit.
pub fn set_descriptor_limit(wanted: Option<u64>) -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let changed = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: wanted,
            maximum: limit.maximum,
        },
    );
    if changed.is_ok() {
        wanted
    } else {
        limit.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_look_at_the_connections_is_no_lack_of_descriptors() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).expect("it listens");
        let (_accepted, _) = listener.accept().expect("it came");
        let sockets = Sockets::open(&[Address::Tcp(address)]);
        let mut looked_at = Vec::new();
        let looked = sockets.each_client(|client, _| {
            assert!(sockets.has_spare_descriptors());
            looked_at.extend(client);
        });
        assert!(looked.is_ok());
        assert_eq!(looked_at.len(), 1);
        let seen = looked_at.first().map(|client| client.address);
        assert_eq!(seen, client.local_addr().ok());
    }

    #[test]
    fn of_a_unix_socket_s_connections_only_the_accepted_ends_are_ours() {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("sock")).expect("a socket");
        let other = UnixListener::bind(folder.path().join("other")).expect("a socket");
        let (address, elsewhere) = (listener.local_addr(), other.local_addr());
        let (address, elsewhere) = (address.expect("one"), elsewhere.expect("one"));
        let clients = [&address, &elsewhere].map(UnixStream::connect_addr);
        let accepted = [listener.accept(), other.accept()];
        let sockets = Sockets::open(&[Address::Unix(address)]);
        let mut seen = Vec::new();
        let looked = sockets.each_local_client(|inode, _| seen.push(inode));
        assert!(looked.is_ok() && seen.len() == 1, "{seen:?}");
        drop((clients, accepted));
    }
}
