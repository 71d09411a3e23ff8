//! Threads that come when they are needed and go when they are not, and the bytes that
//! they may hold: both bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::lock::{lock, unpoisoned};

/// A thread without work ends after this time.
const IDLE: Duration = Duration::from_secs(10);
/// How often the log tells that no thread can be started.
const REPORT_PAUSE: Duration = Duration::from_secs(60);
/// These threads copy between a socket and a buffer; their calls are shallow.
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
    waiting: VecDeque<Task>,
    threads: usize,
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

    /// Runs `task` on `subject` in one of the threads. All of them being busy, the subject
    /// comes back at once.
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
                let often = state.reported.is_some_and(|at| at.elapsed() < REPORT_PAUSE);
                if !often {
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
                .wait_timeout_while(state, IDLE, |state| state.waiting.is_empty());
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

/// Bytes that may be held at once.
pub struct Budget {
    total: usize,
    shared: Arc<(Mutex<usize>, Condvar)>,
    /// What was taken for buffers that several may hold, by their addresses.
    buffers: Mutex<HashMap<usize, Weak<Reservation>>>,
}

/// Some of a [`Budget`]'s bytes, given back when dropped.
pub struct Reservation {
    bytes: usize,
    shared: Arc<(Mutex<usize>, Condvar)>,
}

/// Bodies up to this size are bounded by the number of threads alone: small requests pass
/// while large ones wait for memory.
const FREE: usize = 64 * 1024;

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Budget {
        Budget {
            total: bytes,
            shared: Arc::new((Mutex::new(bytes), Condvar::new())),
            buffers: Mutex::default(),
        }
    }

    /// The bytes that are taken.
    pub fn taken(&self) -> usize {
        self.total - *lock(&self.shared.0)
    }

    /// Takes the bytes of a buffer, once for all who hold it: it must live for as long as any
    /// of them has the reservation.
    pub fn reserve_buffer(
        &self,
        buffer: &Arc<Buffer>,
        patience: Duration,
    ) -> Option<Arc<Reservation>> {
        let address = Arc::as_ptr(buffer) as usize;
        let find = || {
            let buffers = lock(&self.buffers);
            buffers.get(&address).and_then(Weak::upgrade)
        };
        if let Some(reserved) = find() {
            return Some(reserved);
        }
        let reserved = Arc::new(self.reserve(buffer.len(), patience)?);
        let mut buffers = lock(&self.buffers);
        buffers.retain(|_, reservation| reservation.strong_count() > 0);
        buffers.insert(address, Arc::downgrade(&reserved));
        Some(reserved)
    }

    /// Takes `bytes`, waiting for `patience` until others have given back enough. What is
    /// larger than the whole budget takes all of it.
    pub fn reserve(&self, bytes: usize, patience: Duration) -> Option<Reservation> {
        let bytes = if bytes <= FREE {
            0
        } else {
            bytes.min(self.total)
        };
        let available = lock(&self.shared.0);
        let waited = self
            .shared
            .1
            .wait_timeout_while(available, patience, |available| *available < bytes);
        let (mut available, _) = unpoisoned(waited);
        *available = available.checked_sub(bytes)?;
        Some(Reservation {
            bytes,
            shared: self.shared.clone(),
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *lock(&self.shared.0) += self.bytes;
        self.shared.1.notify_all();
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

    #[test]
    fn a_budget_is_never_overdrawn_and_is_given_back() {
        let budget = Budget::new(10 * FREE);
        let large = budget.reserve(9 * FREE, Duration::ZERO);
        assert!(large.is_some());
        assert!(budget.reserve(2 * FREE, Duration::ZERO).is_none());
        assert!(
            budget.reserve(FREE, Duration::ZERO).is_some(),
            "small ones pass"
        );
        let larger = Budget::new(FREE * 2);
        let whole = larger.reserve(FREE * 9, Duration::ZERO);
        assert!(
            whole.is_some(),
            "what is larger than the budget takes all of it"
        );
        assert!(larger.reserve(FREE * 2, Duration::ZERO).is_none());
        let waiter = thread::spawn(move || budget.reserve(2 * FREE, IDLE).is_some());
        drop(large);
        assert!(waiter.join().is_ok_and(|reserved| reserved));
    }

    #[test]
    fn a_buffer_is_counted_once_however_many_hold_it() {
        let budget = Budget::new(10 * FREE);
        let buffer = Arc::new(Buffer::to_overwrite(6 * FREE));
        let other = Arc::new(Buffer::to_overwrite(6 * FREE));
        let reserve = |buffer| budget.reserve_buffer(buffer, Duration::ZERO);
        let held = [reserve(&buffer), reserve(&buffer)];
        assert!(held.iter().all(Option::is_some) && budget.taken() == 6 * FREE);
        assert!(reserve(&other).is_none());
        drop(held);
        assert_eq!(budget.taken(), 0);
        assert!(reserve(&other).is_some());
    }
}
