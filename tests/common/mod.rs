//! The fixture: a private PostgreSQL per test program, a database per test, and the real
//! server on it.

// Every test program uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod acknowledged;
mod client;
mod cluster;
mod failover;
mod github;
mod load;
mod onion;
mod pgbouncer;
mod pooler;
pub mod raw;
mod sandbox;
mod server;
mod service;
mod signing;
mod web;

use std::time::{Duration, Instant};

pub use client::{Connection, Response};
pub use cluster::{Cluster, Database, is_root, succeed, tool};
pub use failover::processes_in;
pub use github::{GitHub, Script};
pub use load::under_load;
pub use onion::{Onion, Reply, bencoded, new_exchange, nonce};
pub use pgbouncer::PgBouncer;
pub use pooler::Pooler;
pub use server::{BINARY, Server, config_folder, run, signal};
pub use signing::sign;
pub use web::{Setup, Web, free_port, open_to_all};

/// Waits until `condition` holds; the test fails if it doesn't for a minute.
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(Duration::from_secs(60), what, condition);
}

/// Waits until `condition` holds; the test fails if it doesn't for that time.
pub fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes that differ from those of any other seed.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    // Xorshift (Marsaglia 2003), so that nothing compresses or repeats.
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
