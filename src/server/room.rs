//! The memory that answers may take, and what one request has taken of it.
//!
//! A worker takes the bytes of a large answer before it makes the answer, together with what lies
//! beside it meanwhile: a file that is copied for its encryption, or its encoding. So what the
//! workers hold counts, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::budget::{Budget, Reservation};
use crate::protocol::http::Body;

/// How long a worker waits for the memory for a large answer, until other answers have arrived.
const PATIENCE: Duration = Duration::from_secs(2);

/// The memory that all answers may take.
pub struct AnswerMemory {
    budget: Budget,
    /// Workers that wait for the budget.
    waiting: AtomicUsize,
    /// The most workers that may wait for the budget, so that the others stay free for small
    /// answers.
    may_wait: usize,
}

impl AnswerMemory {
    /// A budget of `bytes`, for the answers of `workers` threads.
    pub fn new(bytes: usize, workers: usize) -> AnswerMemory {
        AnswerMemory {
            budget: Budget::new(bytes),
            waiting: AtomicUsize::new(0),
            may_wait: workers / 2,
        }
    }

    /// The budget of all bytes, taken or free.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The bytes that are taken.
    pub fn taken(&self) -> usize {
        self.budget.taken()
    }

    /// Calls `reserve` with no patience; if that fails, with some, unless too many workers wait
    /// already.
    fn patiently<T>(&self, reserve: impl Fn(Duration) -> Option<T>) -> Option<T> {
        reserve(Duration::ZERO).or_else(|| {
            let others = self.waiting.fetch_add(1, Ordering::SeqCst);
            let may_wait = others < self.may_wait;
            let reserved = may_wait.then(|| reserve(PATIENCE)).flatten();
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            reserved
        })
    }
}

/// What one request has taken of the memory for answers. It is given back when dropped.
pub struct Room {
    memory: Arc<AnswerMemory>,
    taken: Vec<Reservation>,
    /// Whether the request didn't get the memory that it needs, because others had taken too much.
    is_refused: bool,
}

impl Room {
    /// A room that has taken nothing yet.
    pub fn new(memory: &Arc<AnswerMemory>) -> Room {
        Room {
            memory: memory.clone(),
            taken: Vec::new(),
            is_refused: false,
        }
    }

    /// Takes `bytes` more, and may wait a moment for them. Returns false if others have taken too
    /// many. A request that wants more than the whole budget gets the whole budget once nobody else
    /// has any of it.
    #[must_use]
    pub fn take(&mut self, bytes: usize) -> bool {
        let budget = &self.memory.budget;
        let bytes = bytes.min(budget.total() - self.held());
        let reserved = self
            .memory
            .patiently(|patience| budget.reserve(bytes, patience));
        self.is_refused |= reserved.is_none();
        self.add(reserved)
    }

    /// Takes `bytes` more if they are free now.
    #[must_use]
    pub fn try_take(&mut self, bytes: usize) -> bool {
        let reserved = self.memory.budget.reserve(bytes, Duration::ZERO);
        self.add(reserved)
    }

    /// Gives back all that was taken.
    pub fn give_back(&mut self) {
        self.taken.clear();
    }

    /// Whether the request was refused for want of memory.
    pub(super) fn was_refused(&self) -> bool {
        self.is_refused
    }

    fn held(&self) -> usize {
        self.taken.iter().map(Reservation::bytes).sum()
    }

    fn add(&mut self, reserved: Option<Reservation>) -> bool {
        let is_taken = reserved.is_some();
        self.taken.extend(reserved);
        is_taken
    }

    /// Keeps the bytes of a complete answer, and gives the rest back. What was not taken before, as
    /// for a file from the cache, is taken now.
    pub(super) fn keep(self, body: &Body) -> Option<Arc<Reservation>> {
        let budget = &self.memory.budget;
        if let Body::Shared(buffer) = body {
            // A file that many clients fetch at once is in memory only once.
            if let Some(reserved) = budget.find(buffer) {
                return Some(reserved);
            }
        }
        let bytes = body.as_slice().len();
        let mut largest = self.taken.into_iter().max_by_key(Reservation::bytes);
        let reserved = match largest.take_if(|taken| taken.covers(bytes)) {
            Some(mut reserved) => {
                reserved.shrink(bytes);
                reserved
            }
            None => {
                drop(largest);
                self.memory
                    .patiently(|patience| budget.reserve(bytes, patience))?
            }
        };
        let reserved = Arc::new(reserved);
        if let Body::Shared(buffer) = body {
            budget.share(buffer, &reserved);
        }
        Some(reserved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buffer;

    const MB: usize = 1_000_000;

    fn shared(size: usize) -> Body {
        Body::Shared(Arc::new(Buffer::to_overwrite(size)))
    }

    #[test]
    fn a_request_keeps_the_bytes_of_its_answer_and_gives_the_rest_back() {
        let memory = Arc::new(AnswerMemory::new(4 * MB, 1));
        let mut room = Room::new(&memory);
        assert!(room.take(2 * MB));
        assert_eq!(memory.taken(), 2 * MB);
        let kept = room.keep(&shared(MB));
        assert!(kept.is_some());
        assert_eq!(memory.taken(), MB);
        drop(kept);
        assert_eq!(memory.taken(), 0);
    }

    #[test]
    fn what_others_have_taken_is_refused_and_one_request_can_always_run() {
        let memory = Arc::new(AnswerMemory::new(3 * MB, 1));
        let mut room = Room::new(&memory);
        assert!(room.take(2 * MB));
        let mut other = Room::new(&memory);
        assert!(!other.take(2 * MB) && other.was_refused() && !room.was_refused());
        assert!(other.take(1000), "small answers pass");
        assert!(room.take(9 * MB), "it gets what there is");
        assert_eq!(memory.taken(), 3 * MB);
        drop(room);
        assert!(other.take(9 * MB));
        assert_eq!(memory.taken(), 3 * MB);
    }

    #[test]
    fn a_file_that_many_fetch_from_the_cache_counts_once() {
        let memory = Arc::new(AnswerMemory::new(3 * MB, 1));
        let body = shared(2 * MB);
        let kept: Vec<_> = (0..3).map(|_| Room::new(&memory).keep(&body)).collect();
        assert!(kept.iter().all(Option::is_some));
        assert_eq!(memory.taken(), 2 * MB);
        assert!(Room::new(&memory).keep(&shared(2 * MB)).is_none());
        drop(kept);
        assert_eq!(memory.taken(), 0);
    }
}
