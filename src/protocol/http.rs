//! Requests and responses as plain data: what a handler takes and gives, whichever door
//! the request came through.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Value, json};

use crate::buffer::Buffer;
use crate::protocol::file_id::FileId;

/// Content type of every JSON answer. Clients compare the whole value.
pub const JSON: &str = "application/json";
/// Content type of every text answer. Clients compare the whole value.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// Content type of a file. Clients compare the whole value.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// Base64 as clients send it: the standard alphabet (RFC 4648, 4), padded or not.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a client is told when the server or the database can't serve it now, seconds.
pub const RETRY_AFTER: u32 = 5;

/// A request method, as far as the server tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD: works wherever GET does.
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// Any other; no endpoint has one.
    Other,
}

impl Method {
    /// The method that `name` names; in HTTP, names are case-sensitive (RFC 9110, 9.1).
    pub fn parse(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            _ => Method::Other,
        }
    }

    /// The method's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Other => "(other)",
        }
    }
}

/// Header fields in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of the first field of that name, in any case, which is not empty: some
    /// clients send a field without a value where others leave it away.
    pub fn get(&self, name: &str) -> Option<&str> {
        let named = self.0.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named
            .map(|(_, value)| value.as_str())
            .find(|v| !v.is_empty())
    }
}

impl FromIterator<(String, String)> for Headers {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(fields: I) -> Headers {
        Headers(fields.into_iter().collect())
    }
}

/// A request that was received whole, as it came in at the door.
#[derive(Debug)]
pub struct Incoming {
    /// Its method.
    pub method: Method,
    /// Path and query as the client sent them, but for [`one_slash`].
    pub target: String,
    /// Its header fields.
    pub headers: Headers,
    /// Its body, empty if there was none.
    pub body: Buffer,
}

impl Incoming {
    /// The request as a handler sees it.
    pub fn as_request(&self) -> Request<'_> {
        Request {
            method: self.method,
            target: &self.target,
            headers: &self.headers,
            body: &self.body,
        }
    }
}

/// A request as a handler sees it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: Method,
    /// Path and query as the client sent them, but for [`one_slash`].
    pub target: &'a str,
    /// Its header fields.
    pub headers: &'a Headers,
    /// Its body, empty if there was none.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// The target without its query.
    pub fn path(&self) -> &'a str {
        path_of(self.target)
    }

    /// The value of the first parameter of that name in the query.
    pub fn query(&self, name: &str) -> Option<Cow<'a, str>> {
        let (_, query) = self.target.split_once('?')?;
        let query = query.split('#').next().unwrap_or("");
        let mut found = form_urlencoded::parse(query.as_bytes());
        found.find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// The file id that the path's second segment is, as in `/file/ID/info`.
    pub fn file_id(&self) -> Option<FileId> {
        FileId::parse(self.path().split('/').nth(2)?)
    }
}

/// The body that a request may have, known before any of it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRule {
    /// At most that many bytes; a request that says nothing of a body has none.
    AtMost(usize),
    /// The same, but the endpoint needs a body: without a `Content-Length` it is refused.
    Required(usize),
}

impl BodyRule {
    /// The most bytes that a body may have.
    pub fn limit(self) -> usize {
        match self {
            BodyRule::AtMost(limit) | BodyRule::Required(limit) => limit,
        }
    }
}

/// A target whose leading slashes count as one. Android from 1.31.0 to at least 1.33.4 asks for
/// `//file`, and signs `/file`: so whoever receives a request does this before anything looks
/// at its target.
pub fn one_slash(target: &str) -> &str {
    let slashes = target.len() - target.trim_start_matches('/').len();
    &target[slashes.saturating_sub(1)..]
}

/// The part of a target before its query.
pub fn path_of(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or("")
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// `Content-Type`, to the letter.
    pub content_type: &'static str,
    /// Further header fields; no `Content-Length`, which is the body's.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Body,
}

impl Response {
    /// `body` as JSON.
    pub fn json(status: u16, body: &Value) -> Response {
        Response::bytes(status, JSON, body.to_string().into_bytes())
    }

    /// One line of text.
    pub fn text(status: u16, body: &str) -> Response {
        Response::bytes(status, TEXT, body.as_bytes().to_vec())
    }

    /// The answer to everything that failed: `{"status_code": N}`.
    pub fn error(status: u16) -> Response {
        Response::json(status, &json!({ "status_code": status }))
    }

    /// 503: the client should come back in [`RETRY_AFTER`] seconds.
    pub fn unavailable() -> Response {
        Response::error(503).with_header("Retry-After", RETRY_AFTER.to_string())
    }

    /// A file's bytes.
    pub fn file(body: Body, expires: SystemTime) -> Response {
        Response {
            status: 200,
            content_type: OCTET_STREAM,
            headers: vec![("Expires", http_date(expires))],
            body,
        }
    }

    /// The same response with one more header field.
    pub fn with_header(mut self, name: &'static str, value: String) -> Response {
        self.headers.push((name, value));
        self
    }

    fn bytes(status: u16, content_type: &'static str, body: Vec<u8>) -> Response {
        Response {
            status,
            content_type,
            headers: Vec::new(),
            body: Body::Bytes(body.into()),
        }
    }
}

/// The body of a response.
pub enum Body {
    /// Made for this response.
    Bytes(Buffer),
    /// Sent from where they lie.
    Shared(Arc<Buffer>),
    /// The answer to HEAD where the bytes were never fetched: only their number.
    Omitted(usize),
}

impl Body {
    /// The bytes to send; none if they were omitted.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Body::Bytes(bytes) => bytes,
            Body::Shared(bytes) => bytes,
            Body::Omitted(_) => &[],
        }
    }

    /// The number of bytes, as `Content-Length` says it.
    pub fn content_length(&self) -> usize {
        match self {
            Body::Omitted(length) => *length,
            present => present.as_slice().len(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.content_length())
    }
}

/// A time as an HTTP date (RFC 9110, 5.6.7), which ends with the year 9999.
pub fn http_date(time: SystemTime) -> String {
    let last = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(253_402_300_799);
    httpdate::fmt_http_date(time.clamp(SystemTime::UNIX_EPOCH, last))
}

/// A time as clients want it: Unix time in seconds, with a fraction.
pub fn unix_seconds(time: SystemTime) -> f64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        // Microseconds are all that PostgreSQL keeps, and all that fits a double.
        Ok(since) => since.as_micros() as f64 / 1e6,
        Err(before) => -(before.duration().as_micros() as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn header_names_are_found_in_any_case() {
        let headers: Headers = [("X-FS-TTL".to_string(), "5".to_string())]
            .into_iter()
            .collect();
        assert_eq!(headers.get("x-fs-ttl"), Some("5"));
        assert_eq!(headers.get("x-fs"), None);
    }

    #[test]
    fn an_empty_header_field_counts_as_absent() {
        let headers = |values: &[&str]| -> Headers {
            let fields = values
                .iter()
                .map(|value| ("A".to_string(), value.to_string()));
            fields.collect()
        };
        assert_eq!(headers(&[""]).get("a"), None);
        assert_eq!(headers(&["", "5", "6"]).get("a"), Some("5"));
    }

    #[test]
    fn any_number_of_leading_slashes_counts_as_one() {
        for (target, expected) in [
            ("/file", "/file"),
            ("//file", "/file"),
            ("////file//a?b=//c", "/file//a?b=//c"),
            ("//", "/"),
            ("/", "/"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(one_slash(target), expected);
        }
    }

    #[test]
    fn the_path_ends_where_the_query_starts() {
        assert_eq!(path_of("/file/a?b=/c"), "/file/a");
        assert_eq!(path_of("/file/a#p=00"), "/file/a");
    }

    #[test]
    fn unix_seconds_have_a_fraction() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_761_002_358_022_290);
        assert_eq!(json!(unix_seconds(time)).to_string(), "1761002358.02229");
    }

    #[test]
    fn an_http_date_beyond_its_last_year_is_its_last_second() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(http_date(far), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
