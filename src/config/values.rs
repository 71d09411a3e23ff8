//! What each value may be: a node of the file becomes what it means, or a sentence about
//! what is wrong with it and what would be right.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::Node;
use super::{DAY, DEFAULT_GITHUB_API, DEFAULT_LISTEN, Listen, Token};
use crate::db;

/// Far beyond any use, and far below where PostgreSQL's timestamps end.
const LONGEST: Duration = Duration::from_secs(100 * 365 * DAY);
/// Files are held in memory whole while they are received and sent.
pub(super) const MAX_SIZES: RangeInclusive<i64> = 1..=256 * 1024 * 1024;
/// Bytes of the file cache: a terabyte is more than the memory of any machine for this.
pub(super) const CACHE_SIZES: RangeInclusive<i64> = 0..=1 << 40;
/// Bytes of all files: up to a quarter of what 64 bits hold, so that sums never overflow.
pub(super) const TOTAL_SIZES: RangeInclusive<i64> = 1..=i64::MAX / 4;
pub(super) const WORKERS: RangeInclusive<i64> = 1..=256;
/// 33 random bits remain below the longest prefix: enough for 25 tries to find a free one.
const MAX_PREFIX_BITS: usize = 20;
/// A Unix socket's address holds 108 bytes with its final zero (`man 7 unix`).
const MAX_SOCKET_PATH: usize = 107;

pub(super) fn integer(
    value: &Node,
    range: RangeInclusive<i64>,
    unit: &str,
    example: &str,
) -> Result<usize, String> {
    match value {
        Node::Integer(number) if range.contains(number) => Ok(*number as usize),
        other => Err(format!(
            "{other} is not a whole number of {unit} from {} to {}; write for example {example}",
            range.start(),
            range.end()
        )),
    }
}

pub(super) fn boolean(value: &Node) -> Result<bool, String> {
    match value {
        Node::Boolean(value) => Ok(*value),
        other => Err(format!("{other} is neither true nor false")),
    }
}

pub(super) fn text<'a>(value: &'a Node, example: &str) -> Result<&'a str, String> {
    match value {
        Node::Text(text) => Ok(text),
        other => Err(format!(
            "{other} is not a text in quotes; write for example {example}"
        )),
    }
}

pub(super) fn duration(value: &Node) -> Result<Duration, String> {
    let example = r#""3 weeks", "12 h" or "90 s""#;
    let text = text(value, example)?;
    match humantime::parse_duration(text) {
        Ok(duration) if (Duration::from_secs(1)..=LONGEST).contains(&duration) => Ok(duration),
        Ok(_) => Err(format!("{value} is not between a second and 100 years")),
        Err(_) => Err(format!(
            "{value} is not a duration; write for example {example}"
        )),
    }
}

pub(super) fn max_ttl(value: &Node) -> Result<Option<Duration>, String> {
    match value {
        Node::Integer(0) => Ok(None),
        Node::Text(text) if text.trim() == "0" => Ok(None),
        other => duration(other)
            .map(Some)
            .map_err(|error| format!("{error} (or 0, which ignores X-FS-TTL)")),
    }
}

pub(super) fn interval(value: &Node) -> Result<Duration, String> {
    match duration(value)? {
        interval if interval <= Duration::from_secs(DAY) => Ok(interval),
        _ => Err(format!("{value} is longer than a day")),
    }
}

pub(super) fn id_prefix(value: &Node) -> Result<Vec<bool>, String> {
    let text = text(value, r#""01""#)?;
    if text.len() > MAX_PREFIX_BITS || text.bytes().any(|bit| !matches!(bit, b'0' | b'1')) {
        return Err(format!(
            r#"{value} is not up to {MAX_PREFIX_BITS} binary digits; write for example "01""#
        ));
    }
    Ok(text.bytes().map(|bit| bit == b'1').collect())
}

pub(super) fn listen(value: &Node, folder: &Path) -> Result<Listen, String> {
    let example = format!(r#""{DEFAULT_LISTEN}" or "unix:/run/session-file-server/http.sock""#);
    let text = text(value, &example)?;
    if let Some(path) = text.strip_prefix("unix:") {
        let path = folder.join(path);
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

pub(super) fn file_path(value: &Node, folder: &Path) -> Result<PathBuf, String> {
    match text(value, r#""key_ed25519""#)? {
        "" => Err("the path is empty".into()),
        path => Ok(folder.join(path)),
    }
}

pub(super) fn project_name(value: &Node) -> Result<String, String> {
    let example = r#""session-foundation/session-desktop""#;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_name = |part: &str| !part.is_empty() && part.chars().all(allowed);
    match text(value, example)?.split_once('/') {
        Some((owner, name)) if is_name(owner) && is_name(name) => Ok(format!("{owner}/{name}")),
        _ => Err(format!(
            "{value} is not owner/name; write for example {example}"
        )),
    }
}

pub(super) fn api_url(value: &Node) -> Result<String, String> {
    let example = format!("{DEFAULT_GITHUB_API:?}");
    let url = text(value, &example)?.trim_end_matches('/');
    let host = url.strip_prefix("https://").or(url.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic()) => {
            Ok(url.to_string())
        }
        _ => Err(format!("{value} is not a URL; write for example {example}")),
    }
}

pub(super) fn token(value: &Node) -> Result<Option<Token>, String> {
    match value {
        Node::Text(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => {
            Ok(Some(Token(text.clone())))
        }
        // What was written may be nearly the secret: it is not repeated.
        _ => Err("not a GitHub token: a text in quotes, without spaces".into()),
    }
}

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

pub(super) fn database_url(value: &Node) -> Result<db::Settings, String> {
    let example = format!(
        r#""{}" or "postgresql://user@host/sessionfiles""#,
        db::DEFAULT_URL
    );
    // The url may hold a password: it is not repeated in the message.
    db::Settings::parse(text(value, &example)?).map_err(|error| {
        format!("not the address of a database ({error}); write for example {example}")
    })
}
