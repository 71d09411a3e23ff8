//! Whether the system lets the process have more threads.
//!
//! **Fault.** tiny_http panics where a thread can't be started, and the threads that it did start
//! stay for seconds.
//!
//! **Where.** `lib.rs`, `from_listener` and `util/task_pool.rs`, `add_thread` call
//! `thread::spawn`, which panics.
//!
//! **Seen.** `tests/confined.rs` starts the server with few threads.
//!
//! **Until** tiny_http returns an error there.
//!
//! A limit (`TasksMax=` of systemd, `pids.max` of a container, `ulimit -u`) shows itself only when
//! a thread is started. So threads that do nothing are tried out before tiny_http starts.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::lock::lock;

/// What tiny_http starts with: its accepting thread and four for connections
/// (`util/task_pool.rs`, `MIN_THREADS`), and one for the next connection.
pub const FOR_TINY_HTTP: usize = 6;
/// Our own threads beside the workers: signals, their log, timer, probe, metrics, deadline, cancel
/// and pooling; and in this folder `guard`, `health`, `late`, `nudge`, `self-check` and `unread`.
const OUR_OWN: usize = 14;
/// Threads for a body and an answer at once: with none to spare, more of them are refused.
const FOR_CLIENTS: usize = 2;
/// The stack of a thread that is tried out, bytes: it does nothing.
const STACK_SIZE: usize = 16 * 1024;

/// How many of the `wanted` workers the server can have beside its other threads, if it listens
/// on so many `addresses` and watches databases with so many threads; fewer are logged as a warning.
///
/// # Errors
/// A sentence for the operator, if not even one fits.
pub fn affordable_workers(
    wanted: usize,
    addresses: usize,
    for_watching: usize,
) -> Result<usize, String> {
    const REMEDY: &str =
        "raise the limit (TasksMax= of systemd, pids.max of a container, ulimit -u)";
    // Each address beyond the first has an accept loop of its own.
    let for_addresses = addresses * FOR_TINY_HTTP + addresses.saturating_sub(1);
    let others = for_addresses + OUR_OWN + for_watching + FOR_CLIENTS;
    let all = can_start(others + wanted);
    let Err(error) = all else { return Ok(wanted) };
    match (1..wanted)
        .rev()
        .find(|workers| can_start(others + workers).is_ok())
    {
        Some(workers) => {
            log::warn!(
                "there are threads for {workers} of {wanted} workers only: {error}; {REMEDY}, or \
                 lower workers"
            );
            Ok(workers)
        }
        None => Err(format!(
            "cannot start the {} threads that the server needs at the least: {error}; {REMEDY}",
            others + 1
        )),
    }
}

/// Whether `count` more threads can be started now.
///
/// # Errors
/// That of the system.
pub fn can_start(count: usize) -> io::Result<()> {
    // All threads wait for this lock, so that none ends before all have started.
    let gate = Arc::new(Mutex::new(()));
    let closed = lock(&gate);
    let start = |_| {
        let gate = gate.clone();
        let builder = thread::Builder::new().name("trial".into());
        let builder = builder.stack_size(STACK_SIZE);
        builder.spawn(move || drop(gate.lock()))
    };
    let started: Vec<io::Result<JoinHandle<()>>> = (0..count).map(start).collect();
    drop(closed);
    let mut outcome = Ok(());
    for thread in started {
        match thread {
            // They have nothing to panic about.
            Ok(thread) => drop(thread.join()),
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_are_tried_out_end() {
        let count = || std::fs::read_dir("/proc/self/task").map(Iterator::count);
        let before = count().expect("Linux");
        for _ in 0..20 {
            assert!(can_start(20).is_ok());
        }
        // Other tests start threads too, but not hundreds.
        assert!(count().expect("Linux") < before + 200);
    }
}
