//! The envelope of a ciphertext: `[N: 4 bytes, little endian][N bytes: ciphertext]{JSON}`.

use std::ops::Range;

use serde::Deserialize;

use super::cipher::{Cipher, EncType, TAG_LENGTH};
use crate::buffer::Buffer;
use crate::protocol::keys::ServerKeys;

/// The longest JSON of an envelope, bytes. The JSON of a service node has some 200.
pub const MAX_JSON: usize = 4096;

/// The parsed envelope of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Where the ciphertext lies in the request's bytes.
    ciphertext: Range<usize>,
    ephemeral_key: [u8; 32],
    enc_type: EncType,
}

impl Envelope {
    /// Parses an envelope. `None` if it is malformed or has an unknown encryption type.
    pub fn parse(request: &[u8]) -> Option<Envelope> {
        let length = u32::from_le_bytes(*request.first_chunk()?);
        let start = size_of::<u32>();
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        let json = request.get(end..).filter(|json| json.len() <= MAX_JSON)?;
        let json: Json = serde_json::from_slice(json).ok()?;
        let mut ephemeral_key = [0; 32];
        hex::decode_to_slice(&*json.ephemeral_key, &mut ephemeral_key).ok()?;
        let enc_type = EncType::parse(json.enc_type.as_deref())?;
        let shortest = enc_type.nonce_length() + TAG_LENGTH;
        (end - start >= shortest).then_some(Envelope {
            ciphertext: start..end,
            ephemeral_key,
            enc_type,
        })
    }

    /// Decrypts the request in place with each of our keys in turn, until one fits. `None` if none
    /// does. Trying a wrong key costs one X25519 and one decryption.
    ///
    /// The cipher wipes a ciphertext that it can't decrypt, so a copy is made for each further key.
    /// There is a further key only if the operator has the key of an older server.
    pub fn open<'a>(&self, request: &'a mut [u8], keys: &ServerKeys) -> Option<(Cipher, &'a [u8])> {
        let (cipher, plaintext) = self.open_in_place(request, keys)?;
        Some((cipher, request.get(plaintext)?))
    }

    /// The same, with where the plaintext lies in the request's bytes.
    pub(super) fn open_in_place(
        &self,
        request: &mut [u8],
        keys: &ServerKeys,
    ) -> Option<(Cipher, Range<usize>)> {
        let ciphertext = request.get_mut(self.ciphertext.clone())?;
        let mut pairs = keys.pairs().iter().peekable();
        let cipher = loop {
            let ours = pairs.next()?;
            let copy = pairs.peek().map(|_| Buffer::copy_of(&[ciphertext], 0));
            let cipher = Cipher::agree(self.enc_type, ours, &self.ephemeral_key);
            let opened = cipher.filter(|cipher| cipher.open(ciphertext).is_some());
            match (opened, copy) {
                (Some(cipher), _) => break cipher,
                (None, Some(copy)) => ciphertext.copy_from_slice(&copy),
                (None, None) => return None,
            }
        };
        let start = self.ciphertext.start + cipher.nonce_length();
        let end = self.ciphertext.end - TAG_LENGTH;
        Some((cipher, start..end))
    }
}

/// The fields of the JSON that concern us. All others are ignored.
#[derive(Deserialize)]
struct Json<'a> {
    #[serde(borrow)]
    ephemeral_key: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    enc_type: Option<std::borrow::Cow<'a, str>>,
}
