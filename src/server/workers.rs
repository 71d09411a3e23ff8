//! The fixed pool: threads that answer complete requests, one after the other.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::door::{Door, Job};
use super::queue::{Queue, Taken};
use super::refusals::Refusal;
use super::{Outcome, Service, Turn, Work};
use crate::protocol::http::Response;

/// How long the workers may take to close their database connections at the end.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);
/// The pause between two checks whether the workers have ended.
const LEAVE_TICK: Duration = Duration::from_millis(5);

/// Starts `count` workers that take requests out of the door's queue, and a thread for those that
/// can't wait for a worker.
///
/// # Errors
/// When the system has no threads to spare.
pub fn start<S: Service>(count: usize, door: &Arc<Door<S>>) -> io::Result<Vec<JoinHandle<()>>> {
    let urgent = door.clone();
    let builder = thread::Builder::new().name("health".into());
    builder.spawn(move || serve(&urgent, &urgent.urgent))?;
    (1..=count)
        .map(|number| {
            let door = door.clone();
            let builder = thread::Builder::new().name(format!("worker-{number}"));
            builder.spawn(move || serve(&door, &door.jobs))
        })
        .collect()
}

/// Answers what is in the queue, until that is closed.
fn serve<S: Service>(door: &Door<S>, queue: &Queue<Job<S::Waiting>>) {
    let mut state = door.service.worker();
    let counted = usize::from(ptr::eq(queue, &door.jobs));
    while let Some(Taken { item, came, permit }) = queue.pop() {
        let Job {
            exchange,
            work,
            reserved,
        } = item;
        // While the worker holds this permit it counts as writing, until its answer is made.
        let mut permit = permit;
        let mut may_write = || {
            permit = permit.take().or_else(|| queue.permit());
            permit.is_some()
        };
        door.busy.fetch_add(counted, Ordering::Relaxed);
        let mut room = door.senders.room();
        let turn = Turn {
            came,
            worker: &mut state,
            room: &mut room,
            may_write: &mut may_write,
        };
        let outcome = answer(&*door.service, work, turn);
        drop(permit);
        match outcome {
            Some(Ok(response)) => {
                drop(reserved);
                door.senders.send(exchange, response, room);
            }
            Some(Err(waiting)) => {
                let job = Job {
                    exchange,
                    work: Work::Waiting(waiting),
                    reserved,
                };
                if let Err(job) = queue.wait_to_write(job, came) {
                    door.turn_away(job, Refusal::QueueFull);
                }
            }
            None => {
                state = door.service.worker();
                drop(reserved);
                door.senders.send(exchange, Response::error(500), room);
            }
        }
        door.busy.fetch_sub(counted, Ordering::Relaxed);
    }
}

/// Runs the handler. `None` if it panics: what the worker keeps must be made anew then.
fn answer<S: Service>(
    service: &S,
    work: Work<S::Waiting>,
    turn: Turn<S::Worker>,
) -> Option<Outcome<S>> {
    // A panic can leave only the worker's own state half done, which is thrown away then.
    let outcome = catch_unwind(AssertUnwindSafe(|| service.answer(work, turn)));
    outcome
        .inspect_err(|_| log::error!("a handler panicked; its request is answered 500"))
        .ok()
}

/// Waits until the workers have answered what is queued and closed their database connections,
/// but not for long.
pub fn leave<S: Service>(door: &Door<S>, pool: &[JoinHandle<()>]) {
    door.jobs.close();
    door.urgent.close();
    let deadline = Instant::now() + LEAVE_PATIENCE;
    while !pool.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
        thread::sleep(LEAVE_TICK);
    }
}
