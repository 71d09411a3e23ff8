//! The fixed pool: threads that answer complete requests, one after the other.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Service;
use super::door::{Door, Job};
use super::room::Room;
use crate::protocol::http::{Incoming, Response};

/// How long the workers may take to close their database connections at the end.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether the workers have ended.
const LEAVE_TICK: Duration = Duration::from_millis(5);

/// Starts `count` workers that take requests out of the door's queue.
///
/// # Errors
/// When the system has no threads to spare.
pub fn start<S: Service>(count: usize, door: &Arc<Door<S>>) -> io::Result<Vec<JoinHandle<()>>> {
    (1..=count)
        .map(|number| {
            let door = door.clone();
            let builder = thread::Builder::new().name(format!("worker-{number}"));
            builder.spawn(move || serve(&door))
        })
        .collect()
}

fn serve<S: Service>(door: &Door<S>) {
    let mut state = door.service.worker();
    while let Some(job) = door.jobs.pop() {
        let Job {
            exchange,
            incoming,
            reserved,
        } = job;
        door.busy.fetch_add(1, Ordering::Relaxed);
        let mut room = door.senders.room();
        let response = answer(&*door.service, incoming, &mut state, &mut room);
        drop(reserved);
        door.senders.send(exchange, response, room);
        door.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs the handler. A panic in it is a 500, and the worker's state is made anew.
fn answer<S: Service>(
    service: &S,
    incoming: Incoming,
    state: &mut S::Worker,
    room: &mut Room,
) -> Response {
    // What a panic may leave half done is `state` alone, which is thrown away then.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        service.answer(incoming, &mut *state, room)
    }));
    outcome.unwrap_or_else(|_| {
        log::error!("a handler panicked; its request is answered 500");
        *state = service.worker();
        Response::error(500)
    })
}

/// Waits until the workers have answered what is queued and closed their database connections,
/// but not for long.
pub fn leave<S: Service>(door: &Door<S>, pool: &[JoinHandle<()>]) {
    door.jobs.close();
    let deadline = Instant::now() + LEAVE_PATIENCE;
    while !pool.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
        thread::sleep(LEAVE_TICK);
    }
}
