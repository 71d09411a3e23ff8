//! Requests.

use std::borrow::Cow;

use crate::buffer::Buffer;
use crate::protocol::file_id::FileId;

/// A complete request, as it was received. It may be an onion request.
#[derive(Debug)]
pub struct Incoming {
    /// The request's method.
    pub method: Method,
    /// Path and query as the client sent them, except for leading slashes ([`one_slash`]).
    pub target: String,
    /// The request's header fields.
    pub headers: Headers,
    /// The request's body, empty if there is none.
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
    /// The request's method.
    pub method: Method,
    /// Path and query as the client sent them, except for leading slashes ([`one_slash`]).
    pub target: &'a str,
    /// The request's header fields.
    pub headers: &'a Headers,
    /// The request's body, empty if there is none.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// The target without its query.
    pub fn path(&self) -> &'a str {
        path_of(self.target)
    }

    /// The value of the first query parameter of that name.
    pub fn query(&self, name: &str) -> Option<Cow<'a, str>> {
        let (_, query) = self.target.split_once('?')?;
        let query = query.split('#').next().unwrap_or("");
        let mut found = form_urlencoded::parse(query.as_bytes());
        found.find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// The file id in the second segment of the path, as in `/file/ID/info`; `None` if that is no
    /// valid id.
    pub fn file_id(&self) -> Option<FileId> {
        FileId::parse(self.path().split('/').nth(2)?)
    }
}

/// The rule for a request's body, which is known before the body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRule {
    /// The body may have that many bytes at most, and may be missing.
    AtMost(usize),
    /// The body may have that many bytes at most, and a request without `Content-Length` is
    /// refused.
    Required(usize),
}

impl BodyRule {
    /// The largest body, bytes.
    pub fn limit(self) -> usize {
        match self {
            BodyRule::AtMost(limit) | BodyRule::Required(limit) => limit,
        }
    }
}

/// A request method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD, which every endpoint with GET supports.
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// Any other method. No endpoint supports one.
    Other,
}

impl Method {
    /// Parses the name of a method, which is case-sensitive (RFC 9110, 9.1).
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

/// Header fields, in the order in which they were received.
#[derive(Clone, Debug, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first non-empty value of the fields of that name, whose case doesn't matter. Empty
    /// values are skipped, because some clients send an empty field where others send none.
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

/// Replaces the leading slashes of a target by one. Android from 1.31.0 to at least 1.33.4
/// requests `//file` but signs `/file`, so this must happen before anything else uses the target.
pub fn one_slash(target: &str) -> &str {
    let slashes = target.len() - target.trim_start_matches('/').len();
    &target[slashes.saturating_sub(1)..]
}

/// The part of a target before its query.
pub fn path_of(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
