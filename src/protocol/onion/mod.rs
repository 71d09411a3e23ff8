//! Onion requests, which nearly every client uses. Bytes in, bytes out; no I/O.
//!
//! A service node forwards an encrypted request. [`envelope`] finds its parts, [`cipher`]
//! decrypts it, and [`sub_request`] reads the request inside. The caller's router answers that,
//! and the response is encrypted here. Nothing is copied on the way: the plaintext is used in
//! the buffer that was received, and the reply is encrypted in the buffer that is sent.

pub mod bencode;
pub mod cipher;
pub mod client;
pub mod envelope;
mod sub_request;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::buffer::Buffer;
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

/// Answers `POST /oxen/v4/lsrpc`: decrypts `body`, lets `router` answer the sub-request, and
/// encrypts the response.
pub fn v4(
    keys: &ServerKeys,
    body: Buffer,
    nonce: FreshNonce,
    router: impl FnOnce(&Request) -> Response,
) -> Response {
    decrypt_and_reply(keys, body, OCTET_STREAM, |plaintext, cipher| {
        let response = match v4_sub_request(plaintext) {
            Some(sub_request) => router(&sub_request.as_request()),
            None => Response::text(400, "Invalid v4 onion request"),
        };
        let mut reply = v4_reply(&response, cipher.nonce_length());
        // Dropped early, so that another thread can reuse its buffer.
        drop(response);
        cipher.seal(&mut reply, nonce)?;
        Some(reply)
    })
}

/// Answers `POST /oxen/v3/lsrpc` and `POST /loki/v3/lsrpc`, which old clients use.
pub fn v3(
    keys: &ServerKeys,
    body: Buffer,
    nonce: FreshNonce,
    router: impl FnOnce(&Request) -> Response,
) -> Response {
    decrypt_and_reply(keys, body, PLAIN_TEXT, |plaintext, cipher| {
        let response = match v3_sub_request(plaintext) {
            Some(sub_request) => router(&sub_request.as_request()),
            None => Response::error(400),
        };
        let mut reply = v3_reply(&response, cipher.nonce_length());
        // Dropped early, because the encoding takes memory too.
        drop(response);
        cipher.seal(&mut reply, nonce)?;
        Some(STANDARD.encode(&*reply).into_bytes().into())
    })
}

/// The common part of both versions: 400 without an explanation for what can't be decrypted, 200
/// with the encrypted reply for everything else.
fn decrypt_and_reply(
    keys: &ServerKeys,
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

/// Encodes `l<len>:{"code": …, "headers": {…}}<len>:<body>e`, with room for the nonce in front
/// and capacity for the tag behind.
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

/// Encodes the body of a response with status 200, or `{"status_code": N}` for any other status,
/// with room for the nonce in front and capacity for the tag behind.
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
