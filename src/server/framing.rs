//! What a request's head says of its body: decided before a byte of it is read.

use tiny_http::Request;

use crate::protocol::http::BodyRule;

/// Bodies up to this size have been read by tiny_http together with the head.
const READ_WITH_HEAD: usize = 1024;

/// How long a body is, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    None,
    /// Read already: taking it doesn't wait for the client.
    AtHand(usize),
    /// Still to come from the client.
    OnItsWay(usize),
    /// Still to come in chunks, which may have that many bytes in all.
    InChunks(usize),
}

/// The length of a request's body, or the status with which it is refused.
pub fn body_length(request: &Request, rule: BodyRule) -> Result<BodyLength, u16> {
    if !request
        .headers()
        .iter()
        .all(|h| is_token(h.field.as_str().as_str()))
    {
        return Err(400);
    }
    let length = match declared(request)? {
        Declared::Chunks => return Ok(BodyLength::InChunks(rule.limit())),
        Declared::Length(length) => length,
        Declared::Nothing if matches!(rule, BodyRule::Required(_)) => return Err(411),
        Declared::Nothing => 0,
    };
    if length > rule.limit() {
        return Err(413);
    }
    if length > 0 && is_old(request) && expects(request) {
        // tiny_http answers 100 before it gives us a byte (its `request.rs`, `as_reader`), which
        // HTTP/1.0 doesn't know (RFC 9110, 10.1.1).
        return Err(417);
    }
    Ok(match length {
        0 => BodyLength::None,
        length if is_read(request) => BodyLength::AtHand(length),
        length => BodyLength::OnItsWay(length),
    })
}

/// Whether nothing of a request's body is still to come from the client, as far as tiny_http
/// understood its head (its `request.rs`, `new_request`).
pub fn is_read(request: &Request) -> bool {
    let is_short = |length| length <= READ_WITH_HEAD && !expects(request);
    !is_chunked(request)
        && !asks_to_upgrade(request)
        && request
            .body_length()
            .is_none_or(|length| length == 0 || is_short(length))
}

/// Whether tiny_http reads a request's body as chunks.
pub fn is_chunked(request: &Request) -> bool {
    field(request, "Transfer-Encoding").next().is_some()
}

enum Declared {
    Nothing,
    Length(usize),
    Chunks,
}

/// RFC 9112, 6.3, as far as a strict server goes: one `Content-Length` of digits, or one
/// `Transfer-Encoding: chunked`, or neither.
fn declared(request: &Request) -> Result<Declared, u16> {
    let mut lengths = field(request, "Content-Length");
    let mut codings = field(request, "Transfer-Encoding");
    match (
        lengths.next(),
        lengths.next(),
        codings.next(),
        codings.next(),
    ) {
        (None, _, None, _) => Ok(Declared::Nothing),
        (None, _, Some(coding), None) => {
            let is_clear = coding.eq_ignore_ascii_case("chunked")
                && !is_old(request)
                // tiny_http would give us the chunks as they are.
                && !asks_to_upgrade(request);
            is_clear.then_some(Declared::Chunks).ok_or(400)
        }
        (Some(length), None, None, _) => {
            if length.is_empty() || !length.bytes().all(|digit| digit.is_ascii_digit()) {
                return Err(400);
            }
            // More than 64 bits hold is more than any limit.
            length.parse().map(Declared::Length).map_err(|_| 413)
        }
        _ => Err(400),
    }
}

/// Whether a request is of HTTP before 1.1.
fn is_old(request: &Request) -> bool {
    *request.http_version() < (1, 1)
}

fn expects(request: &Request) -> bool {
    field(request, "Expect").next().is_some()
}

fn asks_to_upgrade(request: &Request) -> bool {
    field(request, "Connection").any(|value| value.to_ascii_lowercase().contains("upgrade"))
}

/// RFC 9110, 5.6.2. tiny_http takes the continuation of a folded line, which HTTP has no more
/// (RFC 9112, 5.2), for a field of its own if it has a colon: here is seen what remains to be
/// seen of that.
fn is_token(name: &str) -> bool {
    let is_allowed = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    !name.is_empty() && name.bytes().all(is_allowed)
}

fn field<'a>(request: &'a Request, name: &'static str) -> impl Iterator<Item = &'a str> {
    let fields = request.headers().iter();
    fields
        .filter(move |h| h.field.equiv(name))
        .map(|h| h.value.as_str())
}
