//! The server's keys: an Ed25519 seed, and the X25519 pairs made from it.

use std::fmt;

use ed25519_dalek::SigningKey;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// The keys that the server answers to. Secrets are wiped when dropped.
pub struct Keys {
    ed25519_public: [u8; 32],
    /// The pair that is derived from the Ed25519 key, always; then the older one if there
    /// is one.
    pairs: Vec<KeyPair>,
}

/// An X25519 key pair.
pub struct KeyPair {
    secret: StaticSecret,
    public: PublicKey,
}

impl Keys {
    /// The keys of an Ed25519 seed and of an older X25519 secret key.
    pub fn from_secrets(ed25519_seed: &[u8; 32], old_x25519: Option<&[u8; 32]>) -> Keys {
        let ed25519 = SigningKey::from_bytes(ed25519_seed);
        let derived = KeyPair::of_ed25519(&ed25519);
        let old = old_x25519.map(|secret| KeyPair::of_secret((*secret).into()));
        Keys {
            ed25519_public: ed25519.verifying_key().to_bytes(),
            pairs: [derived].into_iter().chain(old).collect(),
        }
    }

    /// The X25519 pairs in the order in which they are tried.
    pub fn pairs(&self) -> &[KeyPair] {
        &self.pairs
    }

    /// The public keys, a line each.
    pub fn public_keys(&self) -> Vec<String> {
        let names = ["X25519 public key:", "older X25519 public key:"];
        let x25519 = names.iter().zip(&self.pairs);
        let x25519 = x25519.map(|(name, pair)| format!("{name} {}", hex::encode(pair.public())));
        let ed25519 = format!("Ed25519 public key: {}", hex::encode(self.ed25519_public));
        [ed25519].into_iter().chain(x25519).collect()
    }

    /// What clients write behind the URL of a file to name the key of its server: the Ed25519
    /// one.
    pub fn url_ending(&self) -> String {
        format!("#p={}", hex::encode(self.ed25519_public))
    }

    /// What the `keys` command prints: the public keys, and how clients name the server.
    pub fn describe(&self) -> String {
        let mut text = self.public_keys().join("\n");
        text += &format!(
            "\n\nClients name a file of this server as http://HOST/file/ID with the ending\n  {}\n\
             (with #p={}, the X25519 key, on iOS 2.15 and older)\n",
            self.url_ending(),
            hex::encode(self.pairs[0].public()),
        );
        text
    }
}

impl KeyPair {
    /// The pair that libsodium derives from an Ed25519 key: the secret is the clamped
    /// first half of SHA-512(seed) (`crypto_sign_ed25519_sk_to_curve25519`), the public
    /// key the image of the Ed25519 one under the birational map of RFC 7748, 4.1, which
    /// is the same as the secret times the base point.
    fn of_ed25519(key: &SigningKey) -> KeyPair {
        // X25519 clamps the secret when it is used.
        KeyPair::of_secret(StaticSecret::from(key.to_scalar_bytes()))
    }

    /// The pair of an X25519 secret key.
    pub fn of_secret(secret: StaticSecret) -> KeyPair {
        let public = PublicKey::from(&secret);
        KeyPair { secret, public }
    }

    /// The public key.
    pub fn public(&self) -> &[u8; 32] {
        self.public.as_bytes()
    }

    /// X25519(our secret key, `theirs`) of RFC 7748, 5; `None` if it is all zero, as it is
    /// for the few keys whose owner would know the outcome without knowing a secret.
    pub fn shared_secret(&self, theirs: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(*theirs));
        let contributory = shared.was_contributory();
        contributory.then(|| Zeroizing::new(shared.to_bytes()))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.public_keys().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &serde_json::Value) -> Vec<u8> {
        hex::decode(text.as_str().expect("a text")).expect("hexadecimal")
    }

    fn vectors() -> Vec<serde_json::Value> {
        serde_json::from_str(include_str!("../../tests/vectors/keys.json")).expect("JSON")
    }

    fn array(text: &serde_json::Value) -> [u8; 32] {
        unhex(text).try_into().expect("32 bytes")
    }

    #[test]
    fn x25519_pairs_are_derived_as_libsodium_does() {
        for vector in vectors() {
            let seed = array(&vector["ed25519_seed"]);
            let keys = Keys::from_secrets(&seed, None);
            assert_eq!(keys.ed25519_public[..], unhex(&vector["ed25519_public"]));
            assert_eq!(
                keys.pairs()[0].public()[..],
                unhex(&vector["x25519_public"])
            );
            let same = KeyPair::of_secret(array(&vector["x25519_secret"]).into());
            assert_eq!(same.public()[..], unhex(&vector["x25519_public"]));
            // The birational map comes to the same as the derived secret.
            let mapped = SigningKey::from_bytes(&seed)
                .verifying_key()
                .to_montgomery();
            assert_eq!(mapped.as_bytes(), keys.pairs()[0].public());
        }
    }

    #[test]
    fn an_all_zero_shared_secret_is_refused() {
        let keys = Keys::from_secrets(&[7; 32], None);
        // 0 and 1 are points of small order; so is 2^255 - 20 (RFC 7748, 6.1 and 7).
        let mut minus_one = [0xff; 32];
        minus_one[0] = 0xec;
        minus_one[31] = 0x7f;
        let mut one = [0; 32];
        one[0] = 1;
        for point in [[0; 32], one, minus_one] {
            assert!(keys.pairs()[0].shared_secret(&point).is_none());
        }
    }

    #[test]
    fn debug_shows_public_keys_only() {
        let shown = format!("{:?}", Keys::from_secrets(&[7; 32], Some(&[9; 32])));
        assert!(!shown.contains(&hex::encode([7; 32])) && !shown.contains(&hex::encode([9; 32])));
    }
}
