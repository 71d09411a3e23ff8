//! The request inside an onion request: how it is read from the decrypted plaintext.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::bencode;
use crate::protocol::http::{Headers, JSON, Method, Request, one_slash};

/// The longest JSON in front of a v4 sub-request's body, bytes. It holds a method, an endpoint
/// and a few headers, one of which may be long.
pub const MAX_META: usize = 16 * 1024;

/// The most header fields of a sub-request. Clients send fewer than ten.
const MAX_HEADERS: usize = 64;

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

/// Reads a v4 plaintext, a bencoded list of one or two byte strings:
/// `l<len>:<JSON meta>[<len>:<body>]e`. `None` if it is malformed.
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

/// Reads a v3 plaintext, JSON with the body as a string. `None` if it is malformed.
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
    let Fields(mut fields) = fields.unwrap_or_default();
    fields.retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
    fields.push(("content-type".into(), JSON.into()));
    let body = match (method, body.as_deref()) {
        // The body may be missing: clients send none to extend a file.
        (Method::Post | Method::Put, _) => body.unwrap_or_default(),
        // A GET has no body, for which old Android clients send the text "null".
        (_, None | Some("" | "null")) => Cow::Borrowed(""),
        _ => return None,
    };
    Some(SubRequest {
        method,
        target: target(endpoint),
        headers: Fields(fields).into_headers(),
        body: match body {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        },
    })
}

/// Parses the method of a sub-request, which clients write in any case.
fn method(name: &str) -> Method {
    Method::parse(&name.to_ascii_uppercase())
}

/// The target of a sub-request, see [`one_slash`].
fn target(endpoint: Cow<str>) -> Cow<str> {
    match endpoint {
        Cow::Borrowed(endpoint) => Cow::Borrowed(one_slash(endpoint)),
        Cow::Owned(endpoint) => Cow::Owned(one_slash(&endpoint).to_string()),
    }
}

/// The header fields of a sub-request.
#[derive(Default)]
struct Fields(Vec<(String, String)>);

impl Fields {
    /// The fields without `Content-Length`: the body's length is known from the encoding.
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

/// The value of a field: a string, or a number, which desktop clients send. Fields with any other
/// value are ignored; such a value is skipped without storing it and without recursion.
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
        // HTTP also trims whitespace around values (RFC 9110, 5.5).
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
