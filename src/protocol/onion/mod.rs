//! Onion requests, which nearly every client uses. Bytes in, bytes out; no I/O.
//!
//! A service node forwards an encrypted request. [`envelope`] finds its parts, [`cipher`]
//! decrypts it, and [`sub_request`] reads the request inside. The caller's router answers that,
//! at once or when it is asked again, and the response is encrypted here. The plaintext is used in
//! the buffer that was received, and the reply is encrypted in the buffer that is sent. A body with
//! [`REPLY_MARGINS`] that nobody else has is encrypted where it lies, any other is copied once. A v3
//! reply is encoded in base64 then, in a buffer of its own.

pub mod bencode;
pub mod cipher;
pub mod client;
pub mod envelope;
mod sub_request;

use std::ops::Range;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::buffer::{Buffer, Margins};
use crate::protocol::http::{Body, OCTET_STREAM, PLAIN_TEXT, Request, Response};
use crate::protocol::keys::ServerKeys;
use cipher::{Cipher, FreshNonce, TAG_LENGTH};
use envelope::Envelope;

pub use sub_request::{MAX_META, SubRequest, v3_sub_request, v4_sub_request};

/// The smallest value of [`body_limit`], bytes: the limit of the Python server.
const MIN_BODY_LIMIT: usize = 10 * 1024 * 1024;

/// The largest accepted onion request, bytes: 10 MiB, or more if the largest file with its
/// encryption and framing needs it.
pub fn body_limit(max_file_size: usize) -> usize {
    // The length N, the nonce, the tag, and the characters of the bencoded list.
    const FRAME: usize = 4 + 24 + TAG_LENGTH + 64;
    MIN_BODY_LIMIT.max(max_file_size + FRAME + envelope::MAX_JSON + MAX_META)
}

/// What a reply has around a file at most, bytes: in front of it the nonce, the lengths of the
/// bencoded list, and status and header fields as JSON; behind it the list's end and the tag.
pub const REPLY_MARGINS: Margins = Margins {
    before: 512,
    after: 1 + TAG_LENGTH,
};

/// The version of the onion protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `POST /oxen/v3/lsrpc` and `POST /loki/v3/lsrpc`, which old clients use.
    V3,
    /// `POST /oxen/v4/lsrpc`
    V4,
}

/// A decrypted request, which waits for its answer.
pub struct Opened {
    version: Version,
    cipher: Cipher,
    /// What was received, decrypted in place.
    body: Buffer,
    /// Where the plaintext lies in it.
    plaintext: Range<usize>,
}

impl Opened {
    /// Decrypts the body of an onion request.
    ///
    /// # Errors
    /// What can't be decrypted is answered 400 without an explanation.
    pub fn open(version: Version, keys: &ServerKeys, mut body: Buffer) -> Result<Opened, Response> {
        let envelope = Envelope::parse(&body);
        let opened = envelope.and_then(|envelope| envelope.open_in_place(&mut body, keys));
        let (cipher, plaintext) = opened.ok_or_else(|| Response::error(400))?;
        Ok(Opened {
            version,
            cipher,
            body,
            plaintext,
        })
    }

    /// The version of the request.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The bytes that the sub-request takes beside what was received: v3 has it as a text of JSON,
    /// of which it is a copy.
    pub fn copied_bytes(&self) -> usize {
        match self.version {
            Version::V3 => self.body.len(),
            Version::V4 => 0,
        }
    }

    /// Lets `router` answer the sub-request, and encrypts the response.
    ///
    /// # Errors
    /// The request itself, if the router can't answer it now.
    pub fn answer(
        self,
        nonce: FreshNonce,
        router: impl FnOnce(&Request) -> Option<Response>,
    ) -> Result<Response, Opened> {
        let plaintext = self.body.get(self.plaintext.clone()).unwrap_or_default();
        let response = match self.version {
            Version::V3 => v3_sub_request(plaintext).map_or_else(
                || Some(Response::error(400)),
                |sub| router(&sub.as_request()),
            ),
            Version::V4 => v4_sub_request(plaintext).map_or_else(
                || Some(Response::text(400, "Invalid v4 onion request")),
                |sub| router(&sub.as_request()),
            ),
        };
        match response {
            Some(response) => Ok(self.reply(response, nonce)),
            None => Err(self),
        }
    }

    /// 200 with the encrypted response.
    fn reply(&self, response: Response, nonce: FreshNonce) -> Response {
        let room = self.cipher.nonce_length();
        let (mut reply, content_type) = match self.version {
            Version::V3 => (v3_reply(response, room), PLAIN_TEXT),
            Version::V4 => (v4_reply(response, room), OCTET_STREAM),
        };
        if self.cipher.seal(&mut reply, nonce).is_none() {
            return Response::error(500);
        }
        let sealed = match self.version {
            Version::V3 => STANDARD.encode(&*reply).into_bytes().into(),
            Version::V4 => reply,
        };
        Response {
            status: 200,
            content_type,
            headers: Vec::new(),
            body: Body::Bytes(sealed),
        }
    }
}

/// Encodes `l<len>:{"code": …, "headers": {…}}<len>:<body>e`, with room for the nonce in front
/// and capacity for the tag behind.
fn v4_reply(response: Response, nonce_length: usize) -> Buffer {
    let mut headers = json!({ "content-type": response.content_type });
    for (name, value) in &response.headers {
        headers[name.to_ascii_lowercase()] = json!(value);
    }
    let meta = json!({ "code": response.status, "headers": headers }).to_string();
    let mut head = vec![0; nonce_length];
    bencode::write_head(&mut head, meta.as_bytes(), response.body.as_slice().len());
    let mut reply = framed(&head, response.body, 1 + TAG_LENGTH);
    reply.extend_from_slice(b"e");
    reply
}

/// Encodes the body of a response with status 200, or `{"status_code": N}` for any other status,
/// with room for the nonce in front and capacity for the tag behind.
fn v3_reply(response: Response, nonce_length: usize) -> Buffer {
    let response = match response.status {
        200 => response,
        other => Response::error(other),
    };
    framed(&vec![0; nonce_length], response.body, TAG_LENGTH)
}

/// The body behind a head, with capacity for `after` bytes behind it: in its own buffer if nobody
/// else has that and its margins suffice, else in a new one.
fn framed(head: &[u8], body: Body, after: usize) -> Buffer {
    let body = match body {
        Body::Bytes(own) => Arc::new(own),
        Body::Shared(shared) => shared,
        Body::Omitted(_) => Arc::default(),
    };
    let margins = Margins {
        before: head.len(),
        after,
    };
    match Arc::try_unwrap(body) {
        Ok(mut own) => {
            if own.has(margins) && own.prepend(head) {
                return own;
            }
            // The body is dropped before the encryption, so that others can reuse its buffer.
            Buffer::copy_of(&[head, &own], after)
        }
        Err(shared) => Buffer::copy_of(&[head, &shared], after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn a_file_with_margins_is_encrypted_where_it_lies_unless_others_have_it() {
        let keys = ServerKeys::from_secrets(&[7; 32], None);
        for version in [Version::V4, Version::V3] {
            for is_cached in [false, true] {
                // The longer nonce.
                let (key, enc_type) = (keys.pairs()[0].public(), Some("xchacha20"));
                let client = client::OnionRequest::new(key, enc_type, [9; 32]);
                let client = client.expect("a key");
                let sealed = client.seal(b"l2:{}e", FreshNonce([1; 24])).expect("short");
                let opened = Opened::open(version, &keys, sealed.into()).expect("ours");
                let mut file = Buffer::with_margins(100_000, REPLY_MARGINS);
                file.extend_from_slice(&[3; 100_000]);
                let file = Arc::new(file);
                let place = file.as_ptr();
                let cached = is_cached.then(|| file.clone());
                let response = Response::file(Body::Shared(file), SystemTime::now());
                let (body, reply) = match version {
                    Version::V4 => {
                        let reply = opened.reply(response, FreshNonce([2; 24]));
                        let Body::Bytes(reply) = reply.body else {
                            panic!("a reply has its own bytes");
                        };
                        let end = reply.len() - REPLY_MARGINS.after;
                        (reply[end - 100_000..].as_ptr(), reply)
                    }
                    Version::V3 => {
                        let reply = v3_reply(response, 24);
                        (reply[24..].as_ptr(), reply)
                    }
                };
                assert_eq!(body == place, !is_cached, "{version:?}");
                if version == Version::V4 {
                    let opened = client.open(reply.to_vec()).expect("for this request");
                    let (status, _, body) = client::read_v4_reply(&opened).expect("a reply");
                    assert!(status == 200 && body == [3; 100_000]);
                }
                assert!(cached.is_none_or(|file| file[..] == [3; 100_000]));
            }
        }
    }
}
