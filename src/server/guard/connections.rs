//! The state of every TCP connection, and which of them are overdue.
//!
//! **Fault.** tiny_http has no time-outs and no limits. A client that says nothing, or a byte a
//! minute, holds a thread and two descriptors for ever, and there may be any number of them.
//!
//! **Where.** `client.rs`, `read_next_line` reads byte after byte from a socket without a
//! time-out; `lib.rs`, `from_listener` accepts without counting.
//!
//! **Seen.** `tests/hostile.rs` holds connections that stall at each step of a request.
//!
//! **Until** tiny_http has deadlines for heads and bodies, and a limit of connections.
//!
//! This file is pure. It is told what happens to a connection and what a survey of the sockets
//! has found; the caller gives the time, and shuts down what is overdue. `R` is a request.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::server::arrival::Client;
use crate::server::pace::{HEAD, HEAD_WHILE_SHORT, Progress};
use crate::server::refusals::Closing;

/// The head of a further request must have come this long after the last answer.
const IDLE: Duration = Duration::from_secs(60);
/// A refused client that goes on sending is listened to for this long.
pub const LINGER: Duration = Duration::from_secs(10);
/// A refused client that sends no more has this long to read its answer.
const FAREWELL: Duration = Duration::from_secs(1);
/// Requests that a connection may send ahead of its answers.
const MAX_AHEAD: usize = 16;
/// While memory is short, a further head must have come this long after the last answer.
const IDLE_WHILE_SHORT: Duration = Duration::from_secs(1);
/// While memory is short, a body in chunks or a refused body may stand still for this long: the
/// memory may have gone into the size of a chunk that never ends ([`super::memory`]).
const STILL_WHILE_SHORT: Duration = Duration::from_millis(200);
/// Bytes that have arrived are read within this time, or tiny_http has forgotten the connection
/// ([`super::nudge`]).
const FORGOTTEN: Duration = Duration::from_secs(2);
/// A connection that was shut down is closed by its thread within this time, if it has a thread.
const LEAVING: Duration = Duration::from_millis(500);

/// The TCP connections, by their clients' addresses.
pub struct Connections<R> {
    /// How many may be open.
    limit: usize,
    open: HashMap<Client, Connection<R>>,
    /// Connections so far.
    arrivals: usize,
}

struct Connection<R> {
    phase: Phase,
    /// When the phase began.
    since: Instant,
    /// Requests that came before earlier ones were answered.
    ahead: VecDeque<R>,
    /// Whether it must be shut down, whatever its phase.
    is_condemned: bool,
    /// When it was last shut down, if that was in this phase.
    shut: Option<Instant>,
    /// Since when surveys have found bytes that nobody has read.
    unread: Option<Instant>,
}

/// What a connection is waited for.
pub enum Phase {
    /// The head of its first request.
    FirstHead,
    /// The head of a further request.
    NextHead,
    /// Nothing: it is the server's turn.
    Answer,
    /// The body of a request.
    Body {
        /// Whoever receives the body counts its bytes here.
        progress: Arc<Progress>,
        /// Whether the body comes in chunks.
        in_chunks: bool,
    },
    /// The end of a refused body, of which more may come.
    Refused,
    /// The end of the connection, of which nothing more comes after a refusal.
    Farewell,
}

/// What was seen of the system when the connections were surveyed.
pub struct Survey<'a> {
    /// The open connections; of each whether bytes have arrived that nobody has read.
    pub open: &'a HashMap<Client, bool>,
    /// When the survey began: it may have missed what happened since.
    pub began: Instant,
    /// Whether somebody fills the memory ([`super::memory`]).
    pub memory_is_short: bool,
    /// Whether descriptors or threads for connections are lacking.
    pub is_lacking: bool,
}

/// What follows from a survey.
pub struct Findings<R> {
    /// Connections that must be shut down.
    pub overdue: HashSet<Client>,
    /// Why each of those is shut down that was not shut down before.
    pub causes: Vec<Closing>,
    /// Requests of connections that have ended. tiny_http answers a request that is dropped, so
    /// that this must happen outside of locks.
    pub abandoned: Vec<R>,
}

impl<R> Connections<R> {
    /// No connections, of which `limit` may be open.
    pub fn new(limit: usize) -> Connections<R> {
        Connections {
            limit,
            open: HashMap::new(),
            arrivals: 0,
        }
    }

    /// How many connections there have been.
    pub fn arrivals(&self) -> usize {
        self.arrivals
    }

    /// How many connections are in each phase, with its name.
    pub fn by_phase(&self) -> [(&'static str, usize); 6] {
        let mut phases = [
            "first_head",
            "next_head",
            "answer",
            "body",
            "refused",
            "farewell",
        ]
        .map(|name| (name, 0));
        for connection in self.open.values() {
            let number = match connection.phase {
                Phase::FirstHead => 0,
                Phase::NextHead => 1,
                Phase::Answer => 2,
                Phase::Body { .. } => 3,
                Phase::Refused => 4,
                Phase::Farewell => 5,
            };
            phases[number].1 += 1;
        }
        phases
    }

    /// Notes a request of which the head has come, and gives it back if it is its turn. While an
    /// earlier request of the connection is not answered, it is kept until [`Self::answered`].
    pub fn head_came(&mut self, client: Client, request: R, now: Instant) -> Option<R> {
        let connection = self.connection(client, now);
        if matches!(connection.phase, Phase::FirstHead | Phase::NextHead) {
            connection.enter(Phase::Answer, now);
            return Some(request);
        }
        connection.ahead.push_back(request);
        connection.is_condemned |= connection.ahead.len() > MAX_AHEAD;
        None
    }

    /// Notes that something else is waited for from now on.
    pub fn enter(&mut self, client: Client, phase: Phase, now: Instant) {
        if let Some(connection) = self.open.get_mut(&client) {
            connection.enter(phase, now);
        }
    }

    /// Notes that a request was answered; the next one of its connection, if that has come.
    pub fn answered(&mut self, client: Client, now: Instant) -> Option<R> {
        let connection = self.open.get_mut(&client)?;
        let next = connection.ahead.pop_front();
        let phase = match next {
            Some(_) => Phase::Answer,
            None => Phase::NextHead,
        };
        connection.enter(phase, now);
        next
    }

    /// Has a connection shut down by the next survey.
    pub fn disconnect(&mut self, client: Client) {
        if let Some(connection) = self.open.get_mut(&client) {
            connection.is_condemned = true;
        }
    }

    /// Whether a connection waits for a survey to be shut down.
    pub fn is_condemned(&self, client: Client) -> bool {
        let connection = self.open.get(&client);
        connection.is_some_and(|connection| connection.is_condemned)
    }

    /// Forgets a connection that has broken, because its address may be another's at once. The
    /// requests that it had sent ahead are for dropping, like [`Findings::abandoned`].
    pub fn forget(&mut self, client: Client) -> VecDeque<R> {
        self.open
            .remove(&client)
            .map_or_else(VecDeque::new, |c| c.ahead)
    }

    /// Whether any connection waits for a survey to be shut down.
    pub fn is_urgent(&self) -> bool {
        self.open.values().any(|connection| connection.is_condemned)
    }

    /// Whether the first head of one of the `open` connections may be on its way.
    pub fn expects_a_first_head(&self, open: &HashMap<Client, bool>) -> bool {
        open.keys().any(|client| match self.open.get(client) {
            Some(connection) => matches!(connection.phase, Phase::FirstHead),
            None => true,
        })
    }

    /// Brings the list up to date with a survey, and decides who must be shut down: whoever is
    /// overdue; the longest idle of too many; and half of the idle ones while descriptors or
    /// threads are lacking, because it isn't known for how many there are enough.
    pub fn surveyed(&mut self, survey: &Survey, now: Instant) -> Findings<R> {
        let abandoned = self.remove_ended(survey);
        for (client, has_unread) in survey.open {
            let connection = self.connection(*client, now);
            connection.unread = has_unread.then(|| connection.unread.unwrap_or(now));
        }
        let (mut overdue, mut causes) = (HashSet::new(), Vec::new());
        for (client, connection) in &mut self.open {
            let is_condemned = std::mem::take(&mut connection.is_condemned);
            if is_condemned || connection.is_overdue(survey.memory_is_short, now) {
                overdue.insert(*client);
                if connection.shut.is_none() {
                    causes.push(connection.closing(is_condemned));
                }
            }
        }
        let leaving = self.open.values().filter(|c| c.is_leaving(now)).count();
        let idle = self.longest_idle_first();
        let mut excess = survey.open.len().saturating_sub(self.limit + leaving);
        if survey.is_lacking {
            excess = excess.max(idle.len() / 2);
        }
        for client in idle.into_iter().take(excess) {
            if overdue.insert(client) {
                causes.push(Closing::TooMany);
            }
        }
        for client in &overdue {
            if let Some(connection) = self.open.get_mut(client) {
                connection.shut = Some(now);
            }
        }
        Findings {
            overdue,
            causes,
            abandoned,
        }
    }

    /// Removes the connections that have ended. One whose request is being worked on stays until
    /// that is done, and one that is newer than the survey may have been missed by it.
    fn remove_ended(&mut self, survey: &Survey) -> Vec<R> {
        let mut abandoned = Vec::new();
        self.open.retain(|client, connection| {
            let is_kept = survey.open.contains_key(client)
                || matches!(connection.phase, Phase::Answer | Phase::Body { .. })
                || connection.since >= survey.began;
            if !is_kept {
                abandoned.extend(connection.ahead.drain(..));
            }
            is_kept
        });
        abandoned
    }

    /// The connections whose heads are waited for and that were not shut down yet.
    fn longest_idle_first(&self) -> Vec<Client> {
        let is_idle = |connection: &Connection<R>| {
            connection.is_between_requests() && connection.shut.is_none()
        };
        let idle = self.open.iter().filter(|(_, c)| is_idle(c));
        let mut idle: Vec<_> = idle.map(|(client, c)| (c.since, *client)).collect();
        idle.sort_unstable();
        idle.into_iter().map(|(_, client)| client).collect()
    }

    fn connection(&mut self, client: Client, now: Instant) -> &mut Connection<R> {
        self.open.entry(client).or_insert_with(|| {
            self.arrivals += 1;
            Connection {
                phase: Phase::FirstHead,
                since: now,
                ahead: VecDeque::new(),
                is_condemned: false,
                shut: None,
                unread: None,
            }
        })
    }
}

impl<R> Connection<R> {
    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.since = now;
        self.shut = None;
        self.unread = None;
    }

    fn is_between_requests(&self) -> bool {
        matches!(self.phase, Phase::FirstHead | Phase::NextHead)
    }

    fn is_overdue(&self, memory_is_short: bool, now: Instant) -> bool {
        let (limit, limit_while_short) = match &self.phase {
            Phase::FirstHead => (HEAD, HEAD_WHILE_SHORT),
            Phase::NextHead => (IDLE, IDLE_WHILE_SHORT),
            Phase::Answer => return false,
            Phase::Body {
                progress,
                in_chunks,
            } => {
                let may_flood = memory_is_short && *in_chunks;
                return progress.is_too_slow(now)
                    || may_flood && progress.is_still(STILL_WHILE_SHORT, now);
            }
            Phase::Refused => (LINGER, STILL_WHILE_SHORT),
            Phase::Farewell => (FAREWELL, FAREWELL),
        };
        let limit = if memory_is_short {
            limit_while_short
        } else {
            limit
        };
        now > self.since + limit || self.is_forgotten(now)
    }

    /// Why it is shut down, if it is.
    fn closing(&self, is_condemned: bool) -> Closing {
        match self.phase {
            _ if is_condemned => Closing::Broken,
            Phase::FirstHead => Closing::SlowHead,
            Phase::NextHead => Closing::Idle,
            Phase::Body { .. } => Closing::SlowBody,
            Phase::Refused | Phase::Farewell => Closing::Refused,
            // It is never overdue.
            Phase::Answer => Closing::Broken,
        }
    }

    /// Whether its head, or a part of it, has come and is read by nobody: after tiny_http's
    /// accepting thread has ended, a connection may wait for a thread that doesn't exist, until
    /// another connection ends. Its client should rather try again.
    fn is_forgotten(&self, now: Instant) -> bool {
        self.is_between_requests() && self.unread.is_some_and(|since| now > since + FORGOTTEN)
    }

    /// Whether it was shut down so recently that its thread may not have closed it yet. A
    /// forgotten connection has no thread, and keeps its descriptors.
    fn is_leaving(&self, now: Instant) -> bool {
        self.shut.is_some_and(|shut| now < shut + LEAVING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    fn client(port: u16) -> Client {
        Client {
            listener: 0,
            address: ([192, 0, 2, 1], port).into(),
        }
    }

    /// Connections on a clock that moves when it is told to.
    struct Scene {
        connections: Connections<&'static str>,
        now: Instant,
        /// What a survey sees.
        open: HashMap<Client, bool>,
        memory_is_short: bool,
        is_lacking: bool,
    }

    impl Scene {
        fn new(limit: usize) -> Scene {
            Scene {
                connections: Connections::new(limit),
                now: Instant::now(),
                open: HashMap::new(),
                memory_is_short: false,
                is_lacking: false,
            }
        }

        /// Opens a connection, which a survey sees.
        fn open(&mut self, port: u16) -> Client {
            let client = client(port);
            self.open.insert(client, false);
            self.survey();
            client
        }

        /// Opens a connection, and a head comes.
        fn ask(&mut self, port: u16) -> Client {
            let client = self.open(port);
            assert_eq!(self.head(client, "first"), Some("first"));
            client
        }

        fn head(&mut self, client: Client, request: &'static str) -> Option<&'static str> {
            self.connections.head_came(client, request, self.now)
        }

        fn enter(&mut self, client: Client, phase: Phase) {
            self.connections.enter(client, phase, self.now);
        }

        fn answered(&mut self, client: Client) -> Option<&'static str> {
            self.connections.answered(client, self.now)
        }

        fn body(&mut self, client: Client, in_chunks: bool) -> Arc<Progress> {
            let progress = Arc::new(Progress::start(self.now));
            let body = Phase::Body {
                progress: progress.clone(),
                in_chunks,
            };
            self.enter(client, body);
            progress
        }

        fn find(&mut self) -> Findings<&'static str> {
            let survey = Survey {
                open: &self.open,
                began: self.now,
                memory_is_short: self.memory_is_short,
                is_lacking: self.is_lacking,
            };
            self.connections.surveyed(&survey, self.now)
        }

        /// Who is to be shut down now, in order.
        fn survey(&mut self) -> Vec<Client> {
            let mut overdue: Vec<_> = self.find().overdue.into_iter().collect();
            overdue.sort_unstable();
            overdue
        }

        /// Fails unless nobody is overdue after `limit`, and `client` is a moment later.
        #[track_caller]
        fn assert_limit(&mut self, client: Client, limit: Duration) {
            self.now += limit;
            assert_eq!(self.survey(), [], "too early");
            self.now += TICK;
            assert_eq!(self.survey(), [client], "too late");
        }
    }

    #[test]
    fn the_first_head_must_come_within_ten_seconds() {
        let mut scene = Scene::new(10);
        let client = scene.open(1);
        scene.assert_limit(client, HEAD);
    }

    #[test]
    fn a_further_head_must_come_within_a_minute_of_the_last_answer() {
        let mut scene = Scene::new(10);
        let client = scene.ask(1);
        scene.now += 10 * IDLE;
        assert_eq!(scene.survey(), [], "the answer takes as long as it takes");
        assert_eq!(scene.answered(client), None);
        scene.assert_limit(client, IDLE);
    }

    #[test]
    fn a_body_may_not_stand_still_for_twenty_seconds() {
        let mut scene = Scene::new(10);
        let client = scene.ask(1);
        let progress = scene.body(client, false);
        progress.moved(10_000_000, scene.now);
        scene.now += Duration::from_secs(5);
        progress.moved(1, scene.now);
        scene.assert_limit(client, Duration::from_secs(20));
    }

    #[test]
    fn a_body_must_move_at_sixteen_kilobytes_a_second_after_ten_seconds() {
        let mut scene = Scene::new(10);
        let client = scene.ask(1);
        let progress = scene.body(client, false);
        for second in 1..=12 {
            progress.moved(1024, scene.now);
            scene.now += Duration::from_secs(1);
            // At the tenth second nothing is asked for yet, at the eleventh 16 KiB are.
            assert_eq!(scene.survey().len(), usize::from(second > 10));
        }
        let fast = scene.ask(2);
        let progress = scene.body(fast, false);
        for _ in 0..100 {
            progress.moved(16 * 1024, scene.now);
            scene.now += Duration::from_secs(1);
            assert!(!scene.survey().contains(&fast));
        }
    }

    #[test]
    fn a_body_that_has_come_is_waited_for_no_more() {
        let mut scene = Scene::new(10);
        let client = scene.ask(1);
        scene.body(client, false);
        scene.enter(client, Phase::Answer);
        scene.now += 10 * IDLE;
        assert_eq!(scene.survey(), []);
    }

    #[test]
    fn a_refused_client_is_listened_to_for_ten_seconds_and_has_one_to_read_its_answer() {
        let mut scene = Scene::new(10);
        let client = scene.ask(1);
        scene.enter(client, Phase::Refused);
        scene.assert_limit(client, LINGER);
        scene.enter(client, Phase::Farewell);
        scene.assert_limit(client, FAREWELL);
    }

    #[test]
    fn whoever_is_not_closed_after_being_shut_down_is_shut_down_again() {
        let mut scene = Scene::new(10);
        let client = scene.open(1);
        scene.assert_limit(client, HEAD);
        scene.now += TICK;
        assert_eq!(scene.survey(), [client]);
    }

    #[test]
    fn of_too_many_connections_the_longest_idle_are_shut_down_once() {
        let mut scene = Scene::new(3);
        let clients: Vec<_> = (1..=5)
            .map(|port| {
                scene.now += TICK;
                let client = client(port);
                scene.open.insert(client, false);
                scene.connections.head_came(client, "", scene.now);
                scene.now += TICK;
                if port != 1 {
                    scene.connections.answered(client, scene.now);
                }
                client
            })
            .collect();
        assert_eq!(scene.survey(), clients[1..3], "the first is being answered");
        scene.now += TICK;
        assert_eq!(scene.survey(), [], "they are leaving");
        scene.now += LEAVING;
        assert_eq!(scene.survey(), clients[3..5], "those didn't leave");
    }

    #[test]
    fn half_of_the_idle_connections_go_while_descriptors_or_threads_are_lacking() {
        let mut scene = Scene::new(100);
        let clients: Vec<_> = (1..=4)
            .map(|port| {
                scene.now += TICK;
                scene.open(port)
            })
            .collect();
        assert_eq!(scene.survey(), []);
        scene.is_lacking = true;
        assert_eq!(scene.survey(), clients[..2]);
        assert_eq!(scene.survey(), clients[2..3]);
    }

    #[test]
    fn while_memory_is_short_heads_must_come_at_once() {
        let mut scene = Scene::new(100);
        let [first, next, answered] = [1, 2, 3].map(|port| scene.ask(port));
        scene.answered(next);
        scene.connections.forget(first);
        let first = scene.open(1);
        scene.memory_is_short = true;
        scene.assert_limit(first, HEAD_WHILE_SHORT);
        scene.now += IDLE_WHILE_SHORT;
        assert_eq!(scene.survey(), [first, next]);
        scene.open.remove(&first);
        scene.open.remove(&next);
        scene.now += 10 * IDLE;
        assert_eq!(scene.survey(), [], "{answered:?} is being answered");
    }

    #[test]
    fn while_memory_is_short_bodies_in_chunks_and_refused_ones_may_not_stand_still() {
        for in_chunks in [true, false] {
            let mut scene = Scene::new(100);
            let client = scene.ask(1);
            scene.body(client, in_chunks);
            scene.now += STILL_WHILE_SHORT;
            scene.memory_is_short = true;
            assert_eq!(scene.survey(), []);
            scene.now += TICK;
            assert_eq!(scene.survey().len(), usize::from(in_chunks));
            scene.memory_is_short = false;
            assert_eq!(scene.survey(), []);
        }
        let mut scene = Scene::new(100);
        let [refused, dismissed] = [1, 2].map(|port| scene.ask(port));
        scene.memory_is_short = true;
        scene.enter(refused, Phase::Refused);
        scene.enter(dismissed, Phase::Farewell);
        scene.assert_limit(refused, STILL_WHILE_SHORT);
    }

    #[test]
    fn bytes_that_nobody_reads_for_two_seconds_are_those_of_a_forgotten_connection() {
        let mut scene = Scene::new(10);
        let client = scene.open(1);
        scene.now += Duration::from_secs(4);
        scene.open.insert(client, true);
        scene.survey();
        scene.now += TICK;
        scene.open.insert(client, false);
        scene.survey();
        scene.open.insert(client, true);
        scene.survey();
        scene.assert_limit(client, FORGOTTEN);
        let busy = scene.ask(2);
        scene.open.insert(busy, true);
        scene.survey();
        scene.now += 10 * FORGOTTEN;
        assert!(!scene.survey().contains(&busy), "its body may wait");
    }

    #[test]
    fn requests_sent_ahead_take_their_turns_and_more_than_sixteen_end_the_connection() {
        let mut scene = Scene::new(10);
        let client = scene.ask(1);
        for _ in 0..MAX_AHEAD {
            assert_eq!(scene.head(client, "ahead"), None);
        }
        assert_eq!(scene.survey(), []);
        assert_eq!(scene.answered(client), Some("ahead"));
        scene.head(client, "ahead");
        assert!(!scene.connections.is_urgent());
        scene.head(client, "one too many");
        assert!(scene.connections.is_urgent());
        assert_eq!(scene.survey(), [client]);
    }

    #[test]
    fn a_connection_that_ended_is_forgotten_when_nobody_works_on_its_request() {
        let mut scene = Scene::new(10);
        let client = scene.ask(1);
        scene.head(client, "ahead");
        scene.open.clear();
        scene.now += TICK;
        assert!(scene.find().abandoned.is_empty());
        assert_eq!(scene.answered(client), Some("ahead"));
        scene.head(client, "another");
        scene.enter(client, Phase::Refused);
        assert!(scene.find().abandoned.is_empty(), "noted in this moment");
        scene.now += TICK;
        assert_eq!(scene.find().abandoned, ["another"]);
        assert_eq!(scene.answered(client), None);
        assert_eq!(scene.head(client, "its address"), Some("its address"));
        assert_eq!(scene.connections.arrivals(), 2);
    }

    #[test]
    fn a_first_head_is_expected_of_connections_that_have_brought_none() {
        let mut scene = Scene::new(10);
        let first = scene.ask(1);
        let expects = |scene: &Scene| scene.connections.expects_a_first_head(&scene.open);
        assert!(!expects(&scene));
        scene.answered(first);
        assert!(!expects(&scene));
        scene.open.insert(client(2), false);
        assert!(expects(&scene), "it is not known yet");
        scene.survey();
        assert!(expects(&scene));
    }

    #[test]
    fn whoever_must_be_disconnected_is_shut_down_whatever_the_phase() {
        let mut scene = Scene::new(10);
        let client = scene.ask(1);
        scene.connections.disconnect(client);
        assert!(scene.connections.is_urgent());
        assert_eq!(scene.survey(), [client]);
        assert_eq!(scene.survey(), []);
        assert!(scene.connections.forget(client).is_empty());
    }
}
