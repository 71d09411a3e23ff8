//! The client's side of an onion request, for the example, the tests and the load generator. The
//! server doesn't use it.

use serde_json::{Value, json};

use super::bencode;
use super::cipher::{Cipher, EncType, FreshNonce};
use crate::buffer::Buffer;
use crate::protocol::keys::KeyPair;

/// One onion request of a client: the cipher that encrypts it and decrypts its reply.
pub struct OnionRequest {
    cipher: Cipher,
    /// The JSON at the end of the request.
    json: String,
}

impl OnionRequest {
    /// Derives the key for a request to the server with that X25519 public key. `enc_type` is the
    /// name of an encryption type, or none. `ephemeral_secret` must be random and used once.
    ///
    /// `None` if the encryption type is unknown, or the public key can't be a server's.
    pub fn new(
        server: &[u8; 32],
        enc_type: Option<&str>,
        ephemeral_secret: [u8; 32],
    ) -> Option<OnionRequest> {
        let ephemeral = KeyPair::of_secret(ephemeral_secret.into());
        let cipher = Cipher::agree_as_client(EncType::parse(enc_type)?, &ephemeral, server)?;
        let mut json = json!({ "ephemeral_key": hex::encode(ephemeral.public()) });
        if let Some(enc_type) = enc_type {
            json["enc_type"] = enc_type.into();
        }
        Some(OnionRequest {
            cipher,
            json: json.to_string(),
        })
    }

    /// Encrypts a plaintext into the body for the onion endpoint. `None` if the plaintext is
    /// longer than the cipher allows.
    pub fn seal(&self, plaintext: &[u8], nonce: FreshNonce) -> Option<Vec<u8>> {
        let mut buffer = Buffer::from(vec![0; self.cipher.nonce_length()]);
        buffer.extend_from_slice(plaintext);
        self.cipher.seal(&mut buffer, nonce)?;
        let mut body = u32::try_from(buffer.len()).ok()?.to_le_bytes().to_vec();
        body.extend_from_slice(&buffer);
        body.extend_from_slice(self.json.as_bytes());
        Some(body)
    }

    /// Decrypts the server's reply. `None` if it isn't a reply to this request.
    pub fn open(&self, mut reply: Vec<u8>) -> Option<Vec<u8>> {
        self.cipher.open(&mut reply).map(<[u8]>::to_vec)
    }
}

/// Encodes the plaintext of a v4 request.
pub fn v4_plaintext(
    method: &str,
    endpoint: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Vec<u8> {
    let headers: serde_json::Map<String, Value> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), json!(value)))
        .collect();
    let meta = json!({ "method": method, "endpoint": endpoint, "headers": headers }).to_string();
    let mut plaintext = Vec::new();
    match body {
        Some(body) => {
            bencode::write_head(&mut plaintext, meta.as_bytes(), body.len());
            plaintext.extend_from_slice(body);
        }
        None => plaintext.extend_from_slice(format!("l{}:{meta}", meta.len()).as_bytes()),
    }
    plaintext.push(b'e');
    plaintext
}

/// Parses the plaintext of a v4 reply into status, JSON and body. `None` if it is malformed.
pub fn read_v4_reply(plaintext: &[u8]) -> Option<(u16, Value, &[u8])> {
    let (meta, body) = bencode::parse(plaintext)?;
    let meta: Value = serde_json::from_slice(meta).ok()?;
    let status = meta["code"]
        .as_u64()
        .and_then(|code| code.try_into().ok())?;
    Some((status, meta, body?))
}
