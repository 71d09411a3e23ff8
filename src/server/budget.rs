//! The bytes that bodies and answers may hold at once.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use crate::buffer::Buffer;
use crate::lock::{lock, unpoisoned};

/// Up to this size nothing is counted, bytes: small requests pass while large ones wait for
/// memory, and the number of connections bounds them.
const FREE: usize = 64 * 1024;

/// Bytes that may be held at once.
pub struct Budget {
    total: usize,
    shared: Arc<Shared>,
    /// The reservations of buffers that several may send, by the buffers' addresses.
    buffers: Mutex<HashMap<usize, Weak<Reservation>>>,
}

/// Some of a [`Budget`]'s bytes, given back when dropped.
pub struct Reservation {
    bytes: usize,
    shared: Arc<Shared>,
}

struct Shared {
    available: Mutex<usize>,
    given_back: Condvar,
}

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Budget {
        Budget {
            total: bytes,
            shared: Arc::new(Shared {
                available: Mutex::new(bytes),
                given_back: Condvar::new(),
            }),
            buffers: Mutex::default(),
        }
    }

    /// The bytes that are taken.
    pub fn taken(&self) -> usize {
        self.total - *lock(&self.shared.available)
    }

    /// All bytes, taken or not.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The reservation of a buffer that others send already.
    pub fn find(&self, buffer: &Arc<Buffer>) -> Option<Arc<Reservation>> {
        let buffers = lock(&self.buffers);
        let found = buffers.get(&(Arc::as_ptr(buffer) as usize));
        found.and_then(Weak::upgrade)
    }

    /// Lets all who send a buffer have this reservation of it. Each must keep the buffer for as
    /// long as the reservation, because a later buffer may have its address.
    pub fn share(&self, buffer: &Arc<Buffer>, reserved: &Arc<Reservation>) {
        let mut buffers = lock(&self.buffers);
        buffers.retain(|_, reservation| reservation.strong_count() > 0);
        buffers.insert(Arc::as_ptr(buffer) as usize, Arc::downgrade(reserved));
    }

    /// Takes `bytes`, and waits for `patience` until others have given back enough. A request for
    /// more than the whole budget takes all of it.
    pub fn reserve(&self, bytes: usize, patience: Duration) -> Option<Reservation> {
        let bytes = counted(bytes).min(self.total);
        let available = lock(&self.shared.available);
        let waited = self
            .shared
            .given_back
            .wait_timeout_while(available, patience, |available| *available < bytes);
        let (mut available, _) = unpoisoned(waited);
        *available = available.checked_sub(bytes)?;
        Some(Reservation {
            bytes,
            shared: self.shared.clone(),
        })
    }
}

impl Reservation {
    /// The bytes that are taken.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it is enough for a buffer of so many bytes.
    pub fn covers(&self, bytes: usize) -> bool {
        self.bytes >= counted(bytes)
    }

    /// Gives back what a buffer of so many bytes doesn't need.
    pub fn shrink(&mut self, bytes: usize) {
        let rest = self.bytes.saturating_sub(counted(bytes));
        self.bytes -= rest;
        self.shared.give_back(rest);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.give_back(self.bytes);
    }
}

impl Shared {
    fn give_back(&self, bytes: usize) {
        // Small requests have taken nothing, and spare the call to the system.
        if bytes > 0 {
            *lock(&self.available) += bytes;
            self.given_back.notify_all();
        }
    }
}

/// What counts of a buffer of so many bytes.
fn counted(bytes: usize) -> usize {
    if bytes <= FREE { 0 } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

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
        let waiter =
            thread::spawn(move || budget.reserve(2 * FREE, Duration::from_secs(10)).is_some());
        drop(large);
        assert!(waiter.join().is_ok_and(|reserved| reserved));
    }

    #[test]
    fn a_reservation_shrinks_to_what_a_buffer_needs() {
        let budget = Budget::new(10 * FREE);
        let mut reserved = budget.reserve(9 * FREE, Duration::ZERO).expect("free");
        assert!(reserved.covers(9 * FREE) && !reserved.covers(9 * FREE + 1));
        reserved.shrink(4 * FREE);
        assert_eq!((reserved.bytes(), budget.taken()), (4 * FREE, 4 * FREE));
        reserved.shrink(FREE);
        assert_eq!(budget.taken(), 0);
        drop(reserved);
        assert_eq!(budget.taken(), 0);
    }
}
