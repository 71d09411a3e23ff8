//! What a request's head says of its body: decided before a byte of it is read.

use tiny_http::Request;

use crate::protocol::http::BodyRule;

/// Bodies up to this size have been read by tiny_http together with the head.
const READ_WITH_HEAD: usize = 1024;

/// How long a body is, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// Read already, or empty: taking it doesn't wait for the client.
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
    Ok(if length == 0 || is_read(request) {
        BodyLength::AtHand(length)
    } else {
        BodyLength::OnItsWay(length)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpStream;
    use tiny_http::{HTTPVersion, Header, Server, TestRequest};

    const RULE: BodyRule = BodyRule::AtMost(100_000);
    const HTTP_1_0: (u8, u8) = (1, 0);
    const HTTP_1_1: (u8, u8) = (1, 1);

    /// A request with these fields, and a `Content-Length` if they have none.
    fn with_length(version: (u8, u8), fields: &[(&str, &str)]) -> Request {
        let mut request = TestRequest::new()
            .with_body("hello")
            .with_http_version(HTTPVersion::from(version));
        for (name, value) in fields {
            let header = Header::from_bytes(*name, *value);
            request = request.with_header(header.expect("ASCII"));
        }
        request.into()
    }

    /// A request with these fields alone, which a [`TestRequest`] can't be.
    fn without_length(version: &str, fields: &str) -> Request {
        let server = Server::http("127.0.0.1:0").expect("a port");
        let address = server.server_addr().to_ip().expect("TCP");
        let mut client = TcpStream::connect(address).expect("it listens");
        let head = format!("POST /file {version}\r\n{fields}\r\n\r\n");
        client.write_all(head.as_bytes()).expect("connected");
        server.recv().expect("a request")
    }

    #[test]
    fn one_length_in_digits_is_at_hand_or_on_its_way() {
        let length =
            |value| body_length(&with_length(HTTP_1_1, &[("Content-Length", value)]), RULE);
        assert_eq!(length("0"), Ok(BodyLength::AtHand(0)));
        assert_eq!(length("5"), Ok(BodyLength::AtHand(5)));
        assert_eq!(length("1025"), Ok(BodyLength::OnItsWay(1025)));
        assert_eq!(length("100000"), Ok(BodyLength::OnItsWay(100_000)));
        assert_eq!(length("100001"), Err(413));
        assert_eq!(length("99999999999999999999999"), Err(413));
        for value in ["+5", "-5", "0x5", "5, 5", "5,5", "five", "", "5 5"] {
            assert_eq!(length(value), Err(400), "{value}");
        }
    }

    #[test]
    fn a_second_length_or_a_coding_beside_it_is_refused() {
        let length = ("Content-Length", "5");
        for fields in [
            [length, length],
            [length, ("content-length", "6")],
            [length, ("Transfer-Encoding", "chunked")],
            [("Transfer-Encoding", "chunked"), length],
            [length, ("Transfer-Encoding", "identity")],
        ] {
            let request = with_length(HTTP_1_1, &fields);
            assert_eq!(body_length(&request, RULE), Err(400), "{fields:?}");
        }
    }

    #[test]
    fn chunked_is_the_only_coding_and_new_in_http_1_1() {
        for (version, fields, expected) in [
            ("HTTP/1.1", "Transfer-Encoding: chunked", Ok(())),
            ("HTTP/1.1", "transfer-encoding: Chunked", Ok(())),
            ("HTTP/1.0", "Transfer-Encoding: chunked", Err(400)),
            ("HTTP/1.1", "Transfer-Encoding: gzip, chunked", Err(400)),
            ("HTTP/1.1", "Transfer-Encoding: chunked, chunked", Err(400)),
            ("HTTP/1.1", "Transfer-Encoding: chunked, gzip", Err(400)),
            ("HTTP/1.1", "Transfer-Encoding: chunked;x", Err(400)),
            ("HTTP/1.1", "Transfer-Encoding: xchunked", Err(400)),
            ("HTTP/1.1", "Transfer-Encoding: identity", Err(400)),
            ("HTTP/1.1", "Transfer-Encoding: \"chunked\"", Err(400)),
            ("HTTP/1.1", "Transfer-Encoding:", Err(400)),
            (
                "HTTP/1.1",
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                Err(400),
            ),
            (
                "HTTP/1.1",
                "Transfer-Encoding: chunked\r\nConnection: Upgrade\r\nUpgrade: h2c",
                Err(400),
            ),
        ] {
            let request = without_length(version, fields);
            let expected = expected.map(|()| BodyLength::InChunks(100_000));
            assert_eq!(body_length(&request, RULE), expected, "{fields}");
            assert!(is_chunked(&request) && !is_read(&request));
        }
    }

    #[test]
    fn where_a_body_is_needed_its_length_is_too() {
        let request = without_length("HTTP/1.1", "Host: x");
        assert_eq!(body_length(&request, RULE), Ok(BodyLength::AtHand(0)));
        assert_eq!(body_length(&request, BodyRule::Required(9)), Err(411));
        let request = without_length("HTTP/1.1", "Transfer-Encoding: chunked");
        let length = body_length(&request, BodyRule::Required(9));
        assert_eq!(length, Ok(BodyLength::InChunks(9)));
    }

    #[test]
    fn a_client_that_waits_for_100_continue_has_not_sent_its_body() {
        let ask = |version, length| {
            let fields = [("Expect", "100-continue"), ("Content-Length", length)];
            body_length(&with_length(version, &fields), RULE)
        };
        assert_eq!(ask(HTTP_1_1, "5"), Ok(BodyLength::OnItsWay(5)));
        assert_eq!(ask(HTTP_1_0, "5"), Err(417));
        assert_eq!(ask(HTTP_1_0, "0"), Ok(BodyLength::AtHand(0)));
    }

    #[test]
    fn a_name_that_is_no_token_is_refused() {
        for name in ["X Y", "(b)", "\"b\"", "a,b", "", "a\tb"] {
            let request = with_length(HTTP_1_1, &[(name, "x")]);
            assert_eq!(body_length(&request, RULE), Err(400), "{name}");
        }
        let request = with_length(HTTP_1_1, &[("x-!#$%&'*+.^_`|~9", "x")]);
        assert_eq!(body_length(&request, RULE), Ok(BodyLength::AtHand(5)));
    }
}
