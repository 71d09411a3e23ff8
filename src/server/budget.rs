//! The bytes that bodies and answers may hold at once.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use crate::buffer::Buffer;
use crate::lock::{lock, unpoisoned};

/// Up to this size nothing is counted, bytes: small requests pass while large ones wait for
/// memory, and the number of threads bounds them.
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

    /// All bytes, taken or not.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The bytes that are taken.
    pub fn taken(&self) -> usize {
        self.total - *lock(&self.shared.available)
    }

    /// Takes the bytes of a buffer, once for all who send it. Each must keep the buffer for as long
    /// as the reservation, because a later buffer may have its address.
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

    /// Takes `bytes`, and waits for `patience` until others have given back enough. A request for
    /// more than the whole budget takes all of it.
    pub fn reserve(&self, bytes: usize, patience: Duration) -> Option<Reservation> {
        let bytes = if bytes <= FREE {
            0
        } else {
            bytes.min(self.total)
        };
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

impl Drop for Reservation {
    fn drop(&mut self) {
        *lock(&self.shared.available) += self.bytes;
        self.shared.given_back.notify_all();
    }
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
