//! Buffers for bodies. Large ones are used again: malloc would take each from the system anew,
//! as thousands of pages that the system clears first, which costs more than filling it.

use crate::lock::lock;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// From this capacity on, bytes, a buffer is large: `main` has malloc give back those to the
/// system as soon as they are freed.
pub const LARGE: usize = 4 * 1024 * 1024;

/// The capacity of a large buffer is a multiple of this, bytes. It serves for whatever has the
/// same multiple: a much smaller file must not hold the memory that a larger one has touched.
const STEP: usize = 1024 * 1024;

/// Spare buffers take no more than this, bytes: two for files of ten megabytes, which is enough
/// as long as somebody frees one whenever somebody else wants one.
const SPARE: usize = 24 * 1024 * 1024;

/// With none wanted and none freed for so long, the spare ones go.
const UNUSED: Duration = Duration::from_secs(1);

/// Bytes that grow like a `Vec`'s, in a buffer that is used again if it is large.
#[derive(Default)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// An empty one with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Buffer {
        let mut buffer = match bytes < LARGE {
            true => Vec::with_capacity(bytes),
            false => Spare::lock()
                .take(bytes)
                .unwrap_or_else(|| Vec::with_capacity(bytes.next_multiple_of(STEP))),
        };
        buffer.clear();
        Buffer(buffer)
    }

    /// One of that length for somebody who overwrites all of it: it may hold zeros, or what
    /// was in it before. Zeros that nobody touches cost no memory.
    pub fn to_overwrite(length: usize) -> Buffer {
        let mut buffer = match length < LARGE {
            true => vec![0; length],
            false => Spare::lock()
                .take(length)
                .unwrap_or_else(|| vec![0; length.next_multiple_of(STEP)]),
        };
        buffer.resize(length, 0);
        Buffer(buffer)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.capacity() >= LARGE {
            let refused = Spare::lock().put(std::mem::take(&mut self.0));
            // Outside the lock: it may be given back to the system.
            drop(refused);
        }
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Buffer {
        Buffer(bytes)
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Gives spare buffers back to the system that nobody needs any more; to be called every now and
/// then.
pub fn release_unused() {
    let released = Spare::lock().release(UNUSED);
    // Outside the lock.
    drop(released);
}

/// Large buffers that wait to be used again, with what was last in them.
struct Spare {
    buffers: Vec<Vec<u8>>,
    /// When one was last wanted or freed.
    used: Option<Instant>,
}

static ALL_SPARE: Mutex<Spare> = Mutex::new(Spare {
    buffers: Vec::new(),
    used: None,
});

impl Spare {
    fn lock() -> MutexGuard<'static, Spare> {
        lock(&ALL_SPARE)
    }

    fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        self.used = Some(Instant::now());
        let fitting = bytes..=bytes.next_multiple_of(STEP);
        let found = self
            .buffers
            .iter()
            .position(|b| fitting.contains(&b.capacity()))?;
        Some(self.buffers.swap_remove(found))
    }

    /// Keeps a buffer, or returns it.
    fn put(&mut self, buffer: Vec<u8>) -> Option<Vec<u8>> {
        self.used = Some(Instant::now());
        let kept: usize = self.buffers.iter().map(Vec::capacity).sum();
        if kept + buffer.capacity() > SPARE {
            return Some(buffer);
        }
        self.buffers.push(buffer);
        None
    }

    /// Hands all out if none was wanted and none freed for `unused`.
    fn release(&mut self, unused: Duration) -> Vec<Vec<u8>> {
        match self.used.is_some_and(|used| used.elapsed() >= unused) {
            true => std::mem::take(&mut self.buffers),
            false => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_the_length_and_the_capacity_that_was_asked_for() {
        for bytes in [0, 1, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE, 10 * LARGE] {
            for _ in 0..3 {
                let empty = Buffer::with_capacity(bytes);
                assert!(empty.is_empty() && empty.capacity() >= bytes);
                let mut full = Buffer::to_overwrite(bytes);
                assert_eq!(full.len(), bytes);
                full.fill(7);
            }
        }
    }

    #[test]
    fn spare_buffers_are_bounded_used_again_and_released() {
        let capacities = |spare: &Spare| spare.buffers.iter().map(Vec::capacity).sum::<usize>();
        let mut spare = Spare {
            buffers: Vec::new(),
            used: None,
        };
        for _ in 0..5 {
            spare.put(vec![7; 3 * LARGE]);
        }
        assert_eq!(capacities(&spare), SPARE);
        assert!(spare.put(vec![7; LARGE]).is_some());
        assert!(spare.take(3 * LARGE + 1).is_none());
        assert!(spare.take(2 * LARGE).is_none());
        let fitting = spare.take(3 * LARGE - STEP + 1);
        assert_eq!(fitting.map(|b| b.len()), Some(3 * LARGE));
        assert!(spare.put(vec![7; SPARE]).is_some());
        assert_eq!(capacities(&spare), 3 * LARGE);
        assert!(spare.release(UNUSED * 60).is_empty());
        assert_eq!(spare.release(Duration::ZERO).len(), 1);
        assert_eq!(capacities(&spare), 0);
    }
}
