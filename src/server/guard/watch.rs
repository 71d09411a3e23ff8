//! The thread that surveys the connections, shuts down those that are overdue, and restarts the
//! server when too many can't be ended. What it decides by is in the pure files
//! [`super::connections`], [`super::local`], [`super::memory`] and [`super::stuck`]; here is the
//! I/O around them.

use std::collections::HashSet;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::Guard;
use super::connections::Survey;
use super::local::Circumstances;
use super::memory::{Held, Memory, resident};
use super::stuck::Stuck;
use crate::lock::lock;
use crate::server::pace::{STANDSTILL, WRITE_TIMEOUT};
use crate::server::refusals::Closing;
use crate::stop::Stop;

/// How often the connections are surveyed.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the connections are surveyed while there are many of them, and how often the memory
/// is looked at.
const SHORT_PAUSE: Duration = Duration::from_millis(50);
/// How often a quiet moment is looked for while a restart is wanted.
const RESTART_TICK: Duration = Duration::from_millis(10);
/// Between two surveys passes so many times what the first one took, so that surveys never take
/// more than this share of a core, however many connections there are.
const SHARE: u32 = 10;

/// What a survey has found.
#[derive(Default)]
struct Seen {
    /// Whether the connections are more than half of what is allowed.
    is_crowded: bool,
    /// Connections that have ended, but were not closed.
    ended: usize,
}

/// Starts the thread, which ends when `stop` is requested; `held` tells how much memory is held for
/// a reason.
///
/// # Errors
/// When the system has no thread to spare.
pub fn start(
    guard: &Arc<Guard>,
    stop: &Stop,
    held: impl Fn() -> Held + Send + 'static,
) -> io::Result<()> {
    let (guard, stop) = (guard.clone(), stop.clone());
    let run = move || {
        let mut next = Instant::now();
        let mut memory = Memory::new(resident(), next);
        let mut stuck = Stuck::new(next);
        while !stop.is_requested() {
            let now = Instant::now();
            let memory_is_short = memory.is_short(resident(), held(), now);
            if memory_is_short || now >= next || guard.is_urgent() {
                let seen = guard.survey(memory_is_short).unwrap_or_else(|error| {
                    log::debug!("connections can't be looked at: {error}");
                    Seen::default()
                });
                let hurry = seen.is_crowded || !guard.has_descriptors();
                let pause = if hurry { SHORT_PAUSE } else { PAUSE };
                next = now + pause.max(now.elapsed() * SHARE);
                stuck.ended(seen.ended, now);
            }
            let given_up = guard.given_up.load(Ordering::SeqCst);
            stuck.given_up(given_up, now);
            if stuck.is_restart_due(guard.in_flight(), given_up, now) {
                guard.restarts.store(true, Ordering::SeqCst);
                return stop.request();
            }
            guard.wait(if stuck.is_restart_wanted() {
                RESTART_TICK
            } else {
                SHORT_PAUSE
            });
        }
    };
    thread::Builder::new().name("guard".into()).spawn(run)?;
    Ok(())
}

impl Guard {
    fn is_urgent(&self) -> bool {
        self.ran_out.load(Ordering::SeqCst) || lock(&self.connections).is_urgent()
    }

    fn wait(&self, time: Duration) {
        let waited = self.urgent.wait_timeout(lock(&self.connections), time);
        drop(waited);
    }

    /// Looks at all connections and shuts down the overdue.
    fn survey(&self, memory_is_short: bool) -> io::Result<Seen> {
        let ran_out = self.ran_out.swap(false, Ordering::SeqCst);
        let is_lacking = ran_out || !self.has_descriptors();
        let tcp = self.survey_tcp(memory_is_short, is_lacking)?;
        let local = self.survey_local(memory_is_short, is_lacking)?;
        Ok(Seen {
            is_crowded: tcp.is_crowded || local.is_crowded,
            ended: tcp.ended,
        })
    }

    fn survey_tcp(&self, memory_is_short: bool, is_lacking: bool) -> io::Result<Seen> {
        let began = Instant::now();
        let seen = self.sockets.survey()?;
        let survey = Survey {
            open: &seen.open,
            began,
            memory_is_short,
            is_lacking,
        };
        let findings = lock(&self.connections).surveyed(&survey, Instant::now());
        drop(findings.abandoned);
        for cause in findings.causes {
            self.refusals.closed(cause, 1);
        }
        let overdue = findings.overdue;
        if !overdue.is_empty() {
            log::debug!("overdue, and disconnected: {} clients", overdue.len());
            self.sockets.each_client(|client, socket| {
                if client.is_some_and(|client| overdue.contains(&client)) {
                    // Whoever holds it is woken, and when it is closed the client is told that
                    // what it still sends goes nowhere.
                    let _ = socket.set_linger(Some(Duration::ZERO));
                    let _ = socket.shutdown(Shutdown::Both);
                }
            })?;
        }
        Ok(Seen {
            is_crowded: seen.open.len() > self.max_connections / 2,
            ended: seen.ended,
        })
    }

    /// The same over a Unix socket, where only the reading half of the overdue is shut: who has
    /// sent a request is answered all the same.
    fn survey_local(&self, memory_is_short: bool, is_lacking: bool) -> io::Result<Seen> {
        let mut open = HashSet::new();
        self.sockets.each_local_client(|inode, socket| {
            open.insert(inode);
            // Not inherited from the listening socket, as those of TCP are.
            if socket.read_timeout().is_ok_and(|set| set.is_none()) {
                let _ = socket.set_read_timeout(Some(STANDSTILL));
                let _ = socket.set_write_timeout(Some(WRITE_TIMEOUT));
            }
        })?;
        let circumstances = Circumstances {
            limit: if is_lacking {
                self.max_connections.min(open.len()) / 2
            } else {
                self.max_connections
            },
            memory_is_short,
            requests: self.local_in_flight.load(Ordering::SeqCst),
        };
        let overdue = lock(&self.local).surveyed(&open, circumstances, Instant::now());
        let excess = open.len().saturating_sub(circumstances.limit);
        let excess = excess.min(overdue.len());
        self.refusals.closed(Closing::TooMany, excess);
        // Those whose requests are worked on are answered all the same.
        let slow = (overdue.len() - excess).saturating_sub(circumstances.requests);
        self.refusals.closed(Closing::SlowHead, slow);
        if !overdue.is_empty() {
            self.sockets.each_local_client(|inode, socket| {
                if overdue.contains(&inode) {
                    let _ = socket.shutdown(Shutdown::Read);
                }
            })?;
        }
        Ok(Seen {
            is_crowded: open.len() > self.max_connections / 2,
            ended: 0,
        })
    }
}
