//! The bounded queue between the threads that receive requests and those that answer them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::lock::{lock, unpoisoned};

/// A first-in, first-out queue, which is closed when the server stops. Of the threads that wait for
/// an item, the one that came last gets the next: its memory, and that of its database connection,
/// is in the processor's caches, and the others sleep on.
///
/// Whether an item writes is known only when a thread has looked at it, and not all threads may
/// write at once. An item that may not write yet is put back and waits for its turn, so that the
/// thread can take another item meanwhile.
pub struct Queue<T> {
    /// The most items that may wait for a thread, and also the most that may wait for their turn to
    /// write.
    limit: usize,
    /// The most threads that may write at once.
    writers: usize,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// The items, each with the time at which it came.
    items: VecDeque<(Instant, T)>,
    /// The items that wait for their turn to write.
    writes: VecDeque<(Instant, T)>,
    /// The number of permits that are held.
    writing: usize,
    /// When a permit was last given or returned.
    moved: Instant,
    /// The threads that wait and were not woken yet, in the order in which they came.
    waiting: Vec<Arc<Condvar>>,
    closed: bool,
}

/// An item out of a queue.
pub struct Taken<'a, T> {
    /// The item.
    pub item: T,
    /// When it came.
    pub came: Instant,
    /// The permit to write, if the item has waited for one.
    pub permit: Option<Permit<'a, T>>,
}

/// The permission to write, until it is dropped.
pub struct Permit<'a, T>(&'a Queue<T>);

impl<T> Queue<T> {
    /// An empty queue for `limit` items, of whose threads `writers` may write at once.
    pub fn new(limit: usize, writers: usize) -> Queue<T> {
        let state = State {
            items: VecDeque::with_capacity(limit),
            writes: VecDeque::new(),
            writing: 0,
            moved: Instant::now(),
            waiting: Vec::new(),
            closed: false,
        };
        Queue {
            limit,
            writers,
            state: Mutex::new(state),
        }
    }

    /// Adds an item at the end. Returns the item if the queue is full or closed.
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

    /// Takes the first item, and waits until there is one. `None` if no more will come.
    pub fn pop(&self) -> Option<Taken<'_, T>> {
        let mut state = self.lock();
        loop {
            if let Some((came, item, writes)) = state.next(self.writers) {
                let permit = writes.then(|| state.give_permit(self));
                return Some(Taken { item, came, permit });
            }
            if state.closed {
                return None;
            }
            let called = Arc::new(Condvar::new());
            state.waiting.push(called.clone());
            let waited = called.wait(state);
            state = unpoisoned(waited);
            state.waiting.retain(|other| !Arc::ptr_eq(other, &called));
        }
    }

    /// The permit to write, unless too many have it or others wait for it.
    pub fn permit(&self) -> Option<Permit<'_, T>> {
        let mut state = self.lock();
        let is_free = state.writes.is_empty() && state.may_write(self.writers);
        is_free.then(|| state.give_permit(self))
    }

    /// Lets an item, which came at the time `came`, wait for its turn to write. Returns the item if
    /// too many wait already.
    pub fn wait_to_write(&self, item: T, came: Instant) -> Result<(), T> {
        let mut state = self.lock();
        if state.writes.len() >= self.limit {
            return Err(item);
        }
        // The caller takes the next item itself, so that no thread need be woken.
        state.writes.push_back((came, item));
        Ok(())
    }

    /// Takes the items that have waited for longer than `patience`. Items that wait for their turn
    /// to write are taken after `stuck` instead, if no turn has begun or ended for that long.
    pub fn take_overdue(&self, patience: Duration, stuck: Duration) -> Vec<T> {
        let mut state = self.lock();
        let is_stuck = state.writing > 0 && state.moved.elapsed() > stuck;
        let write_patience = if is_stuck { stuck } else { patience };
        let mut overdue = take_older(&mut state.items, patience);
        overdue.append(&mut take_older(&mut state.writes, write_patience));
        overdue
    }

    /// Closes the queue: it takes no more items, and those that it has can still be popped.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for waiting in state.waiting.drain(..) {
            waiting.notify_one();
        }
    }

    /// How many items wait.
    pub fn length(&self) -> usize {
        let state = self.lock();
        state.items.len() + state.writes.len()
    }

    /// How many items may wait: for a thread, and as many again for their turn to write.
    pub fn limit(&self) -> usize {
        2 * self.limit
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        lock(&self.state)
    }
}

impl<T> State<T> {
    /// The item whose turn it is, when it came, and whether it was waiting to write.
    fn next(&mut self, writers: usize) -> Option<(Instant, T, bool)> {
        let first = self.items.front().map(|(came, _)| *came);
        let write = self.writes.front().map(|(came, _)| *came);
        let write = write.filter(|_| self.may_write(writers));
        let writes = write.is_some_and(|write| first.is_none_or(|first| write <= first));
        let queue = if writes {
            &mut self.writes
        } else {
            &mut self.items
        };
        queue.pop_front().map(|(came, item)| (came, item, writes))
    }

    /// Whether one more may write. When the queue is closed all may, because no more requests come.
    fn may_write(&self, writers: usize) -> bool {
        self.writing < writers || self.closed
    }

    fn give_permit<'a>(&mut self, queue: &'a Queue<T>) -> Permit<'a, T> {
        self.writing += 1;
        self.moved = Instant::now();
        Permit(queue)
    }
}

impl<T> Drop for Permit<'_, T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.writing -= 1;
        state.moved = Instant::now();
        let called = if state.writes.is_empty() {
            None
        } else {
            state.waiting.pop()
        };
        drop(state);
        if let Some(called) = called {
            called.notify_one();
        }
    }
}

/// Takes the items at the front that are older than `patience`.
fn take_older<T>(items: &mut VecDeque<(Instant, T)>, patience: Duration) -> Vec<T> {
    let overdue = |(came, _): &&(Instant, T)| came.elapsed() > patience;
    let count = items.iter().take_while(overdue).count();
    items.drain(..count).map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn popped<T>(queue: &Queue<T>) -> Option<T> {
        queue.pop().map(|taken| taken.item)
    }

    #[test]
    fn items_come_out_in_order_and_a_full_queue_gives_them_back() {
        let queue = Queue::new(2, 1);
        assert_eq!(queue.push(1), Ok(()));
        assert_eq!(queue.push(2), Ok(()));
        assert_eq!(queue.push(3), Err(3));
        assert_eq!(popped(&queue), Some(1));
        assert_eq!(queue.push(3), Ok(()));
        queue.close();
        assert_eq!(queue.push(4), Err(4));
        assert_eq!(popped(&queue), Some(2));
        assert_eq!(popped(&queue), Some(3));
        assert_eq!(popped(&queue), None);
    }

    #[test]
    fn who_waits_is_woken_by_an_item_and_by_the_end() {
        let queue = Queue::new(1, 1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| (popped(&queue), popped(&queue)));
            assert_eq!(queue.push(1), Ok(()));
            std::thread::sleep(Duration::from_millis(20));
            queue.close();
            let popped = waiting.join().expect("no panic");
            assert_eq!(popped, (Some(1), None));
        });
    }

    #[test]
    fn of_those_who_wait_the_last_one_gets_the_next_item() {
        let queue = &Queue::new(1, 1);
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
        let queue = Queue::new(3, 1);
        let patience = Duration::from_millis(50);
        assert_eq!(queue.push(1), Ok(()));
        assert_eq!(queue.push(2), Ok(()));
        std::thread::sleep(patience * 2);
        assert_eq!(queue.push(3), Ok(()));
        assert_eq!(queue.take_overdue(patience, patience), [1, 2]);
        assert_eq!(popped(&queue), Some(3));
    }

    #[test]
    fn who_may_not_write_yet_waits_and_lets_others_pass() {
        let queue = Queue::new(4, 1);
        for item in ["a write", "another write", "a read"] {
            assert_eq!(queue.push(item), Ok(()));
        }
        let first = queue.pop().expect("there are three");
        let permit = queue.permit();
        assert!(first.permit.is_none() && permit.is_some());
        let second = queue.pop().expect("there are two");
        assert!(queue.permit().is_none(), "there is one permit");
        assert_eq!(queue.wait_to_write(second.item, second.came), Ok(()));
        assert_eq!(popped(&queue), Some("a read"));
        assert_eq!(queue.push("a later read"), Ok(()));
        drop(permit);
        assert!(queue.permit().is_none(), "somebody waits for it");
        let second = queue.pop().expect("its turn");
        assert_eq!(
            (second.item, second.permit.is_some()),
            ("another write", true)
        );
        assert_eq!(popped(&queue), Some("a later read"));
    }

    #[test]
    fn a_permit_that_is_returned_wakes_a_thread_for_who_waits_for_it() {
        let queue = Queue::new(2, 1);
        let permit = queue.permit();
        assert_eq!(queue.wait_to_write("a write", Instant::now()), Ok(()));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| popped(&queue));
            while queue.lock().waiting.is_empty() {
                std::thread::yield_now();
            }
            drop(permit);
            assert_eq!(waiting.join().expect("no panic"), Some("a write"));
        });
    }

    #[test]
    fn who_waits_to_write_while_nothing_moves_is_overdue_sooner() {
        let queue = Queue::new(2, 1);
        let (long, short) = (Duration::from_secs(60), Duration::from_millis(20));
        let _permit = queue.permit();
        assert_eq!(queue.push("a read"), Ok(()));
        assert_eq!(queue.wait_to_write("a write", Instant::now()), Ok(()));
        std::thread::sleep(short * 2);
        assert_eq!(queue.take_overdue(long, long), [""; 0]);
        assert_eq!(queue.take_overdue(long, short), ["a write"]);
    }
}
