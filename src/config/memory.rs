//! How the setting `memory` is divided, and what it is by default.

use super::Config;
use super::reader::Node;
use super::values::{MAX_MEMORY, integer};
use crate::buffer::MAX_SPARE_BYTES;
use crate::machine::Limits;
use crate::protocol::http::{base64_json_limit, base64_length};
use crate::protocol::onion;
use crate::quantity::bytes;

/// The memory for bodies and for answers of a server that has enough, bytes: 96 MiB each hold nine
/// of the largest files, or four answers with them that are being encrypted.
const ENOUGH_IN_FLIGHT: usize = 2 * 96 * MIB;
/// The part of the memory beside the cache that is for spare buffers, as a divisor.
const SPARE_DIVISOR: usize = 8;
/// The part of a machine's memory that is the server's by default, as a divisor: the system, the
/// database and the web server need more than the server does.
const MACHINE_DIVISOR: u64 = 4;
/// The part of a limit on the server alone that is the setting's by default, as a divisor. The
/// other half is for what the setting doesn't count: the program, its threads, small requests, and
/// heads.
const OWN_DIVISOR: u64 = 2;
/// Bytes of a mebibyte.
const MIB: usize = 1024 * 1024;

/// The shares of the memory, bytes. Their sum is `memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// For the file cache: `files.cache_size`.
    pub cache: usize,
    /// For freed buffers that wait to be used again.
    pub spare: usize,
    /// For bodies that are received, wait, or are worked on.
    pub bodies: usize,
    /// For answers, from when a worker begins to make one until its client has it.
    pub answers: usize,
}

impl Shares {
    /// The shares of `memory` bytes, which are not fewer than [`least`].
    fn of(memory: usize, cache: usize) -> Shares {
        let rest = memory.saturating_sub(cache);
        let spare = (rest / SPARE_DIVISOR).min(MAX_SPARE_BYTES);
        let bodies = (rest - spare) / 2;
        Shares {
            cache,
            spare,
            bodies,
            answers: rest - spare - bodies,
        }
    }

    /// The sum of the shares, bytes.
    pub fn total(&self) -> usize {
        self.cache + self.spare + self.bodies + self.answers
    }
}

impl Config {
    /// How the memory is divided: that of the setting, or what a machine with these limits has for
    /// the server.
    pub fn shares(&self, limits: &Limits) -> Shares {
        let (max_size, cache) = (self.files.max_size, self.files.cache_size);
        let memory = self
            .memory
            .unwrap_or_else(|| default(limits, max_size, cache));
        Shares::of(memory, cache)
    }

    /// The smallest value of `memory` with the other settings, bytes.
    pub fn least_memory(&self) -> usize {
        least(self.files.max_size, self.files.cache_size)
    }
}

/// The value of the setting, bytes.
pub(super) fn setting(value: &Node, least: usize) -> Result<Option<usize>, String> {
    let memory = integer(value, 1..=MAX_MEMORY, "bytes", "120_000_000")?;
    if memory < least {
        return Err(format!(
            "{value} is too little: with this files.max_size and files.cache_size it must be at \
             least {least} ({}), so that the largest file of an old client can be received and \
             sent; raise it, or lower one of these",
            bytes(least as u64)
        ));
    }
    Ok(Some(memory))
}

/// The smallest value of the setting, bytes, with which every request can be answered if it is
/// alone: the share of bodies has room for the largest body, and that of answers for the largest
/// answer.
pub(super) fn least(max_size: usize, cache: usize) -> usize {
    let share = largest_body(max_size).max(largest_answer(max_size));
    let rest = 2 * share;
    // Of small memory the spare buffers have an eighth, of large memory a fixed number of bytes.
    let spare = (rest.div_ceil(SPARE_DIVISOR - 1)).min(MAX_SPARE_BYTES);
    cache + rest + spare
}

/// The default of the setting, bytes.
fn default(limits: &Limits, max_size: usize, cache: usize) -> usize {
    let of_machine = limits.shared.map(|shared| shared / MACHINE_DIVISOR);
    let of_own = limits.own.map(|own| own / OWN_DIVISOR);
    let fraction = of_machine.into_iter().chain(of_own).min();
    let fraction = fraction.and_then(|bytes| usize::try_from(bytes).ok());
    let enough = cache + MAX_SPARE_BYTES + ENOUGH_IN_FLIGHT;
    fraction
        .map_or(enough, |fraction| fraction.min(enough))
        .max(least(max_size, cache))
}

/// The most memory that a body takes while it is received, bytes: the largest kind of body, and the
/// buffer of a mebibyte that a body in chunks has outgrown.
fn largest_body(max_size: usize) -> usize {
    base64_json_limit(max_size).max(onion::body_limit(max_size)) + MIB
}

/// The most memory that an answer takes while it is made, and that a worker needs beside a body,
/// bytes. That is either a file in the encoding of old clients together with the base64 of their
/// reply, or the text of their upload (taken out of a v3 request's JSON) together with its copy
/// without escapes and the file.
pub fn largest_answer(max_size: usize) -> usize {
    // 2 KiB are more than what stands around the file, and around the reply.
    let encoded = base64_length(max_size) + 2048;
    let download = encoded + base64_length(encoded);
    let upload = |text: usize| text + text / 4 * 3;
    let request = onion::body_limit(max_size);
    download
        .max(request + upload(request))
        .max(upload(base64_json_limit(max_size)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const MAX_SIZE: usize = 10_223_616;
    const CACHE: usize = 16_000_000;
    const GIB: u64 = 1 << 30;

    fn limits(shared: Option<u64>, own: Option<u64>) -> Limits {
        Limits { shared, own }
    }

    #[test]
    fn a_large_machine_has_96_mib_each_for_bodies_and_answers() {
        let config = Config::default();
        for limits in [
            limits(Some(GIB), None),
            limits(Some(64 * GIB), Some(8 * GIB)),
            limits(None, None),
        ] {
            let shares = config.shares(&limits);
            assert_eq!(shares.cache, CACHE);
            assert_eq!(shares.spare, 24 * MIB);
            assert_eq!((shares.bodies, shares.answers), (96 * MIB, 96 * MIB));
        }
    }

    #[test]
    fn a_small_machine_has_a_quarter_and_a_limited_server_a_half_and_the_least_counts() {
        let mib = 1024 * 1024;
        let total = |shared, own| Config::default().shares(&limits(shared, own)).total() as u64;
        assert_eq!(total(Some(512 * mib), None), 128 * mib);
        assert_eq!(total(Some(64 * GIB), Some(300 * mib)), 150 * mib);
        assert_eq!(total(Some(512 * mib), Some(512 * mib)), 128 * mib);
        assert_eq!(total(None, Some(256 * mib)), 128 * mib);
        let least = Config::default().least_memory() as u64;
        assert_eq!(total(Some(64 * mib), None), least);
        assert!(least < 100_000_000, "{least}");
    }

    #[test]
    fn the_shares_are_the_memory_and_the_least_has_room_for_one_request() {
        for max_size in [1, 1000, MAX_SIZE, 256 * MIB] {
            for cache in [0, CACHE, 1 << 30] {
                let least = least(max_size, cache);
                for memory in [least, least + 1, least + 12_345_678, least * 2] {
                    let shares = Shares::of(memory, cache);
                    assert_eq!(shares.total(), memory);
                    assert!(shares.bodies >= largest_body(max_size), "{shares:?}");
                    assert!(shares.answers >= largest_answer(max_size), "{shares:?}");
                }
                let shares = Shares::of(least - 1000, cache);
                let is_short = shares.bodies < largest_body(max_size)
                    || shares.answers < largest_answer(max_size);
                assert!(is_short, "{shares:?}");
            }
        }
    }

    #[test]
    fn a_cache_that_leaves_too_little_is_a_mistake_that_names_both_keys() {
        let parse = |text: &str| Config::parse(text, Path::new("config.toml"));
        let least = least(MAX_SIZE, CACHE);
        assert!(parse(&format!("memory = {least}")).is_ok());
        for text in [
            &*format!("memory = {}", least - 1),
            "memory = 200_000_000\nfiles.cache_size = 150_000_000",
            "memory = 200_000_000\nfiles.max_size = 100_000_000",
        ] {
            let mistakes = parse(text).expect_err(text);
            let mistake = mistakes[0].to_string();
            assert!(
                mistake.starts_with("1: memory: ") && mistake.contains("files.cache_size"),
                "{mistake}"
            );
        }
        // Without the setting a large cache comes on top, as it did before there was the setting.
        let config = parse("files.cache_size = 1_000_000_000").expect("valid");
        let shares = config.shares(&limits(Some(64 * GIB), None));
        assert_eq!((shares.cache, shares.bodies), (1_000_000_000, 96 * MIB));
    }
}
