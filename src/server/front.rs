//! Where requests come in: tiny_http, kept accepting whatever happens, and stopped without
//! losing what it has accepted.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Service;
use super::door::Door;
use super::guard::accepting::Accepting;
use super::guard::nudge::Reserve;
use super::guard::threads;
use super::listener::Listener;
use super::pace::STOP_PATIENCE;
use super::refusals::Refusal;
use crate::stop::Stop;

/// How often the accept loop looks whether it should end. An idle server wakes up as often.
const ACCEPT_TICK: Duration = Duration::from_millis(50);
/// How long a server that stops waits for tiny_http to accept the connections that are waiting.
const DRAIN_PATIENCE: Duration = Duration::from_millis(100);
/// How often it looks whether that is done. A connection that is made in between is reset.
const DRAIN_TICK: Duration = Duration::from_micros(200);
/// How often a server that stops looks whether it is quiet.
const FINISH_TICK: Duration = Duration::from_millis(20);
/// How long after an error the server tries again to accept connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the log may tell that connections can't be accepted.
const REPORT_PAUSE: Duration = Duration::from_secs(60);
/// A request that has waited for a worker for this long is answered 503: all workers wait for a
/// database that hangs.
const QUEUE_PATIENCE: Duration = Duration::from_secs(10);
/// The same for requests that wait for their turn to write, when none of those that have it ends.
const STUCK_PATIENCE: Duration = Duration::from_secs(8);
/// How often the queue is searched for such requests.
const QUEUE_TICK: Duration = Duration::from_millis(500);
/// A server that stops for a restart waits this long for the requests in flight, while new
/// clients wait: those in flight had time before ([`super::guard::stuck`]).
const RESTART_PATIENCE: Duration = Duration::from_secs(3);
/// With no request in flight and none coming in for this long, the server has stopped:
/// connections were accepted to the last moment, and their heads are on their way.
const QUIET: Duration = Duration::from_millis(300);
/// The first heads of connections that are known to be open are waited for this long.
const FIRST_HEADS: Duration = Duration::from_secs(2);

/// Accepts connections of all `listeners` until `stop` is requested: those of the first one on
/// this thread, those of each other one on a thread of its own.
///
/// # Errors
/// When the system has no thread to spare.
pub fn accept<S: Service>(
    door: &Arc<Door<S>>,
    listeners: &[Listener],
    stop: &Stop,
) -> io::Result<()> {
    thread::scope(|scope| {
        for (number, listener) in listeners.iter().enumerate().skip(1) {
            let builder = thread::Builder::new().name(format!("accept-{number}"));
            let accept = move || accept_on(door, listener, number, stop);
            // The scope ends when its threads do, so they must not go on.
            let started = builder.spawn_scoped(scope, accept);
            started.inspect_err(|_| stop.request())?;
        }
        if let Some(first) = listeners.first() {
            accept_on(door, first, 0, stop);
        }
        Ok(())
    })
}

/// Accepts the connections of one listener, which has the place `number` in the list. tiny_http
/// accepts no more after an error, as when descriptors or threads run out; so a new one takes its
/// place.
fn accept_on<S: Service>(door: &Arc<Door<S>>, listener: &Listener, number: usize, stop: &Stop) {
    let mut reported = None;
    while !stop.is_requested() {
        let ended = has_resources(door)
            .and_then(|()| Accepting::start(listener, number))
            .and_then(|http| {
                let ended = admit(door, &http, stop);
                door.guard.late.leave_behind(http);
                ended
            });
        let error = match ended {
            Err(error) if !stop.is_requested() => error,
            _ => return,
        };
        door.guard.ran_out();
        if reported.is_none_or(|last: Instant| last.elapsed() >= REPORT_PAUSE) {
            log::warn!("some connections can't be accepted now: {error}");
            reported = Some(Instant::now());
        }
        stop.wait(ACCEPT_PAUSE);
    }
}

/// Whether there are descriptors and threads for a tiny_http. It must not take those descriptors
/// by which the guard sees whom to disconnect, and its threads panic where others can't be
/// started.
fn has_resources<S: Service>(door: &Door<S>) -> io::Result<()> {
    if !door.guard.has_descriptors() {
        return Err(io::Error::other("no descriptor is left"));
    }
    threads::can_start(threads::FOR_TINY_HTTP)
        .map_err(|error| io::Error::other(format!("no thread is left: {error}")))
}

/// Admits requests until `stop` is requested.
///
/// # Errors
/// When tiny_http accepts no more connections, which it may not say.
fn admit<S: Service>(door: &Arc<Door<S>>, http: &Accepting, stop: &Stop) -> io::Result<()> {
    let mut looked = Instant::now();
    loop {
        if let Some(arrival) = http.receive(ACCEPT_TICK)? {
            door.admit(arrival);
        }
        if looked.elapsed() < ACCEPT_TICK {
            continue;
        }
        if stop.is_requested() {
            return Ok(());
        }
        if !http.is_alive() {
            return Err(io::Error::other("no descriptor or no thread is left"));
        }
        looked = Instant::now();
    }
}

/// Starts the thread that admits the requests which don't come through [`accept`], and answers
/// those that have waited for a worker for too long.
///
/// # Errors
/// When the system has no thread to spare.
pub fn serve_late<S: Service>(door: &Arc<Door<S>>, stop: &Stop) -> io::Result<()> {
    let (door, stop) = (door.clone(), stop.clone());
    let run = move || {
        loop {
            let requests = door.guard.late.wait(QUEUE_TICK);
            requests.new.into_iter().for_each(|r| door.admit(r));
            requests.in_turn.into_iter().for_each(|r| door.begin(r));
            // While the server stops, that has a time limit of its own.
            if !stop.is_requested() {
                let overdue = door.jobs.take_overdue(QUEUE_PATIENCE, STUCK_PATIENCE);
                for job in overdue {
                    door.turn_away(job, Refusal::QueueTimeout);
                }
            }
        }
    };
    thread::Builder::new().name("late".into()).spawn(run)?;
    Ok(())
}

/// Finishes what is in flight, and what was accepted to the last moment.
pub fn finish<S: Service>(door: &Door<S>, listeners: &[Listener]) {
    let guard = &door.guard;
    door.senders.close_connections();
    let addresses: Vec<_> = listeners.iter().map(|l| l.address().clone()).collect();
    let mut reserve = Reserve::open(&addresses);
    for listener in listeners {
        if let Err(error) = listener.pause() {
            log::debug!("accepting was not ended: {error}");
        }
    }
    let patience = if guard.restarts() {
        RESTART_PATIENCE
    } else {
        // What waits in a port that is closed is reset.
        let accepted_by = Instant::now() + DRAIN_PATIENCE;
        while guard.late.is_accepting() && Instant::now() < accepted_by {
            thread::sleep(DRAIN_TICK);
        }
        listeners.iter().for_each(Listener::withdraw);
        STOP_PATIENCE
    };
    let deadline = Instant::now() + patience;
    let (mut seen, mut last) = (guard.requests(), Instant::now());
    loop {
        let quiet = last.elapsed();
        if guard.in_flight() == 0
            && quiet >= QUIET
            && reserve.is_empty()
            && (quiet >= FIRST_HEADS || !guard.expects_a_first_head())
        {
            return;
        }
        if Instant::now() >= deadline {
            return log::warn!("stopping although some requests are still in flight");
        }
        // The thread that serves late requests has the tiny_http now.
        thread::sleep(FINISH_TICK);
        reserve.release();
        let now = guard.requests();
        if now != seen {
            (seen, last) = (now, Instant::now());
        }
    }
}
