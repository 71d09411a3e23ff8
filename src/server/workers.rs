//! The fixed pool: threads that answer complete requests, one after the other.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Service;
use super::door::{Door, Job};
use crate::protocol::http::{Incoming, Response};
use crate::stop::Stop;

/// A request that has waited for so long is answered 503: all workers wait for a database
/// that hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked for such requests.
const PATROL: Duration = Duration::from_secs(1);
/// How long the workers may take to close their database connections at the end.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);

/// Starts `count` workers that take requests out of the door's queue, and a thread that
/// looks after those that wait there.
pub fn start<S: Service>(
    count: usize,
    door: &Arc<Door>,
    service: &Arc<S>,
    stop: &Stop,
) -> io::Result<Vec<JoinHandle<()>>> {
    let (patrolled, stop) = (door.clone(), stop.clone());
    let patrol = thread::Builder::new().name("patience".into());
    patrol.spawn(move || {
        // While the server stops, that has a time limit of its own.
        while !stop.wait(PATROL) {
            for job in patrolled.jobs.take_overdue(PATIENCE) {
                patrolled.turn_away(job);
            }
        }
    })?;
    (1..=count)
        .map(|number| {
            let (door, service) = (door.clone(), service.clone());
            let builder = thread::Builder::new().name(format!("worker-{number}"));
            builder.spawn(move || serve(&door, &*service))
        })
        .collect()
}

fn serve<S: Service>(door: &Door, service: &S) {
    let mut state = service.worker();
    while let Some(job) = door.jobs.pop() {
        work(door, service, job, &mut state);
    }
}

fn work<S: Service>(door: &Door, service: &S, job: Job, state: &mut S::Worker) {
    let Job {
        exchange,
        incoming,
        reserved,
    } = job;
    let response = answer(service, incoming, state);
    drop(reserved);
    door.send(exchange, response);
}

/// Runs the handler; a panic in it is a 500, and the worker's state is made anew.
fn answer<S: Service>(service: &S, incoming: Incoming, state: &mut S::Worker) -> Response {
    // What a panic may leave half done is `state` alone, which is thrown away then.
    let outcome = catch_unwind(AssertUnwindSafe(|| service.answer(incoming, &mut *state)));
    outcome.unwrap_or_else(|_| {
        log::error!("a handler panicked; its request is answered 500");
        *state = service.worker();
        Response::error(500)
    })
}

/// The workers take leave of the database, if it lets them.
pub fn leave(door: &Door, pool: &[JoinHandle<()>]) {
    door.jobs.close();
    let deadline = Instant::now() + LEAVE_PATIENCE;
    while !pool.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}
