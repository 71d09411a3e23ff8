//! The fixed pool: threads that answer complete requests, one after the other.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::Service;
use super::door::{Door, Job};
use crate::http::{Incoming, Response};

/// The workers take turns at waiting for a request; one that got none in this time is idle.
const IDLE: Duration = Duration::from_secs(1);
/// How long the workers may take to close their database connections at the end.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);

/// Starts `count` workers that take requests out of the `queue`.
pub fn start<S: Service>(
    count: usize,
    door: &Arc<Door>,
    queue: Receiver<Job>,
    service: &Arc<S>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let queue = Arc::new(Mutex::new(queue));
    (1..=count)
        .map(|number| {
            let (door, queue, service) = (Arc::downgrade(door), queue.clone(), service.clone());
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    let mut state = service.worker();
                    loop {
                        // The lock is held while waiting: the others wait for the lock instead.
                        let next = {
                            let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                            queue.recv_timeout(IDLE)
                        };
                        match next {
                            Ok(job) => work(&door, &*service, job, &mut state),
                            Err(RecvTimeoutError::Timeout) => service.idle(&mut state),
                            Err(RecvTimeoutError::Disconnected) => return,
                        }
                    }
                })
        })
        .collect()
}

fn work<S: Service>(door: &Weak<Door>, service: &S, job: Job, state: &mut S::Worker) {
    let Job {
        exchange,
        incoming,
        reserved,
    } = job;
    let response = answer(service, incoming, state);
    drop(reserved);
    // It lives for as long as something is in flight.
    if let Some(door) = door.upgrade() {
        door.send(exchange, response);
    }
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
    door.close();
    let deadline = Instant::now() + LEAVE_PATIENCE;
    while !pool.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}
