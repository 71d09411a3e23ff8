//! The memory of the process: whether somebody fills it with a head without end, which
//! tiny_http reads as far as it goes.

use std::fs;
use std::time::{Duration, Instant};

/// Memory that may be taken of a sudden beside what files in flight need, bytes. With more,
/// somebody sends a head without end: those whose heads have not come are shut down.
const MEMORY: u64 = 48 * 1024 * 1024;
/// Memory that has changed by no more than this, bytes,
const SETTLED: u64 = 2 * 1024 * 1024;
/// for this long is what the server has anyway.
const SETTLING: Duration = Duration::from_secs(1);
/// What a byte in flight may take: the file, the reply around it, for old clients that in base64,
/// what the file cache keeps of it, and a spare buffer.
const COPIES: u64 = 5;

/// Whether memory is taken that no file needs.
pub struct Memory {
    /// What the process had when it last had settled, bytes.
    settled: u64,
    /// What it had at a time after that, and since when it has hardly changed.
    seen: u64,
    since: Instant,
}

impl Memory {
    /// What the process has now is what it has anyway.
    pub fn new() -> Memory {
        Memory {
            settled: resident(),
            seen: 0,
            since: Instant::now(),
        }
    }

    /// Whether it is so now, with that many bytes of files in flight.
    pub fn is_short(&mut self, in_flight: u64, now: Instant) -> bool {
        let resident = resident();
        if resident.abs_diff(self.seen) > SETTLED {
            self.seen = resident;
            self.since = now;
        }
        if resident < self.settled || now > self.since + SETTLING {
            self.settled = resident;
        }
        resident > self.settled + MEMORY + COPIES * in_flight
    }
}

/// What the process has of the machine's memory, bytes; 0 if the system doesn't tell.
fn resident() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| {
            let resident = text.split(' ').nth(1)?;
            resident.parse::<u64>().ok()
        });
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}
