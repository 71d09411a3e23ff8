//! Settings of glibc's malloc, which by default keeps far more freed memory than our operators
//! have.
//!
//! Without unsafe code malloc can be set through the environment only, which it reads before
//! the program starts. So the program sets the variables and restarts itself (`exec`).

use std::os::unix::process::CommandExt;

use crate::buffer;

/// The variable and size, bytes, from which malloc maps a buffer on its own and unmaps it when
/// it is freed. Smaller files are most of the traffic and cost no system call.
const MMAP_THRESHOLD: (&str, usize) = ("MALLOC_MMAP_THRESHOLD_", buffer::LARGE);

/// The variable and number of malloc's arenas. An arena can't use the memory that another one
/// keeps (measured: 160 MB after eight endless heads, 80 MB with two arenas).
const ARENA_MAX: (&str, &str) = ("MALLOC_ARENA_MAX", "2");

/// The variable and size, bytes, of the free memory that malloc keeps at the end of its heap.
/// With less, each buffer of a megabyte costs the system hundreds of pages, a tenth of the
/// throughput.
const TRIM_THRESHOLD: (&str, &str) = ("MALLOC_TRIM_THRESHOLD_", "8388608");

/// Restarts the program with a fixed [`MMAP_THRESHOLD`], unless it runs with one already.
///
/// Malloc raises the threshold up to 32 MiB by itself when it meets larger buffers, and then
/// keeps the buffers of large files for ever (measured: 290 MB after a burst of 10 MB files over
/// all workers; 19 MB with a fixed threshold and a full cache).
///
/// # Errors
/// Those of `exec`. On success it doesn't return.
pub fn return_large_buffers() -> std::io::Result<()> {
    let (name, value) = MMAP_THRESHOLD;
    if std::env::var_os(name).is_some() {
        return Ok(());
    }
    let mut program = std::process::Command::new(std::env::current_exe()?);
    program
        .args(std::env::args_os().skip(1))
        .env(name, value.to_string())
        .env(TRIM_THRESHOLD.0, TRIM_THRESHOLD.1)
        .env(ARENA_MAX.0, ARENA_MAX.1);
    Err(program.exec())
}
