//! What glibc's malloc keeps of the memory that is freed.
//!
//! By itself it keeps far more than our operators have. It takes orders from the environment
//! alone, unless unsafe code is used, and reads them before the program starts: so the program
//! sets them and starts itself once more.

use std::os::unix::process::CommandExt;

use crate::buffer;

/// The size from which glibc's malloc takes a buffer from the system, and gives it back
/// when it is freed, bytes. Files below it are most of the traffic and cost no system call.
const MMAP_THRESHOLD: (&str, usize) = ("MALLOC_MMAP_THRESHOLD_", buffer::LARGE);
/// Memory that malloc keeps apart for threads: what one part keeps, no other can use (seen:
/// 160 MB after eight heads without end, 80 MB with this).
const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "2");
/// What malloc keeps at the end of each part for the next buffer, bytes: with less, each
/// buffer of a megabyte costs the system hundreds of pages, a tenth of the throughput.
const TRIM_THRESHOLD: (&str, &str) = ("MALLOC_TRIM_THRESHOLD_", "8388608");

/// Keeps malloc from raising that size when it meets a larger buffer, as it does by itself
/// up to 32 MiB: then the buffers of large files stay with the process for ever (seen: 290 MB
/// after a burst of 10 MB files over all workers, 19 MB with this and a full cache). Only the
/// environment can say so without unsafe code, and only before the program starts: so it starts
/// once more, in its place. Returns if it has been, or if that fails.
pub fn return_large_buffers() -> std::io::Result<()> {
    let (name, value) = MMAP_THRESHOLD;
    if std::env::var_os(name).is_some() {
        return Ok(());
    }
    let mut again = std::process::Command::new(std::env::current_exe()?);
    again
        .args(std::env::args_os().skip(1))
        .env(name, value.to_string())
        .env(TRIM_THRESHOLD.0, TRIM_THRESHOLD.1)
        .env(ARENAS.0, ARENAS.1);
    Err(again.exec())
}
