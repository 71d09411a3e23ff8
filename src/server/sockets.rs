//! The accepted connections of this process, whoever holds them, found by the system's list
//! of our descriptors; and descriptors that are kept back for looking there when no others are
//! left.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use rustix::io::{Errno, ioctl_fionread};
use rustix::process::{
    PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, getpid, getrlimit, pidfd_getfd, pidfd_open,
    setrlimit,
};
use socket2::SockRef;

use super::address::Address;

/// Descriptors that are kept back.
const RESERVE: usize = 4;

/// The connections to our address.
pub struct Sockets {
    address: Address,
    /// How descriptors are duplicated; `None` where the system doesn't let us.
    ourselves: Option<OwnedFd>,
    /// Never more than one of them is given up at a time: whoever might take it for a
    /// connection needs two, and fails.
    reserve: Mutex<Vec<fs::File>>,
}

impl Sockets {
    /// Those to `address`.
    pub fn new(address: Address) -> Sockets {
        let ourselves = pidfd_open(getpid(), PidfdFlags::empty());
        if let Err(error) = &ourselves {
            log::warn!("slow clients can't be disconnected: {error}");
        }
        let sockets = Sockets {
            address,
            ourselves: ourselves.ok(),
            reserve: Mutex::default(),
        };
        sockets.refill();
        sockets
    }

    /// The address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether no descriptor was lacking lately: those that are kept back are all there.
    pub fn has_reserve(&self) -> bool {
        self.lock().len() == RESERVE
    }

    /// The clients whose connections to our port are open, and of each whether it has sent
    /// something that nobody has read yet.
    ///
    /// # Errors
    /// When there is no descriptor to look with.
    pub fn clients(&self) -> io::Result<HashMap<SocketAddr, bool>> {
        let mut open = HashMap::new();
        self.each_client(|client, socket| {
            let unread = ioctl_fionread(&*socket);
            open.insert(client, unread.is_ok_and(|bytes| bytes > 0));
        })?;
        Ok(open)
    }

    /// Calls `visit` for each accepted connection to our port.
    ///
    /// # Errors
    /// When there is no descriptor to look with.
    pub fn each_client(&self, mut visit: impl FnMut(SocketAddr, SockRef)) -> io::Result<()> {
        let Address::Tcp(own) = &self.address else {
            return Ok(());
        };
        self.each(|socket| {
            let local = socket.local_addr().ok().and_then(|a| a.as_socket());
            let client = socket.peer_addr().ok().and_then(|a| a.as_socket());
            if let (Some(local), Some(client)) = (local, client) {
                if local.port() == own.port() {
                    visit(client, socket);
                }
            }
        })
    }

    /// Descriptors of connections to our port that have ended.
    ///
    /// # Errors
    /// When there is no descriptor to look with.
    pub fn dead(&self) -> io::Result<usize> {
        let Address::Tcp(own) = &self.address else {
            return Ok(0);
        };
        let mut dead = 0;
        self.each(|socket| {
            let local = socket.local_addr().ok().and_then(|a| a.as_socket());
            let is_ours = local.is_some_and(|local| local.port() == own.port());
            if is_ours && socket.peer_addr().is_err() && socket.is_listener().is_ok_and(|is| !is) {
                dead += 1;
            }
        })?;
        Ok(dead)
    }

    /// Calls `visit` with a duplicate of each of our sockets.
    ///
    /// # Errors
    /// When there is no descriptor to look with.
    pub fn each(&self, mut visit: impl FnMut(SockRef)) -> io::Result<()> {
        let Some(ourselves) = &self.ourselves else {
            return Ok(());
        };
        drop(self.lock().pop());
        let outcome = numbers().and_then(|numbers| {
            for number in numbers {
                match pidfd_getfd(ourselves, number, PidfdGetfdFlags::empty()) {
                    Ok(duplicate) => visit(SockRef::from(&duplicate)),
                    Err(error @ (Errno::MFILE | Errno::NFILE)) => return Err(error.into()),
                    // Closed meanwhile.
                    Err(_) => {}
                }
            }
            Ok(())
        });
        self.refill();
        outcome
    }

    fn refill(&self) {
        let mut reserve = self.lock();
        while reserve.len() < RESERVE {
            match fs::File::open("/dev/null") {
                Ok(file) => reserve.push(file),
                Err(_) => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<fs::File>> {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Our descriptors. The list takes one, which is free again when this returns.
fn numbers() -> io::Result<Vec<i32>> {
    let entries = fs::read_dir("/proc/self/fd")?;
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(entries.flatten().filter_map(number).collect())
}

/// Lets the process have as many descriptors as it may; their number.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
    .unwrap_or(u64::MAX)
}
