//! The two ciphers of onion requests: key derivation, and encryption and decryption in place.
//! Names and formulas are the protocol's.

use chacha20::cipher::consts::U10;
use chacha20::hchacha;
use hmac::{Hmac, Mac};
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::buffer::Buffer;
use crate::protocol::keys::KeyPair;

/// The length of the tag that ends a ciphertext of either cipher, bytes (RFC 8439, 2.8; NIST SP
/// 800-38D, 5.2.1.2).
pub const TAG_LENGTH: usize = 16;

/// The encryption type that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncType {
    /// Named `xchacha20` or `xchacha20-poly1305`.
    XChaCha20,
    /// Named `aes-gcm` or `gcm`, or not at all.
    AesGcm,
}

impl EncType {
    /// Parses the name of an encryption type, which a request may leave out.
    pub fn parse(name: Option<&str>) -> Option<EncType> {
        match name {
            Some("xchacha20" | "xchacha20-poly1305") => Some(EncType::XChaCha20),
            Some("aes-gcm" | "gcm") | None => Some(EncType::AesGcm),
            Some(_) => None,
        }
    }

    /// The length of the nonce (XChaCha20) or IV (GCM) in front of the ciphertext, bytes.
    pub const fn nonce_length(self) -> usize {
        match self {
            EncType::XChaCha20 => 24,
            EncType::AesGcm => 12,
        }
    }
}

/// 24 random bytes for one reply. GCM's shorter IV is their beginning. The caller provides them,
/// because this module has no source of randomness; [`Cipher::seal`] consumes them.
pub struct FreshNonce(pub [u8; 24]);

/// The key of one request and its reply.
pub struct Cipher {
    enc_type: EncType,
    key: Zeroizing<[u8; 32]>,
}

impl Cipher {
    /// Derives the key from the shared secret S = X25519(our secret key, ephemeral key). `None`
    /// if S is all zero.
    pub fn agree(enc_type: EncType, ours: &KeyPair, ephemeral_key: &[u8; 32]) -> Option<Cipher> {
        let shared_secret = ours.shared_secret(ephemeral_key)?;
        Some(Cipher::derive(
            enc_type,
            &shared_secret,
            ephemeral_key,
            ours.public(),
        ))
    }

    /// Derives the same key on the client's side, which knows the ephemeral secret key.
    pub(super) fn agree_as_client(
        enc_type: EncType,
        ephemeral: &KeyPair,
        server: &[u8; 32],
    ) -> Option<Cipher> {
        let shared_secret = ephemeral.shared_secret(server)?;
        Some(Cipher::derive(
            enc_type,
            &shared_secret,
            ephemeral.public(),
            server,
        ))
    }

    fn derive(
        enc_type: EncType,
        shared_secret: &[u8; 32],
        ephemeral_key: &[u8; 32],
        server: &[u8; 32],
    ) -> Cipher {
        let key = match enc_type {
            EncType::XChaCha20 => xchacha20_key(shared_secret, ephemeral_key, server),
            EncType::AesGcm => aes_gcm_key(shared_secret),
        };
        Cipher { enc_type, key }
    }

    /// Decrypts `nonce ‖ ciphertext ‖ tag` in place and returns the plaintext within it. `None` if
    /// the tag is wrong; the ciphertext is wiped then.
    ///
    /// XChaCha20-Poly1305 with a 24-byte nonce (draft-irtf-cfrg-xchacha-03), or
    /// AES-256-GCM with a 12-byte IV (NIST SP 800-38D); no associated data.
    pub fn open<'a>(&self, sealed: &'a mut [u8]) -> Option<&'a [u8]> {
        let (nonce, rest) = sealed.split_at_mut_checked(self.enc_type.nonce_length())?;
        let (data, tag) = rest.split_at_mut_checked(rest.len().checked_sub(TAG_LENGTH)?)?;
        let (key, nonce) = self.key_and_nonce(nonce)?;
        let tag = Tag::try_from(&*tag).ok()?;
        let opened = key.open_in_place_separate_tag(nonce, Aad::empty(), tag, data, 0..);
        opened.ok().map(|plaintext| &*plaintext)
    }

    /// Encrypts in place. `buffer` holds room for the nonce ([`Self::nonce_length`]) followed by
    /// the plaintext; the tag is appended. `None` if the plaintext is longer than the cipher
    /// allows, which is more than 64 GiB.
    pub fn seal(&self, buffer: &mut Buffer, nonce: FreshNonce) -> Option<()> {
        let nonce = &nonce.0[..self.enc_type.nonce_length()];
        let (room, data) = buffer.split_at_mut_checked(nonce.len())?;
        room.copy_from_slice(nonce);
        let (key, nonce) = self.key_and_nonce(nonce)?;
        let sealed = key.seal_in_place_separate_tag(nonce, Aad::empty(), data);
        buffer.extend_from_slice(sealed.ok()?.as_ref());
        Some(())
    }

    /// The key and the nonce for the underlying cipher. `None` if the nonce doesn't have the length
    /// [`Self::nonce_length`].
    ///
    /// XChaCha20-Poly1305(key, n) = ChaCha20-Poly1305(HChaCha20(key, n[0..16]), 0⁴ ‖ n[16..24])
    /// (draft-irtf-cfrg-xchacha-03, 2.3).
    fn key_and_nonce(&self, nonce: &[u8]) -> Option<(LessSafeKey, Nonce)> {
        let (key, nonce) = match self.enc_type {
            EncType::XChaCha20 => {
                let (first, last) = nonce.split_first_chunk::<16>()?;
                let subkey = hchacha::<U10>((&*self.key).into(), first.into());
                let subkey = Zeroizing::new(<[u8; 32]>::from(subkey));
                let mut nonce = [0; 12];
                nonce[4..].copy_from_slice(last.first_chunk::<8>()?);
                (UnboundKey::new(&CHACHA20_POLY1305, &*subkey), nonce)
            }
            EncType::AesGcm => {
                let key = UnboundKey::new(&AES_256_GCM, &*self.key);
                (key, *nonce.first_chunk::<12>()?)
            }
        };
        // Doesn't fail: both ciphers take keys of 32 bytes.
        let key = LessSafeKey::new(key.ok()?);
        Some((key, Nonce::assume_unique_for_key(nonce)))
    }

    /// The length of the room for the nonce in front of a plaintext, bytes.
    pub fn nonce_length(&self) -> usize {
        self.enc_type.nonce_length()
    }
}

/// Key = BLAKE2b-256(S ‖ ephemeral key ‖ the server's X25519 public key), unkeyed.
fn xchacha20_key(
    shared_secret: &[u8; 32],
    ephemeral_key: &[u8; 32],
    server: &[u8; 32],
) -> Zeroizing<[u8; 32]> {
    let mut hash = blake2b_simd::Params::new().hash_length(32).to_state();
    hash.update(shared_secret)
        .update(ephemeral_key)
        .update(server);
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(hash.finalize().as_bytes());
    key
}

/// Key = HMAC-SHA256(key = `LOKI`, message = S).
fn aes_gcm_key(shared_secret: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    // HMAC takes keys of any length.
    let mut hmac = <Hmac<Sha256> as Mac>::new_from_slice(b"LOKI").expect("any length");
    hmac.update(shared_secret);
    Zeroizing::new(hmac.finalize().into_bytes().into())
}
