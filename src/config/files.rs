//! The table `files` of the configuration.

use std::time::Duration;

use super::reader::TomlReader;
use super::values::{
    CACHE_SIZES, MAX_SIZES, TOTAL_SIZES, boolean, duration, id_prefix, integer, interval, max_ttl,
};

/// The default of `files.max_size`, bytes, which is the Python server's: 9.75 MiB leave room for
/// the encryption and framing within the 10 MiB of an onion request.
const DEFAULT_MAX_SIZE: usize = 10_223_616;
/// The default of `files.cache_size`, bytes.
const DEFAULT_CACHE_SIZE: usize = 16_000_000;
/// The default of `files.expiry`.
const DEFAULT_EXPIRY: Duration = Duration::from_secs(21 * 24 * 60 * 60);
/// The default of `files.cleanup_interval`.
const DEFAULT_CLEANUP_INTERVAL: Duration = Duration::from_secs(15);

/// The table `files` of the configuration.
#[derive(Clone, Debug)]
pub struct Files {
    /// `files.max_size`: the largest file, bytes.
    pub max_size: usize,
    /// `files.max_total_size`: the most bytes of all files together. Uploads beyond it are
    /// refused. `None` for no limit.
    pub max_total_size: Option<u64>,
    /// `files.cache_size`: the size of the file cache, bytes; 0 for no cache.
    pub cache_size: usize,
    /// `files.expiry`: the lifetime of a file for which the client asks no other.
    pub expiry: Duration,
    /// `files.max_ttl`: the longest lifetime that `X-FS-TTL` may ask for. `None` ignores the
    /// header.
    pub max_ttl: Option<Duration>,
    /// `files.numeric_ids`: random decimal ids instead of content ids.
    pub numeric_ids: bool,
    /// `files.numeric_id_prefix`: the leading bits of every numeric id.
    pub numeric_id_prefix: Vec<bool>,
    /// `files.cleanup_interval`: the pause between two deletions of expired files.
    pub cleanup_interval: Duration,
}

impl Files {
    pub(super) fn take(keys: &mut TomlReader) -> Files {
        let max_size = keys.take("files.max_size", DEFAULT_MAX_SIZE, |value| {
            integer(value, MAX_SIZES, "bytes", "10_223_616")
        });
        let max_total_size = keys.take("files.max_total_size", None, |value| {
            integer(value, TOTAL_SIZES, "bytes", "50_000_000_000").map(|size| Some(size as u64))
        });
        let cache_size = keys.take("files.cache_size", DEFAULT_CACHE_SIZE, |value| {
            integer(value, CACHE_SIZES, "bytes", "16_000_000")
        });
        let expiry = keys.take("files.expiry", DEFAULT_EXPIRY, duration);
        Files {
            max_size,
            max_total_size,
            cache_size,
            expiry,
            numeric_ids: keys.take("files.numeric_ids", false, boolean),
            numeric_id_prefix: keys.take("files.numeric_id_prefix", Vec::new(), id_prefix),
            cleanup_interval: keys.take(
                "files.cleanup_interval",
                DEFAULT_CLEANUP_INTERVAL,
                interval,
            ),
            max_ttl: keys.take("files.max_ttl", Some(expiry), max_ttl),
        }
    }
}
