//! The bounded queue between those who complete requests and those who answer them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::lock::{lock, unpoisoned};

/// First in, first out; closed at the end. Of the threads that wait for an item, the one that came
/// last gets the next: its memory, and that of its database connection, is in the processor's
/// caches, and the others sleep on.
pub struct Queue<T> {
    limit: usize,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// The items, each with the time at which it came.
    items: VecDeque<(Instant, T)>,
    /// The threads that wait and were not woken yet, in the order in which they came.
    waiting: Vec<Arc<Condvar>>,
    closed: bool,
}

impl<T> Queue<T> {
    /// An empty queue for `limit` items.
    pub fn new(limit: usize) -> Queue<T> {
        let state = State {
            items: VecDeque::with_capacity(limit),
            waiting: Vec::new(),
            closed: false,
        };
        Queue {
            limit,
            state: Mutex::new(state),
        }
    }

    /// Adds an item at the end; it comes back if the queue is full or closed.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed || state.items.len() >= self.limit {
            return Err(item);
        }
        state.items.push_back((Instant::now(), item));
        let called = state.waiting.pop();
        drop(state);
        if let Some(called) = called {
            called.notify_one();
        }
        Ok(())
    }

    /// Takes the first item, for which it waits; `None` if none will come any more.
    pub fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        while state.items.is_empty() && !state.closed {
            let called = Arc::new(Condvar::new());
            state.waiting.push(called.clone());
            let waited = called.wait(state);
            state = unpoisoned(waited);
            state.waiting.retain(|other| !Arc::ptr_eq(other, &called));
        }
        state.items.pop_front().map(|(_, item)| item)
    }

    /// Takes the items that have waited for longer than `patience`.
    pub fn take_overdue(&self, patience: Duration) -> Vec<T> {
        let mut state = self.lock();
        let overdue = |(came, _): &&(Instant, T)| came.elapsed() > patience;
        let count = state.items.iter().take_while(overdue).count();
        state.items.drain(..count).map(|(_, item)| item).collect()
    }

    /// Takes no more items; those that are there can still be popped.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for waiting in state.waiting.drain(..) {
            waiting.notify_one();
        }
    }

    /// How many items wait.
    pub fn length(&self) -> usize {
        self.lock().items.len()
    }

    /// How many items may wait.
    pub fn limit(&self) -> usize {
        self.limit
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_out_in_order_and_a_full_queue_gives_them_back() {
        let queue = Queue::new(2);
        assert_eq!(queue.push(1), Ok(()));
        assert_eq!(queue.push(2), Ok(()));
        assert_eq!(queue.push(3), Err(3));
        assert_eq!(queue.pop(), Some(1));
        assert_eq!(queue.push(3), Ok(()));
        queue.close();
        assert_eq!(queue.push(4), Err(4));
        assert_eq!(queue.pop(), Some(2));
        assert_eq!(queue.pop(), Some(3));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn who_waits_is_woken_by_an_item_and_by_the_end() {
        let queue = Queue::new(1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| (queue.pop(), queue.pop()));
            assert_eq!(queue.push(1), Ok(()));
            std::thread::sleep(Duration::from_millis(20));
            queue.close();
            let popped = waiting.join().expect("no panic");
            assert_eq!(popped, (Some(1), None));
        });
    }

    #[test]
    fn of_those_who_wait_the_last_one_gets_the_next_item() {
        let queue = &Queue::new(1);
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for waiting in ["first", "last"] {
                let tell = tell.clone();
                scope.spawn(move || {
                    queue.pop();
                    let _ = tell.send(waiting);
                });
                while queue.lock().waiting.len() < usize::from(waiting == "last") + 1 {
                    std::thread::yield_now();
                }
            }
            for expected in ["last", "first"] {
                assert_eq!(queue.push(()), Ok(()));
                assert_eq!(told.recv(), Ok(expected));
            }
        });
    }

    #[test]
    fn only_what_has_waited_too_long_is_taken() {
        let queue = Queue::new(3);
        let patience = Duration::from_millis(50);
        assert_eq!(queue.push(1), Ok(()));
        assert_eq!(queue.push(2), Ok(()));
        std::thread::sleep(patience * 2);
        assert_eq!(queue.push(3), Ok(()));
        assert_eq!(queue.take_overdue(patience), [1, 2]);
        assert_eq!(queue.pop(), Some(3));
    }
}
