//! Deadlines and bounds for clients, all in one place.
//!
//! tiny_http knows neither: a client that says nothing, or a byte a minute, holds its
//! thread for ever, and a head may have any size. So the guard keeps a list of the
//! connections to our TCP port and of what each is waited for, and shuts down those that
//! are overdue, whoever holds them: [`Sockets`] shows duplicates of their descriptors, which
//! are known by their client's address. A thread that waits for such a client is woken by the
//! end of its connection and goes on.
//!
//! At the other end of a Unix socket stands a web server that has deadlines of its own, and
//! connections have no addresses there: [`LocalConnections`] has the rules for those.
//!
//! Where the system shows us no descriptors at all, what bounds a connection is a time-out on
//! each of its reads ([`super::listener`]), and what bounds their number is the limit of
//! descriptors, which is lowered for that.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::{io, thread};

use super::address::Address;
use super::local::{Circumstances, LocalConnections};
use super::memory::Memory;
use super::pace::{HEAD, Progress, STANDSTILL, WRITE_TIMEOUT};
use super::sockets::{self, Sockets};
use crate::lock::lock;
use crate::stop::Stop;

/// The head of a further request must have come this long after the last answer.
const IDLE: Duration = Duration::from_secs(60);
/// A refused client is listened to for this long,
const LINGER: Duration = Duration::from_secs(10);
/// and has this long to read its answer when it sends no more.
const FAREWELL: Duration = Duration::from_secs(1);
/// Connections that may be open at once, if the system lets us have that many descriptors.
const MAX_CONNECTIONS: usize = 1024;
/// Descriptors that each takes: tiny_http's two halves, and ours while it is shut down.
const DESCRIPTORS: usize = 3;
/// Descriptors for everything else.
const OTHER_DESCRIPTORS: usize = 64;
/// Requests that a connection may send ahead of its answers.
const MAX_AHEAD: usize = 16;

/// Connections that have ended and still have descriptors: with more of them,
const MAX_DEAD: usize = 256;
/// for longer than this, they are held by nobody who will let them go.
const STUCK: Duration = Duration::from_secs(3);

/// What a client has sent is read within this time, if there is a thread for it.
const FORGOTTEN: Duration = Duration::from_secs(2);
/// A connection that was shut down is closed by its thread within this time, if it has one.
const LEAVING: Duration = Duration::from_millis(500);

/// How often the connections are looked at,
const PAUSE: Duration = Duration::from_secs(1);
/// while there are too many of them, and how often memory is looked at.
const SHORT_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks passes so many times what the first one took, so that looking never takes
/// more than this share of a core, however many connections there are.
const SHARE: u32 = 10;
/// While memory is short, a connection that had an answer has this long for its next head.
const SHORT_IDLE: Duration = Duration::from_secs(1);

/// The connections to us.
pub struct Guard {
    sockets: Sockets,
    connections: Mutex<HashMap<SocketAddr, Connection>>,
    /// Those to our Unix socket, if we listen on one,
    local: Mutex<LocalConnections>,
    /// and the bodies that are being received over them.
    local_bodies: AtomicUsize,
    /// How many of those connections were shut.
    local_cuts: AtomicUsize,
    urgent: Condvar,
    /// Connections that were given up: their readers can't be dropped.
    given_up: AtomicUsize,
    /// Whether a descriptor or a thread was lacking since the last look.
    ran_out: AtomicBool,
    /// How many connections were seen, and requests whose connection is not known.
    arrivals: AtomicUsize,
    max_connections: usize,
}

struct Connection {
    phase: Phase,
    /// Requests that were sent before earlier ones were answered.
    ahead: VecDeque<tiny_http::Request>,
    /// To be shut down, whatever it does.
    condemned: bool,
    /// When anything was last noted of it.
    noted: Instant,
    /// When it was last shut down, if nothing was noted since.
    shut: Option<Instant>,
    /// Since when there is something that nobody has read.
    unread: Option<Instant>,
}

/// What a connection is waited for.
enum Phase {
    /// A head.
    Head { since: Instant, limit: Duration },
    /// Nothing: it is our turn.
    Ours,
    /// A body.
    Body(Arc<Progress>),
    /// The end of what it sends, although it was refused.
    Refused { since: Instant, limit: Duration },
}

impl Phase {
    fn is_overdue(&self, now: Instant) -> bool {
        match self {
            Phase::Head { since, limit } => now > *since + *limit,
            Phase::Ours => false,
            Phase::Body(progress) => progress.is_too_slow(now),
            Phase::Refused { since, limit } => now > *since + *limit,
        }
    }
}

impl Guard {
    /// For the connections to `address`.
    pub fn new(address: Address) -> Guard {
        let descriptors = sockets::raise_descriptor_limit();
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let affordable = descriptors.saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS;
        let sockets = Sockets::open(address);
        if !sockets.are_visible() {
            // Nothing but the system bounds their number then.
            let enough = DESCRIPTORS * MAX_CONNECTIONS.min(affordable) + OTHER_DESCRIPTORS;
            sockets::set_descriptor_limit(Some(enough as u64));
        }
        Guard {
            sockets,
            connections: Mutex::default(),
            local: Mutex::default(),
            local_bodies: AtomicUsize::new(0),
            local_cuts: AtomicUsize::new(0),
            urgent: Condvar::new(),
            given_up: AtomicUsize::new(0),
            ran_out: AtomicBool::new(false),
            arrivals: AtomicUsize::new(0),
            max_connections: affordable.clamp(1, MAX_CONNECTIONS),
        }
    }

    /// Notes a request whose head has come. While an earlier one of its connection is not
    /// answered it is kept here: who works on it would have to wait for the other's client.
    pub fn admit(&self, request: tiny_http::Request) -> Option<tiny_http::Request> {
        let Some(client) = request.remote_addr().copied() else {
            self.arrivals.fetch_add(1, Ordering::Relaxed);
            return Some(request);
        };
        let mut connections = self.lock();
        let connection = connections.entry(client).or_insert_with(|| self.arrive());
        if matches!(connection.phase, Phase::Head { .. }) {
            connection.set(Phase::Ours);
            return Some(request);
        }
        connection.ahead.push_back(request);
        if connection.ahead.len() > MAX_AHEAD {
            connection.condemned = true;
            self.urgent.notify_all();
        }
        None
    }

    /// Notes that a client's body is waited for.
    pub fn receives(&self, client: Option<SocketAddr>, progress: &Arc<Progress>) {
        if client.is_none() {
            self.local_bodies.fetch_add(1, Ordering::SeqCst);
        }
        self.set(client, Phase::Body(progress.clone()));
    }

    /// Notes that a body has come, and it is our turn.
    pub fn received(&self, client: Option<SocketAddr>) {
        if client.is_none() {
            self.local_bodies.fetch_sub(1, Ordering::SeqCst);
        }
        self.set(client, Phase::Ours);
    }

    /// How many connections to our Unix socket were shut: what ended while this has changed may
    /// have been ended by us.
    pub fn local_cuts(&self) -> usize {
        self.local_cuts.load(Ordering::SeqCst)
    }

    /// Notes that a client was refused, and is listened to until it stops sending.
    pub fn refused(&self, client: Option<SocketAddr>) {
        self.refuse_for(client, LINGER);
    }

    /// Notes that a refused client has stopped sending.
    pub fn dismissed(&self, client: Option<SocketAddr>) {
        self.refuse_for(client, FAREWELL);
    }

    /// Notes that a refused client's connection has broken: its address may be another
    /// connection's at once.
    pub fn forget(&self, client: Option<SocketAddr>) {
        let forgotten = client.and_then(|client| self.lock().remove(&client));
        // Outside the lock: requests that were sent ahead are answered when they are dropped.
        drop(forgotten);
    }

    fn refuse_for(&self, client: Option<SocketAddr>, limit: Duration) {
        let since = Instant::now();
        self.set(client, Phase::Refused { since, limit });
    }

    /// Notes that a request was answered; the next one of its connection, if it was sent
    /// already.
    pub fn answered(&self, client: Option<SocketAddr>) -> Option<tiny_http::Request> {
        let mut connections = self.lock();
        let connection = connections.get_mut(&client?)?;
        let next = connection.ahead.pop_front();
        connection.set(match next {
            Some(_) => Phase::Ours,
            None => Phase::Head {
                since: Instant::now(),
                limit: IDLE,
            },
        });
        next
    }

    /// Shuts a connection down soon.
    pub fn disconnect(&self, client: Option<SocketAddr>) {
        let Some(client) = client else { return };
        if let Some(connection) = self.lock().get_mut(&client) {
            connection.condemned = true;
            self.urgent.notify_all();
        }
    }

    /// Disconnects a client whose request can't be dropped, and says how many of those
    /// there have been.
    pub fn give_up(&self, client: Option<SocketAddr>) -> usize {
        self.disconnect(client);
        self.given_up.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// How many connections were given up.
    pub fn given_up(&self) -> usize {
        self.given_up.load(Ordering::SeqCst)
    }

    /// Notes that there was no descriptor or no thread left for a connection: more than usual
    /// are shut down.
    pub fn ran_out(&self) {
        self.ran_out.store(true, Ordering::SeqCst);
        self.urgent.notify_all();
    }

    fn arrive(&self) -> Connection {
        self.arrivals.fetch_add(1, Ordering::Relaxed);
        Connection::new()
    }

    /// How many connections were seen; behind a Unix socket, how many requests: which of them
    /// share a connection is not known there.
    pub fn arrivals(&self) -> usize {
        self.arrivals.load(Ordering::Relaxed)
    }

    /// Whether there are descriptors for more connections, as far as is known.
    pub fn has_descriptors(&self) -> bool {
        self.sockets.has_spare_descriptors()
    }

    fn set(&self, client: Option<SocketAddr>, phase: Phase) {
        let Some(client) = client else { return };
        if let Some(connection) = self.lock().get_mut(&client) {
            connection.set(phase);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Connection>> {
        lock(&self.connections)
    }
}

impl Connection {
    fn new() -> Connection {
        Connection {
            phase: Phase::Head {
                since: Instant::now(),
                limit: HEAD,
            },
            ahead: VecDeque::new(),
            condemned: false,
            noted: Instant::now(),
            shut: None,
            unread: None,
        }
    }

    fn set(&mut self, phase: Phase) {
        self.phase = phase;
        self.noted = Instant::now();
        self.shut = None;
        self.unread = None;
    }

    /// Whether somebody works on its request.
    fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Ours | Phase::Body(_))
    }

    /// Whether its head has come, or a part of it, and is read by nobody: when tiny_http's
    /// accepting thread ends, connections may be left for a thread that is not there (see
    /// [`super::nudge`]), until another one ends. Its client had better try again.
    fn is_forgotten(&self, now: Instant) -> bool {
        let is_unread = self.unread.is_some_and(|since| now > since + FORGOTTEN);
        is_unread && matches!(self.phase, Phase::Head { .. })
    }

    /// Whether it was shut down, and its thread may not have noticed yet. One that is forgotten
    /// keeps its descriptors.
    fn is_leaving(&self, now: Instant) -> bool {
        self.shut.is_some_and(|shut| now < shut + LEAVING)
    }

    /// Whether its head is waited for, and since when.
    fn idle_since(&self) -> Option<Instant> {
        match self.phase {
            Phase::Head { since, .. } => Some(since),
            _ => None,
        }
    }

    /// Whether it is among those that send a head without end, if somebody does.
    fn may_flood(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Head { since, limit } if limit == HEAD => now > since + SHORT_PAUSE,
            Phase::Head { since, .. } => now > since + SHORT_IDLE,
            _ => false,
        }
    }
}

/// What is being worked on.
#[derive(Clone, Copy, Debug)]
pub struct InFlight {
    /// Requests that are not answered yet.
    pub requests: usize,
    /// Bytes of bodies and answers, which are in memory for a reason.
    pub bytes: usize,
}

/// Starts the thread that keeps the deadlines; `in_flight` tells what is being worked on.
///
/// `stuck` is called when too many connections can't be ended. tiny_http waits for itself
/// when a request line says `HTTP/2.0` or `HTTP/3.0`: it writes its answer while the request
/// that must be answered before is still in its hands (`client.rs`, `next`). Its thread and
/// its two descriptors are lost then, for as long as the process lives.
pub fn start(
    guard: Arc<Guard>,
    in_flight: impl Fn() -> InFlight + Send + 'static,
    stuck: impl Fn(usize) + Send + 'static,
    stop: Stop,
) -> io::Result<()> {
    thread::Builder::new().name("guard".into()).spawn(move || {
        let mut memory = Memory::new();
        let mut next = Instant::now();
        let mut few_were_stuck = Instant::now();
        while !stop.is_requested() {
            let now = Instant::now();
            let in_flight = in_flight();
            let short = memory.is_short(in_flight.bytes as u64, now);
            if short || now >= next || guard.is_urgent() {
                let seen = guard
                    .look(short, in_flight.requests)
                    .unwrap_or_else(|error| {
                        log::debug!("connections can't be looked at: {error}");
                        Seen::NOTHING
                    });
                let hurry = seen.crowded || !guard.has_descriptors();
                let pause = if hurry { SHORT_PAUSE } else { PAUSE };
                next = now + pause.max(now.elapsed() * SHARE);
                if seen.dead < MAX_DEAD {
                    few_were_stuck = now;
                } else if now > few_were_stuck + STUCK {
                    stuck(seen.dead);
                }
            }
            guard.wait();
        }
    })?;
    Ok(())
}

/// What was seen of the connections.
struct Seen {
    /// Almost too many are open.
    crowded: bool,
    /// So many connections have ended, but are held.
    dead: usize,
}

impl Seen {
    const NOTHING: Seen = Seen {
        crowded: false,
        dead: 0,
    };
}

impl Guard {
    fn is_urgent(&self) -> bool {
        self.ran_out.load(Ordering::SeqCst)
            || self.lock().values().any(|connection| connection.condemned)
    }

    fn wait(&self) {
        let waited = self.urgent.wait_timeout(self.lock(), SHORT_PAUSE);
        drop(waited);
    }

    /// Looks at all connections and shuts down the overdue.
    fn look(&self, memory_is_short: bool, requests: usize) -> io::Result<Seen> {
        let began = Instant::now();
        let ran_out = self.ran_out.swap(false, Ordering::SeqCst);
        let lacking = ran_out || !self.has_descriptors();
        if let Address::Unix(_) = self.sockets.address() {
            return self.look_at_local(memory_is_short, lacking, requests);
        }
        let survey = self.sockets.survey()?;
        let open = survey.clients;
        let overdue = self.overdue(&open, began, memory_is_short, lacking);
        if !overdue.is_empty() {
            log::debug!("overdue, and disconnected: {} clients", overdue.len());
            self.sockets.each_client(|client, socket| {
                if overdue.contains(&client) {
                    // Whoever holds it is woken, and when it is closed the client is told that
                    // what it still sends goes nowhere.
                    let _ = socket.set_linger(Some(Duration::ZERO));
                    let _ = socket.shutdown(Shutdown::Both);
                }
            })?;
        }
        Ok(Seen {
            crowded: open.len() > self.max_connections / 2,
            dead: survey.ended,
        })
    }

    /// Brings the list up to date with what was found `open` since a look at them `began`;
    /// those that are to be shut down: also the longest idle ones of too many, and half of the
    /// idle ones while descriptors or threads are `lacking`, because it isn't known for how many
    /// there are enough.
    fn overdue(
        &self,
        open: &HashMap<SocketAddr, bool>,
        began: Instant,
        memory_is_short: bool,
        lacking: bool,
    ) -> HashSet<SocketAddr> {
        let now = Instant::now();
        let mut connections = self.lock();
        // One that was closed while it is our turn is still held by whoever answers it, and
        // one that is new may have been missed.
        let (kept, closed): (HashMap<_, _>, HashMap<_, _>) = std::mem::take(&mut *connections)
            .into_iter()
            .partition(|(client, c)| open.contains_key(client) || c.is_held() || c.noted >= began);
        *connections = kept;
        for (client, is_unread) in open {
            let connection = connections.entry(*client).or_insert_with(|| self.arrive());
            connection.unread = is_unread.then(|| connection.unread.unwrap_or(now));
        }
        let mut overdue = HashSet::new();
        for (client, connection) in connections.iter_mut() {
            let flood = memory_is_short && connection.may_flood(now);
            let overdue_itself = connection.phase.is_overdue(now) || connection.is_forgotten(now);
            if connection.condemned || flood || overdue_itself {
                connection.condemned = false;
                overdue.insert(*client);
            }
        }
        let leaving = connections.values().filter(|c| c.is_leaving(now)).count();
        let idle = by_idleness(&connections);
        let excess = open.len().saturating_sub(self.max_connections + leaving);
        let excess = if lacking {
            excess.max(idle.len() / 2)
        } else {
            excess
        };
        overdue.extend(idle.into_iter().take(excess));
        for client in &overdue {
            if let Some(connection) = connections.get_mut(client) {
                connection.shut = Some(now);
            }
        }
        drop(connections);
        // Requests that were sent ahead are answered when they are dropped.
        drop(closed);
        overdue
    }
}

/// The connections whose heads are waited for, the longest idle ones first.
fn by_idleness(connections: &HashMap<SocketAddr, Connection>) -> Vec<SocketAddr> {
    let mut idle: Vec<_> = connections
        .iter()
        .filter(|(_, connection)| connection.shut.is_none())
        .filter_map(|(client, connection)| Some((connection.idle_since()?, *client)))
        .collect();
    idle.sort_unstable();
    idle.into_iter().map(|(_, client)| client).collect()
}

impl Guard {
    /// Whether a connection is open whose first head may be on its way.
    pub fn expects_a_first_head(&self) -> bool {
        let open = self.sockets.survey().unwrap_or_default().clients;
        let connections = self.lock();
        let is_fresh = |client| match connections.get(client).map(|c| &c.phase) {
            Some(Phase::Head { limit, .. }) => *limit == HEAD,
            Some(_) => false,
            None => true,
        };
        open.keys().any(is_fresh)
    }

    /// Looks at the connections to our Unix socket, and shuts the reading half of the overdue:
    /// who has sent a request is answered all the same.
    fn look_at_local(
        &self,
        memory_is_short: bool,
        lacking: bool,
        requests: usize,
    ) -> io::Result<Seen> {
        let mut open = HashSet::new();
        self.sockets.each_local_client(|inode, socket| {
            open.insert(inode);
            // Not inherited from the listening socket, as those of TCP are.
            if socket.read_timeout().is_ok_and(|set| set.is_none()) {
                let _ = socket.set_read_timeout(Some(STANDSTILL));
                let _ = socket.set_write_timeout(Some(WRITE_TIMEOUT));
            }
        })?;
        let bound = if lacking {
            self.max_connections.min(open.len()) / 2
        } else {
            self.max_connections
        };
        let circumstances = Circumstances {
            bound,
            receives_bodies: self.local_bodies.load(Ordering::SeqCst) > 0,
            memory_is_short,
            requests,
        };
        let mut local = lock(&self.local);
        let overdue = local.overdue(&open, Instant::now(), circumstances);
        drop(local);
        if !overdue.is_empty() {
            // Before it happens: a body that ends by it must not be taken for a whole one.
            self.local_cuts.fetch_add(overdue.len(), Ordering::SeqCst);
            self.sockets.each_local_client(|inode, socket| {
                if overdue.contains(&inode) {
                    let _ = socket.shutdown(Shutdown::Read);
                }
            })?;
        }
        Ok(Seen {
            crowded: open.len() > self.max_connections / 2,
            dead: 0,
        })
    }
}
