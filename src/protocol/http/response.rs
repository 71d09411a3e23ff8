//! Responses.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::buffer::Buffer;

/// The content type of every JSON response. Clients compare the whole value.
pub const JSON: &str = "application/json";
/// The content type of every text response. Clients compare the whole value.
pub const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
/// The content type of a file. Clients compare the whole value.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// The value of `Retry-After` in a 503, seconds.
pub const RETRY_AFTER: u32 = 5;

/// A response.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The whole value of `Content-Type`.
    pub content_type: &'static str,
    /// Further header fields, without `Content-Length`, which follows from the body.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Body,
}

impl Response {
    /// A response with a JSON body.
    pub fn json(status: u16, body: &Value) -> Response {
        Response::bytes(status, JSON, body.to_string().into_bytes())
    }

    /// A response with a line of text.
    pub fn text(status: u16, body: &str) -> Response {
        Response::bytes(status, PLAIN_TEXT, body.as_bytes().to_vec())
    }

    /// The response to a failed request: `{"status_code": N}`.
    pub fn error(status: u16) -> Response {
        Response::json(status, &json!({ "status_code": status }))
    }

    /// A 503, which asks the client to come back in [`RETRY_AFTER`] seconds.
    pub fn unavailable() -> Response {
        Response::error(503).with_header("Retry-After", RETRY_AFTER.to_string())
    }

    /// A response with a file, and its expiry in `Expires`.
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
    /// Bytes made for this response.
    Bytes(Buffer),
    /// Bytes that the file cache may share with other responses.
    Shared(Arc<Buffer>),
    /// No bytes, but their number: the response to HEAD.
    Omitted(usize),
}

impl Body {
    /// The bytes to send; empty if they are omitted.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Body::Bytes(bytes) => bytes,
            Body::Shared(bytes) => bytes,
            Body::Omitted(_) => &[],
        }
    }

    /// The value of `Content-Length`, bytes.
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

/// Formats an HTTP date (RFC 9110, 5.6.7). Its years end with 9999, so that any later time becomes
/// the last second of that year.
pub fn http_date(time: SystemTime) -> String {
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    httpdate::fmt_http_date(time.clamp(SystemTime::UNIX_EPOCH, last))
}

/// A time as clients expect it: Unix time in seconds, with a fraction.
pub fn unix_seconds(time: SystemTime) -> f64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        // PostgreSQL keeps microseconds, and a double doesn't hold more digits.
        Ok(since) => since.as_micros() as f64 / 1e6,
        Err(before) => -(before.duration().as_micros() as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
