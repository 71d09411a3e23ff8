//! What a request's head says of its body: decided before a byte of it is read.

use tiny_http::Request;

use crate::http::BodyRule;

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
}

/// The length of a request's body, or the status with which it is refused.
pub fn body_length(request: &Request, rule: BodyRule) -> Result<BodyLength, u16> {
    let length = declared_length(request, rule)?;
    if length > rule.limit() {
        return Err(413);
    }
    let at_hand = length <= READ_WITH_HEAD
        && field(request, "Expect").next().is_none()
        && !field(request, "Connection")
            .any(|value| value.to_ascii_lowercase().contains("upgrade"));
    Ok(match length {
        0 => BodyLength::None,
        length if at_hand => BodyLength::AtHand(length),
        length => BodyLength::OnItsWay(length),
    })
}

/// RFC 9112, 6.3, as far as a strict server goes: one `Content-Length` of digits, or none.
fn declared_length(request: &Request, rule: BodyRule) -> Result<usize, u16> {
    let mut lengths = field(request, "Content-Length");
    let chunked = field(request, "Transfer-Encoding").next().is_some();
    match (lengths.next(), lengths.next(), chunked) {
        (None, _, true) => Err(411),
        (Some(_), _, true) | (Some(_), Some(_), _) => Err(400),
        (None, _, false) => match rule {
            BodyRule::Required(_) => Err(411),
            BodyRule::AtMost(_) => Ok(0),
        },
        (Some(length), None, false) => {
            if length.is_empty() || !length.bytes().all(|digit| digit.is_ascii_digit()) {
                return Err(400);
            }
            // More than 64 bits hold is more than any limit.
            length.parse().map_err(|_| 413)
        }
    }
}

fn field<'a>(request: &'a Request, name: &'static str) -> impl Iterator<Item = &'a str> {
    let fields = request.headers().iter();
    fields
        .filter(move |h| h.field.equiv(name))
        .map(|h| h.value.as_str())
}
