//! Whether somebody fills the memory with a line that has no end.
//!
//! **Fault.** tiny_http keeps a line of a head until its end comes, and the library that decodes
//! chunks for it keeps the size of a chunk. Either may grow until the process is killed.
//!
//! **Where.** `client.rs`, `read_next_line`; chunked_transfer's `decoder.rs`, `read_chunk_size`.
//!
//! **Seen.** `tests/hostile.rs` sends such lines.
//!
//! **Until** both libraries limit the length of a line.
//!
//! We see neither whose line it is nor how long, so that the memory of the process is watched.
//! While it is short, those go whose line may be the one ([`super::connections`],
//! [`super::local`]). This file is pure but for [`resident`].

use std::fs;
use std::time::{Duration, Instant};

/// Memory that may be taken of a sudden beside what files in flight need, bytes. With more, we
/// assume that somebody sends a line without end.
const MARGIN: u64 = 48 * 1024 * 1024;
/// Memory that has changed by less than this has settled, bytes.
const SETTLED: u64 = 2 * 1024 * 1024;
/// Memory that has settled for this long is what the server has anyway.
const SETTLING: Duration = Duration::from_secs(1);
/// What a byte in flight may take: itself, and what a spare buffer keeps of it. Bytes that a worker
/// copies are in flight, too.
const COPIES: u64 = 2;

/// Memory that is held for a reason, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// What bodies and answers take.
    pub in_flight: usize,
    /// What the service holds, as in the file cache, for as long as it likes.
    pub by_service: usize,
}

/// The memory that the process had lately.
pub struct Memory {
    /// What it had when it last had settled, bytes.
    settled: u64,
    /// What it had at `since`, bytes; it has hardly changed after that.
    seen: u64,
    since: Instant,
}

impl Memory {
    /// What the process has now, it has anyway.
    pub fn new(resident: u64, now: Instant) -> Memory {
        Memory {
            settled: resident,
            seen: resident,
            since: now,
        }
    }

    /// Whether memory is taken beyond what is `held` for a reason.
    pub fn is_short(&mut self, resident: u64, held: Held, now: Instant) -> bool {
        let resident = resident.saturating_sub(held.by_service as u64);
        if resident.abs_diff(self.seen) > SETTLED {
            self.seen = resident;
            self.since = now;
        }
        if resident < self.settled || now > self.since + SETTLING {
            self.settled = resident;
        }
        resident > self.settled + MARGIN + COPIES * held.in_flight as u64
    }
}

/// What the process has of the machine's memory, bytes; 0 if the system doesn't tell.
pub fn resident() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| {
            let resident = text.split(' ').nth(1)?;
            resident.parse::<u64>().ok()
        });
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn memory_is_short_when_it_grows_beyond_what_files_need() {
        let start = Instant::now();
        let mut memory = Memory::new(10 * MIB, start);
        assert!(!memory.is_short(58 * MIB, Held::default(), start));
        assert!(memory.is_short(59 * MIB, Held::default(), start));
        let file = Held {
            in_flight: MIB as usize,
            by_service: 0,
        };
        assert!(!memory.is_short(60 * MIB, file, start));
        assert!(memory.is_short(61 * MIB, file, start));
    }

    #[test]
    fn a_cache_that_fills_is_no_shortage() {
        let start = Instant::now();
        let mut memory = Memory::new(10 * MIB, start);
        let cache = Held {
            in_flight: 0,
            by_service: 200 * MIB as usize,
        };
        assert!(!memory.is_short(258 * MIB, cache, start));
        assert!(memory.is_short(259 * MIB, cache, start));
    }

    #[test]
    fn memory_that_has_settled_is_what_the_server_has_anyway() {
        let start = Instant::now();
        let mut memory = Memory::new(10 * MIB, start);
        let none = Held::default();
        assert!(memory.is_short(70 * MIB, none, start));
        assert!(memory.is_short(71 * MIB, none, start + SETTLING));
        let later = start + SETTLING + Duration::from_millis(1);
        assert!(!memory.is_short(71 * MIB, none, later));
        assert!(!memory.is_short(10 * MIB, none, later), "given back");
        assert!(memory.is_short(70 * MIB, none, later));
    }
}
