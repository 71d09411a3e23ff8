//! The tiny_http servers that accept no more connections, but still serve those that they have.
//!
//! tiny_http's accepting thread ends with the first error, so that another server takes its place
//! ([`super::front`]). What its connections go on to ask is taken in by one thread for all that
//! were left so: it exists from the start, because the reason is often that no thread is left.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::listener::Accepting;
use crate::lock::lock;

/// A connection that has been silent for longer than this has been closed ([`super::guard`]).
const SILENCE: Duration = Duration::from_secs(90);
/// How often the servers are asked for requests: so long such a request waits at the most.
const TICK: Duration = Duration::from_millis(5);

/// The servers that accept no more.
#[derive(Default)]
pub struct LeftBehind {
    servers: Mutex<Vec<Left>>,
    added: Condvar,
}

struct Left {
    http: Arc<Accepting>,
    /// When its last request came.
    last: Instant,
}

impl LeftBehind {
    /// Starts the thread, which hands the requests to `admit`.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn start(
        self: &Arc<LeftBehind>,
        admit: impl Fn(tiny_http::Request) + Send + 'static,
    ) -> io::Result<()> {
        let servers = self.clone();
        thread::Builder::new()
            .name("left-behind".into())
            .spawn(move || {
                loop {
                    servers.wait();
                    servers.take_requests().into_iter().for_each(&admit);
                }
            })?;
        Ok(())
    }

    /// Adds a server that was interrupted, or whose accepting thread has ended.
    pub fn add(&self, http: Arc<Accepting>) {
        let last = Instant::now();
        self.lock().push(Left { http, last });
        self.added.notify_one();
    }

    /// Waits for [`TICK`], or for the first server.
    fn wait(&self) {
        let servers = self.lock();
        if servers.is_empty() {
            let waited = self.added.wait_while(servers, |servers| servers.is_empty());
            drop(waited);
        } else {
            drop(servers);
            thread::sleep(TICK);
        }
    }

    /// The requests that have come, and no more of the servers that will have none.
    fn take_requests(&self) -> Vec<tiny_http::Request> {
        let now = Instant::now();
        let mut requests = Vec::new();
        self.lock().retain_mut(|left| {
            // Why it accepts no more may be among what it has to say.
            while let Some(request) = left.http.try_recv().unwrap_or_default() {
                requests.push(request);
                left.last = now;
            }
            now < left.last + SILENCE
        });
        requests
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Left>> {
        lock(&self.servers)
    }
}
