//! The checks of each value. A check turns a node of the file into a setting, or into a sentence
//! about what is wrong and what would be right.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::Node;
use super::{DEFAULT_LISTEN, Listen};
use crate::{db, descriptors};

/// The seconds of a day.
const DAY: u64 = 24 * 60 * 60;
/// The longest duration of any setting. It is far from the end of PostgreSQL's timestamps.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * DAY);
/// The values of `files.max_size`, bytes. A file is held in memory as a whole while it is
/// received and sent.
pub(super) const MAX_SIZES: RangeInclusive<i64> = 1..=256 * 1024 * 1024;
/// The values of `files.cache_size`, bytes. A terabyte is more than any machine has.
pub(super) const CACHE_SIZES: RangeInclusive<i64> = 0..=1 << 40;
/// The largest value of `memory`, bytes. Four terabytes are more than any machine has, and less
/// than numbers overflow at when they are multiplied by 16.
pub(super) const MAX_MEMORY: i64 = 1 << 42;
/// The values of `files.max_total_size`, bytes. With a quarter of the largest integer, sums never
/// overflow.
pub(super) const TOTAL_SIZES: RangeInclusive<i64> = 1..=i64::MAX / 4;
/// The values of `workers`.
pub(super) const WORKERS: RangeInclusive<i64> = 1..=256;
/// The longest `files.numeric_id_prefix`, bits. It leaves 33 random bits, enough to find a free id
/// in 25 tries.
const MAX_PREFIX_BITS: usize = 20;
/// The most addresses to listen on: a server that restarts itself hands all of them over at once.
pub const MAX_LISTEN: usize = descriptors::AT_ONCE;
/// The longest path of a Unix socket, bytes. The address holds 108 with the final zero (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// A whole number within `range`.
pub(super) fn integer(
    value: &Node,
    range: RangeInclusive<i64>,
    unit: &str,
    example: &str,
) -> Result<usize, String> {
    // Where addresses have 32 bits, nothing is as large as the largest settings.
    let range = *range.start()..=(*range.end()).min(isize::MAX as i64);
    match value {
        Node::Integer(number) if range.contains(number) => Ok(*number as usize),
        other => Err(format!(
            "{other} is not a whole number of {unit} from {} to {}; write for example {example}",
            range.start(),
            range.end()
        )),
    }
}

/// `true` or `false`.
pub(super) fn boolean(value: &Node) -> Result<bool, String> {
    match value {
        Node::Boolean(value) => Ok(*value),
        other => Err(format!("{other} is neither true nor false")),
    }
}

/// Any string. The message about anything else shows `example`.
pub(super) fn text<'a>(value: &'a Node, example: &str) -> Result<&'a str, String> {
    match value {
        Node::Text(text) => Ok(text),
        other => Err(format!(
            "{other} is not a text in quotes; write for example {example}"
        )),
    }
}

/// A duration from a second to [`MAX_DURATION`].
pub(super) fn duration(value: &Node) -> Result<Duration, String> {
    let example = r#""3 weeks", "12 h" or "90 s""#;
    let text = text(value, example)?;
    match humantime::parse_duration(text) {
        Ok(duration) if (Duration::from_secs(1)..=MAX_DURATION).contains(&duration) => Ok(duration),
        Ok(_) => Err(format!("{value} is not between a second and 100 years")),
        Err(_) => Err(format!(
            "{value} is not a duration; write for example {example}"
        )),
    }
}

/// A duration, or 0 for none.
pub(super) fn max_ttl(value: &Node) -> Result<Option<Duration>, String> {
    match value {
        Node::Integer(0) => Ok(None),
        Node::Text(text) if text.trim() == "0" => Ok(None),
        other => duration(other)
            .map(Some)
            .map_err(|error| format!("{error} (or 0, which ignores X-FS-TTL)")),
    }
}

/// A duration of a day at most.
pub(super) fn interval(value: &Node) -> Result<Duration, String> {
    match duration(value)? {
        interval if interval <= Duration::from_secs(DAY) => Ok(interval),
        _ => Err(format!("{value} is longer than a day")),
    }
}

/// Up to [`MAX_PREFIX_BITS`] binary digits.
pub(super) fn id_prefix(value: &Node) -> Result<Vec<bool>, String> {
    let text = text(value, r#""01""#)?;
    if text.len() > MAX_PREFIX_BITS || text.bytes().any(|bit| !matches!(bit, b'0' | b'1')) {
        return Err(format!(
            r#"{value} is not up to {MAX_PREFIX_BITS} binary digits; write for example "01""#
        ));
    }
    Ok(text.bytes().map(|bit| bit == b'1').collect())
}

/// An address to listen on, or a list of them.
pub(super) fn listen(value: &Node, folder: &Path) -> Result<Vec<Listen>, String> {
    let example = format!(r#""{DEFAULT_LISTEN}" or "unix:/run/session-file-server/http.sock""#);
    let Node::List(nodes) = value else {
        return Ok(vec![address(value, folder, &example)?]);
    };
    match nodes.len() {
        0 => {
            return Err(format!(
                "an empty list; write for example \"{DEFAULT_LISTEN}\""
            ));
        }
        count if count > MAX_LISTEN => {
            return Err(format!("{count} addresses are more than {MAX_LISTEN}"));
        }
        _ => {}
    }
    let mut listens = Vec::new();
    for node in nodes {
        let listen = address(node, folder, &example)?;
        // Of port 0 the system makes another port each time.
        let is_chosen = matches!(&listen, Listen::Tcp(address) if address.ends_with(":0"));
        if listens.contains(&listen) && !is_chosen {
            return Err(format!("{node} is there twice"));
        }
        if let Some(all) = listens.iter().find(|other| is_part_of(&listen, other)) {
            return Err(format!("{node} is in {all} already"));
        }
        if let Some(part) = listens.iter().find(|other| is_part_of(other, &listen)) {
            return Err(format!("{part} is in {node} already"));
        }
        listens.push(listen);
    }
    Ok(listens)
}

/// Whether one address is in another that stands for several: an IPv4 address in all IPv4 addresses
/// or in `[::]`, which is all of both families, unless the list has all IPv4 addresses as well.
fn is_part_of(one: &Listen, all: &Listen) -> bool {
    let parse = |listen: &Listen| match listen {
        Listen::Tcp(address) => address.parse::<SocketAddr>().ok(),
        Listen::Unix(_) => None,
    };
    match (parse(one), parse(all)) {
        (Some(one), Some(all)) => {
            one.port() == all.port()
                && one.port() != 0
                && all.ip().is_unspecified()
                && !one.ip().is_unspecified()
                && (all.is_ipv6() || one.is_ipv4())
        }
        _ => false,
    }
}

/// An address with a port, or `unix:` and a path, which starts at `folder` if it is relative.
/// Messages show `example`.
pub(super) fn address(value: &Node, folder: &Path, example: &str) -> Result<Listen, String> {
    let text = text(value, example)?;
    if let Some(path) = text.strip_prefix("unix:") {
        // Without `.`, so that the same path is known again.
        let path: PathBuf = folder.join(path).components().collect();
        return match path.as_os_str().len() {
            _ if text == "unix:" => Err(format!("{value} has no path; write {example}")),
            length if length > MAX_SOCKET_PATH => Err(format!(
                "the path {} is longer than the {MAX_SOCKET_PATH} bytes that a Unix socket's \
                 path can have",
                path.display()
            )),
            _ => Ok(Listen::Unix(path)),
        };
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(Listen::Tcp(text.to_string()))
        }
        _ => Err(format!(
            "{value} is not an address with a port; write for example {example}"
        )),
    }
}

/// A path, which starts at `folder` if it is relative.
pub(super) fn file_path(value: &Node, folder: &Path) -> Result<PathBuf, String> {
    match text(value, r#""key_ed25519""#)? {
        "" => Err("the path is empty".into()),
        path => Ok(folder.join(path)),
    }
}

/// The permissions of a file, as a string of octal digits.
pub(super) fn socket_mode(value: &Node) -> Result<u32, String> {
    let example = r#""660""#;
    let text = text(value, example)?;
    match u32::from_str_radix(text, 8) {
        Ok(mode) if (3..=4).contains(&text.len()) && mode <= 0o777 => Ok(mode),
        _ => Err(format!(
            "{value} is not three octal digits; write for example {example}"
        )),
    }
}

/// The name of a log level.
pub(super) fn log_level(value: &Node) -> Result<log::LevelFilter, String> {
    match text(value, r#""info""#)? {
        "error" => Ok(log::LevelFilter::Error),
        "warn" => Ok(log::LevelFilter::Warn),
        "info" => Ok(log::LevelFilter::Info),
        "debug" => Ok(log::LevelFilter::Debug),
        "trace" => Ok(log::LevelFilter::Trace),
        _ => Err(format!(
            r#"{value} is none of "error", "warn", "info", "debug", "trace""#
        )),
    }
}

/// The connection string or URL of a database.
pub(super) fn database_url(value: &Node) -> Result<db::Settings, String> {
    let example = format!(
        r#""{}" or "postgresql://user@host/sessionfiles""#,
        db::DEFAULT_URL
    );
    let parsed = db::Settings::parse(text(value, &example)?);
    // The URL isn't repeated, because it may hold a password.
    parsed.map_err(|error| {
        format!("not the address of a database ({error}); write for example {example}")
    })
}

/// The connection string or URL of replicas.
pub(super) fn replicas(value: &Node) -> Result<db::Settings, String> {
    let example = r#""host=replica.example dbname=sessionfiles sslmode=verify-full""#;
    let parsed = db::Settings::parse_replicas(text(value, example)?);
    // The URL isn't repeated, because it may hold a password.
    parsed.map_err(|error| {
        format!("not the address of a replica ({error}); write for example {example}")
    })
}
