//! Threads that come when they are needed and go when they are not, bounded in number.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::lock::{lock, unpoisoned};

/// A thread without work ends after this time.
const THREAD_IDLE: Duration = Duration::from_secs(10);
/// How often the log may tell that no thread can be started.
const REPORT_PAUSE: Duration = Duration::from_secs(60);
/// The stack of a thread, bytes: it copies between a socket and a buffer, in shallow calls.
const STACK_SIZE: usize = 256 * 1024;

type Task = Box<dyn FnOnce() + Send>;

/// A set of threads, as many as there is work, up to a limit.
pub struct Elastic {
    name: &'static str,
    limit: usize,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    /// Tasks for threads that are idle, but have not woken up yet.
    waiting: VecDeque<Task>,
    /// All threads.
    threads: usize,
    /// The threads without a task.
    idle: usize,
    /// When the log last told that no thread could be started.
    reported: Option<Instant>,
}

impl Elastic {
    /// No threads yet, and never more than `limit`.
    pub fn new(name: &'static str, limit: usize) -> Elastic {
        Elastic {
            name,
            limit,
            shared: Arc::default(),
        }
    }

    /// Runs `task` on `subject` in one of the threads. The subject comes back at once if all are
    /// busy.
    pub fn run<T: Send + 'static>(
        &self,
        subject: T,
        task: impl FnOnce(T) + Send + 'static,
    ) -> Result<(), T> {
        let mut state = self.shared.lock();
        if state.idle > state.waiting.len() {
            state.waiting.push_back(Box::new(move || task(subject)));
            self.shared.work.notify_one();
            return Ok(());
        }
        if state.threads >= self.limit {
            return Err(subject);
        }
        // The subject travels in a slot, so that it can come back if no thread starts.
        let slot = Arc::new(Mutex::new(Some(subject)));
        let (shared, handed) = (self.shared.clone(), slot.clone());
        let thread = thread::Builder::new()
            .name(self.name.into())
            .stack_size(STACK_SIZE)
            .spawn(move || {
                let subject = lock(&handed).take();
                shared.work_on(subject.map(|subject| Box::new(move || task(subject)) as Task));
            });
        match thread {
            Ok(_) => {
                state.threads += 1;
                Ok(())
            }
            Err(error) => {
                let reported = state.reported;
                if reported.is_none_or(|at| at.elapsed() >= REPORT_PAUSE) {
                    log::warn!("no thread to {} with: {error}", self.name);
                    state.reported = Some(Instant::now());
                }
                let mut slot = lock(&slot);
                slot.take().map_or(Ok(()), Err)
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn work_on(&self, mut task: Option<Task>) {
        let _leave = Leave(self);
        loop {
            if let Some(task) = task {
                task();
            }
            let mut state = self.lock();
            state.idle += 1;
            let waited = self
                .work
                .wait_timeout_while(state, THREAD_IDLE, |state| state.waiting.is_empty());
            let (mut state, _) = unpoisoned(waited);
            state.idle -= 1;
            match state.waiting.pop_front() {
                Some(next) => task = Some(next),
                None => return,
            }
        }
    }
}

/// Counts a thread out, however it ends.
struct Leave<'a>(&'a Shared);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.lock().threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_full_set_gives_the_subject_back() {
        let set = Elastic::new("test", 2);
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        for _ in 0..2 {
            let held = held.clone();
            let started = set.run((), move |()| {
                let _ = held.lock().map(|held| held.recv());
            });
            assert!(started.is_ok());
        }
        assert_eq!(set.run(7, |_| ()), Err(7));
        drop(release);
        let (done, finished) = mpsc::channel();
        // The threads are free again soon, and are used again.
        while set
            .run(done.clone(), |done| done.send(()).unwrap_or(()))
            .is_err()
        {
            thread::yield_now();
        }
        assert_eq!(finished.recv(), Ok(()));
    }

    #[test]
    fn a_thread_that_panics_is_counted_out() {
        let set = Elastic::new("test", 1);
        assert!(set.run((), |()| panic!("on purpose")).is_ok());
        while set.run((), |()| ()).is_err() {
            thread::yield_now();
        }
    }
}
