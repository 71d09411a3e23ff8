//! Buffers for bodies. Large ones are reused, because malloc would map each anew, and the system
//! clears the thousands of new pages first, which costs more than filling the buffer.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lock::lock;

/// The capacity, bytes, from which a buffer is large. Malloc returns memory of this size to the
/// system as soon as it is freed ([`crate::allocator`]).
pub const LARGE: usize = 4 * 1024 * 1024;

/// The unit of a large buffer's capacity, bytes. A buffer is reused only for a length that rounds
/// up to its capacity, so that a small file never holds the memory of a much larger one.
const CAPACITY_STEP: usize = 1024 * 1024;

/// The most memory that spare buffers take, bytes, if the machine has enough. This is enough for
/// two files of 10 MB, which suffices as long as buffers are freed as often as they are requested.
pub const MAX_SPARE_BYTES: usize = 24 * 1024 * 1024;

/// The time without a request or a return of a large buffer, after which spare ones are freed.
const SPARE_LIFETIME: Duration = Duration::from_secs(1);

/// A growable buffer of bytes, like `Vec<u8>`. Its memory is reused if it is large. It may have a
/// margin in front of its content, so that something can be [prepended](Buffer::prepend) without
/// moving that.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// Where the content begins in `bytes`.
    start: usize,
}

/// The room around what a buffer will hold, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Margins {
    /// In front of it.
    pub before: usize,
    /// Behind it.
    pub after: usize,
}

impl Buffer {
    /// An empty buffer with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Buffer {
        Buffer::with_margins(bytes, Margins::default())
    }

    /// An empty buffer with room for so many bytes, and for the margins around them.
    pub fn with_margins(bytes: usize, margins: Margins) -> Buffer {
        let all = margins.before + bytes + margins.after;
        let mut buffer = if all < LARGE {
            Vec::with_capacity(all)
        } else {
            lock(&SPARE_BUFFERS)
                .take(all)
                .unwrap_or_else(|| Vec::with_capacity(all.next_multiple_of(CAPACITY_STEP)))
        };
        buffer.clear();
        buffer.resize(margins.before, 0);
        Buffer {
            bytes: buffer,
            start: margins.before,
        }
    }

    /// A copy of these parts, one after the other, with room for `after` more bytes.
    pub fn copy_of(parts: &[&[u8]], after: usize) -> Buffer {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut copy = Buffer::with_capacity(length + after);
        parts.iter().for_each(|part| copy.extend_from_slice(part));
        copy
    }

    /// A buffer of that length, whose content is unspecified and must be overwritten by the
    /// caller. Zeroed pages that are never touched take no memory.
    pub fn to_overwrite(length: usize) -> Buffer {
        let mut buffer = if length < LARGE {
            vec![0; length]
        } else {
            lock(&SPARE_BUFFERS)
                .take(length)
                .unwrap_or_else(|| vec![0; length.next_multiple_of(CAPACITY_STEP)])
        };
        buffer.resize(length, 0);
        buffer.into()
    }

    /// Whether so much can be written around the content without moving it.
    pub fn has(&self, margins: Margins) -> bool {
        let after = self.bytes.capacity() - self.bytes.len();
        self.start >= margins.before && after >= margins.after
    }

    /// Writes in front of the content. Returns false, and writes nothing, if the margin is shorter.
    #[must_use]
    pub fn prepend(&mut self, head: &[u8]) -> bool {
        let Some(start) = self.start.checked_sub(head.len()) else {
            return false;
        };
        self.bytes[start..self.start].copy_from_slice(head);
        self.start = start;
        true
    }

    /// Appends bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Cuts the content to that length, if it is longer.
    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(self.start.saturating_add(length));
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.capacity() >= LARGE {
            let refused = lock(&SPARE_BUFFERS).put(std::mem::take(&mut self.bytes));
            // Unmapping takes time, so it happens outside the lock.
            drop(refused);
        }
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Buffer {
        Buffer { bytes, start: 0 }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// Lets spare buffers take at most so much memory, bytes, instead of [`MAX_SPARE_BYTES`].
pub fn limit_spare(bytes: usize) {
    lock(&SPARE_BUFFERS).limit = bytes;
}

/// Frees the spare buffers if none was needed for a while. Must be called regularly.
pub fn release_unused() {
    let released = lock(&SPARE_BUFFERS).release(SPARE_LIFETIME);
    // Unmapping takes time, so it happens outside the lock.
    drop(released);
}

/// Large buffers that wait to be reused. They still hold their last content.
struct SpareBuffers {
    /// The most memory that they take, bytes.
    limit: usize,
    buffers: Vec<Vec<u8>>,
    /// When a large buffer was last requested or returned.
    used: Option<Instant>,
}

static SPARE_BUFFERS: Mutex<SpareBuffers> = Mutex::new(SpareBuffers {
    limit: MAX_SPARE_BYTES,
    buffers: Vec::new(),
    used: None,
});

impl SpareBuffers {
    /// A spare buffer that fits so many bytes.
    fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        self.used = Some(Instant::now());
        let fitting = bytes..=bytes.next_multiple_of(CAPACITY_STEP);
        let found = self
            .buffers
            .iter()
            .position(|b| fitting.contains(&b.capacity()))?;
        Some(self.buffers.swap_remove(found))
    }

    /// Keeps a buffer, or returns it if the spare ones would take too much memory.
    fn put(&mut self, buffer: Vec<u8>) -> Option<Vec<u8>> {
        self.used = Some(Instant::now());
        let kept: usize = self.buffers.iter().map(Vec::capacity).sum();
        if kept + buffer.capacity() > self.limit {
            return Some(buffer);
        }
        self.buffers.push(buffer);
        None
    }

    /// Removes all buffers if none was requested or returned for `lifetime`.
    fn release(&mut self, lifetime: Duration) -> Vec<Vec<u8>> {
        if self.used.is_some_and(|used| used.elapsed() >= lifetime) {
            std::mem::take(&mut self.buffers)
        } else {
            Vec::new()
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
                assert!(empty.is_empty() && empty.bytes.capacity() >= bytes);
                let mut full = Buffer::to_overwrite(bytes);
                assert_eq!(full.len(), bytes);
                full.fill(7);
            }
        }
    }

    #[test]
    fn margins_hold_what_is_written_around_the_content() {
        let margins = Margins {
            before: 5,
            after: 3,
        };
        for content in [&[][..], b"content", &[7; 2 * LARGE]] {
            let mut buffer = Buffer::with_margins(content.len(), margins);
            buffer.extend_from_slice(content);
            let place = buffer.as_ptr();
            assert!(buffer.has(margins) && &buffer[..] == content);
            assert!(!buffer.prepend(b"too long") && &buffer[..] == content);
            assert!(buffer.prepend(b"le") && buffer.prepend(b"tit"));
            buffer.extend_from_slice(b"end");
            assert_eq!(buffer[5..].as_ptr(), place, "nothing was moved");
            assert_eq!(&buffer[..], [b"title", content, b"end"].concat());
            assert!(!buffer.has(Margins {
                before: 1,
                after: 0
            }));
            buffer.truncate(usize::MAX);
            assert_eq!(buffer.len(), content.len() + 8);
            buffer.truncate(6);
            assert_eq!(buffer.len(), 6);
            assert_eq!(&Buffer::copy_of(&[b"tit", b"le"], 9)[..], b"title");
        }
    }

    #[test]
    fn spare_buffers_are_bounded_used_again_and_released() {
        let capacities =
            |spare: &SpareBuffers| spare.buffers.iter().map(Vec::capacity).sum::<usize>();
        let mut spare = SpareBuffers {
            limit: MAX_SPARE_BYTES,
            buffers: Vec::new(),
            used: None,
        };
        for _ in 0..5 {
            spare.put(vec![7; 3 * LARGE]);
        }
        assert_eq!(capacities(&spare), MAX_SPARE_BYTES);
        assert!(spare.put(vec![7; LARGE]).is_some());
        assert!(spare.take(3 * LARGE + 1).is_none());
        assert!(spare.take(2 * LARGE).is_none());
        let fitting = spare.take(3 * LARGE - CAPACITY_STEP + 1);
        assert_eq!(fitting.map(|b| b.len()), Some(3 * LARGE));
        assert!(spare.put(vec![7; MAX_SPARE_BYTES]).is_some());
        assert_eq!(capacities(&spare), 3 * LARGE);
        assert!(spare.release(SPARE_LIFETIME * 60).is_empty());
        assert_eq!(spare.release(Duration::ZERO).len(), 1);
        assert_eq!(capacities(&spare), 0);
        spare.limit = 2 * LARGE;
        assert!(spare.put(vec![7; 3 * LARGE]).is_some());
        assert!(spare.put(vec![7; 2 * LARGE]).is_none());
    }
}
