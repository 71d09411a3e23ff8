//! Onion requests: the way nearly every client comes. Bytes in, bytes out; no I/O.
//!
//! [`envelope`] finds the parts of what a service node brings, [`cipher`] decrypts it, and
//! here the sub-request inside is read, answered by the caller's router, and the answer
//! encrypted for the way back. The plaintext is used where it was decrypted, in the buffer
//! that was received; the reply is encrypted in the buffer that is sent.

pub mod bencode;
pub mod cipher;
pub mod client;
pub mod envelope;

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::json;

use crate::buffer::Buffer;
use crate::protocol::http::{
    Body, Headers, JSON, Method, OCTET_STREAM, Request, Response, TEXT, one_slash,
};
use crate::protocol::keys::Keys;
use cipher::{Cipher, FreshNonce, TAG_LENGTH};
use envelope::Envelope;

/// The most JSON in front of a v4 sub-request's body, bytes: a method, an endpoint, a few
/// headers, of which one may be long.
pub const MAX_META: usize = 16 * 1024;

/// Header fields of a sub-request; clients send a handful.
const MAX_HEADERS: usize = 64;

/// The largest onion request when files are small, bytes: the original's.
const MIN_BODY_LIMIT: usize = 10 * 1024 * 1024;

/// The largest onion request, bytes: 10 MiB, or what the largest file needs with its
/// wrapping.
pub fn body_limit(max_file_size: usize) -> usize {
    // N, nonce and tag, the bencoded list's own characters.
    const FRAME: usize = 4 + 24 + TAG_LENGTH + 64;
    MIN_BODY_LIMIT.max(max_file_size + FRAME + envelope::MAX_JSON + MAX_META)
}

/// Answers `POST /oxen/v4/lsrpc`: decrypts `body`, has the sub-request answered by
/// `router`, and encrypts its answer.
pub fn v4(
    keys: &Keys,
    body: Buffer,
    nonce: FreshNonce,
    router: impl FnOnce(&Request) -> Response,
) -> Response {
    exchange(keys, body, OCTET_STREAM, |plaintext, cipher| {
        let response = match v4_sub_request(plaintext) {
            Some(sub_request) => router(&sub_request.as_request()),
            None => Response::text(400, "Invalid v4 onion request"),
        };
        let mut reply = v4_reply(&response, cipher.nonce_length());
        // The next reply may need its buffer.
        drop(response);
        cipher.seal(&mut reply, nonce)?;
        Some(reply)
    })
}

/// Answers `POST /oxen/v3/lsrpc` and `POST /loki/v3/lsrpc`, of old clients.
pub fn v3(
    keys: &Keys,
    body: Buffer,
    nonce: FreshNonce,
    router: impl FnOnce(&Request) -> Response,
) -> Response {
    exchange(keys, body, TEXT, |plaintext, cipher| {
        let response = match v3_sub_request(plaintext) {
            Some(sub_request) => router(&sub_request.as_request()),
            None => Response::error(400),
        };
        let mut reply = v3_reply(&response, cipher.nonce_length());
        cipher.seal(&mut reply, nonce)?;
        Some(STANDARD.encode(&*reply).into_bytes().into())
    })
}

/// What both versions share: 400 without a hint for what can't be decrypted, 200 with the
/// encrypted reply for everything else.
fn exchange(
    keys: &Keys,
    mut body: Buffer,
    content_type: &'static str,
    reply: impl FnOnce(&[u8], &Cipher) -> Option<Buffer>,
) -> Response {
    let Some(envelope) = Envelope::parse(&body) else {
        return Response::error(400);
    };
    let Some((cipher, plaintext)) = envelope.open(&mut body, keys) else {
        return Response::error(400);
    };
    match reply(plaintext, &cipher) {
        Some(sealed) => Response {
            status: 200,
            content_type,
            headers: Vec::new(),
            body: Body::Bytes(sealed),
        },
        None => Response::error(500),
    }
}

/// The request inside an onion request.
#[derive(Debug)]
pub struct SubRequest<'a> {
    method: Method,
    target: Cow<'a, str>,
    headers: Headers,
    body: Cow<'a, [u8]>,
}

impl SubRequest<'_> {
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

/// A bencoded list of one or two byte strings: `l<len>:<JSON meta>[<len>:<body>]e`.
pub fn v4_sub_request(plaintext: &[u8]) -> Option<SubRequest<'_>> {
    #[derive(serde::Deserialize)]
    struct Meta<'a> {
        #[serde(borrow)]
        method: Cow<'a, str>,
        #[serde(borrow)]
        endpoint: Cow<'a, str>,
        headers: Option<Fields>,
    }
    let (meta, body) = bencode::parse(plaintext)?;
    if meta.len() > MAX_META {
        return None;
    }
    let meta: Meta = serde_json::from_slice(meta).ok()?;
    meta.endpoint.starts_with('/').then_some(SubRequest {
        method: method(&meta.method),
        target: target(meta.endpoint),
        headers: meta.headers.unwrap_or_default().into_headers(),
        body: body.unwrap_or_default().into(),
    })
}

/// JSON with the body as a string.
pub fn v3_sub_request(plaintext: &[u8]) -> Option<SubRequest<'_>> {
    #[derive(serde::Deserialize)]
    struct V3<'a> {
        #[serde(borrow)]
        method: Cow<'a, str>,
        #[serde(borrow)]
        endpoint: Cow<'a, str>,
        headers: Option<Fields>,
        #[serde(borrow)]
        body: Option<Cow<'a, str>>,
    }
    let V3 {
        method,
        mut endpoint,
        headers: fields,
        body,
    } = serde_json::from_slice(plaintext).ok()?;
    let method = self::method(&method);
    if !endpoint.starts_with('/') {
        endpoint = format!("/{endpoint}").into();
    }
    let mut fields = fields.unwrap_or_default();
    fields
        .0
        .retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
    fields.0.push(("content-type".into(), JSON.into()));
    let body = match (method, body.as_deref()) {
        // To extend a file, clients send none.
        (Method::Post | Method::Put, _) => body.unwrap_or_default(),
        // Old Android clients send the text "null".
        (_, None | Some("" | "null")) => Cow::Borrowed(""),
        _ => return None,
    };
    Some(SubRequest {
        method,
        target: target(endpoint),
        headers: fields.into_headers(),
        body: match body {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        },
    })
}

/// The method of a sub-request, which clients may write in any case.
fn method(name: &str) -> Method {
    Method::parse(&name.to_ascii_uppercase())
}

fn target(endpoint: Cow<str>) -> Cow<str> {
    match endpoint {
        Cow::Borrowed(endpoint) => Cow::Borrowed(one_slash(endpoint)),
        Cow::Owned(endpoint) => Cow::Owned(one_slash(&endpoint).to_string()),
    }
}

/// The header fields of a sub-request. The length of a body is the length of its part,
/// whatever a field says.
#[derive(Default)]
struct Fields(Vec<(String, String)>);

impl Fields {
    fn into_headers(self) -> Headers {
        let is_length = |name: &str| name.eq_ignore_ascii_case("content-length");
        self.0
            .into_iter()
            .filter(|(name, _)| !is_length(name))
            .collect()
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "up to {MAX_HEADERS} header fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                let mut count = 0;
                while let Some((name, FieldValue(value))) = map.next_entry()? {
                    count += 1;
                    if count > MAX_HEADERS {
                        return Err(A::Error::invalid_length(count, &self));
                    }
                    fields.extend(value.map(|value| (name, value)));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// The value of a field: a string or, from desktop, a number. Anything else is no value, and its
/// field is ignored. What such a value holds is skipped without being kept, and without
/// recursion.
struct FieldValue(Option<String>);

impl<'de> Deserialize<'de> for FieldValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FieldValue, D::Error> {
        deserializer.deserialize_any(FieldValueVisitor)
    }
}

struct FieldValueVisitor;

impl<'de> Visitor<'de> for FieldValueVisitor {
    type Value = FieldValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_str<E>(self, text: &str) -> Result<FieldValue, E> {
        // As around a value in HTTP (RFC 9110, 5.5).
        let text = text.trim_matches([' ', '\t']);
        Ok(FieldValue(Some(text.to_string())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<FieldValue, E> {
        Ok(FieldValue(Some(number.to_string())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<FieldValue, E> {
        Ok(FieldValue(Some(number.to_string())))
    }

    fn visit_f64<E>(self, number: f64) -> Result<FieldValue, E> {
        Ok(FieldValue(Some(number.to_string())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<FieldValue, E> {
        Ok(FieldValue(None))
    }

    /// null
    fn visit_unit<E>(self) -> Result<FieldValue, E> {
        Ok(FieldValue(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<FieldValue, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(FieldValue(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FieldValue, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(FieldValue(None))
    }
}

/// `l<len>:{"code": …, "headers": {…}}<len>:<body>e`, with room for the nonce in front and
/// for the tag behind.
fn v4_reply(response: &Response, nonce_length: usize) -> Buffer {
    let mut headers = json!({ "content-type": response.content_type });
    for (name, value) in &response.headers {
        headers[name.to_ascii_lowercase()] = json!(value);
    }
    let meta = json!({ "code": response.status, "headers": headers }).to_string();
    let body = response.body.as_slice();
    let lengths = 2 * usize::MAX.ilog10() as usize + 8;
    let mut reply =
        Buffer::with_capacity(nonce_length + lengths + meta.len() + body.len() + TAG_LENGTH);
    reply.resize(nonce_length, 0);
    bencode::write_head(&mut reply, meta.as_bytes(), body.len());
    reply.extend_from_slice(body);
    reply.push(b'e');
    reply
}

/// The body of an answer with status 200, `{"status_code": N}` for any other.
fn v3_reply(response: &Response, nonce_length: usize) -> Buffer {
    let failure;
    let body = if response.status == 200 {
        response.body.as_slice()
    } else {
        failure = Response::error(response.status);
        failure.body.as_slice()
    };
    let mut reply = Buffer::with_capacity(nonce_length + body.len() + TAG_LENGTH);
    reply.resize(nonce_length, 0);
    reply.extend_from_slice(body);
    reply
}
