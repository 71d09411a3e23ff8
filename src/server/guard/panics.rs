//! Panics of tiny_http, told apart from ours.
//!
//! **Fault.** tiny_http panics when a connection is lost in a bad moment, or a descriptor or a
//! thread can't be had. Each panic looks like a fault of ours in the log.
//!
//! **Where.** `client.rs`, `read` unwraps the client's address; `util/refined_tcp_stream.rs`,
//! `clone` unwraps a duplicate; `util/sequential.rs` unwraps what another thread has left; for
//! threads see [`super::threads`].
//!
//! **Seen** by fuzzing, and in `tests/confined.rs`.
//!
//! **Until** tiny_http returns errors there.

use std::cell::Cell;
use std::io;
use std::panic::{self, AssertUnwindSafe, Location, catch_unwind};
use std::thread;

/// Parts of the names of source files in which a thread of tiny_http may panic: its own, those of
/// the library that decodes chunks for it, and the standard library's, which panics where a
/// thread can't be started.
const SOURCES: [&str; 5] = [
    "tiny_http",
    "tiny-http",
    "chunked_transfer",
    "chunked-transfer",
    "/library/",
];

thread_local! {
    /// Whether this thread is in [`start_tiny_http`].
    static IS_IN_TINY_HTTP: Cell<bool> = const { Cell::new(false) };
}

/// Has panics of tiny_http's threads logged as what they are: connections that were lost. Other
/// panics are reported as before.
pub fn quieten_tiny_http() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if is_tiny_http(panic.location()) {
            log::debug!("a connection was lost: {panic}");
        } else {
            report(panic);
        }
    }));
}

/// Whether a panic comes out of tiny_http's code. Its threads have no names, but a library's may
/// have none either, so that the place must be a known one.
fn is_tiny_http(location: Option<&Location>) -> bool {
    let is_known = |at: &Location| SOURCES.iter().any(|part| at.file().contains(part));
    IS_IN_TINY_HTTP.get() || thread::current().name().is_none() && location.is_some_and(is_known)
}

/// Starts a tiny_http.
///
/// # Errors
/// When its accepting thread can't be started.
pub fn start_tiny_http(listener: tiny_http::Listener) -> io::Result<tiny_http::Server> {
    IS_IN_TINY_HTTP.set(true);
    let started = catch_unwind(AssertUnwindSafe(|| {
        tiny_http::Server::from_listener(listener, None)
    }));
    IS_IN_TINY_HTTP.set(false);
    match started {
        Ok(http) => http.map_err(io::Error::other),
        Err(_) => Err(io::Error::other("no thread is left")),
    }
}
