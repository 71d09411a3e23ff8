//! The server's keys: the Ed25519 key, and the X25519 key pairs that decrypt onion requests.

use std::fmt;

use ed25519_dalek::SigningKey;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// The server's keys. Secrets are wiped when dropped.
pub struct ServerKeys {
    ed25519_public: [u8; 32],
    /// The pair that is derived from the Ed25519 key; then the pair of an older server, if there
    /// is one.
    pairs: Vec<KeyPair>,
}

/// An X25519 key pair.
pub struct KeyPair {
    secret: StaticSecret,
    public: PublicKey,
}

impl ServerKeys {
    /// The keys that belong to an Ed25519 seed, and to an older server's X25519 secret key.
    pub fn from_secrets(ed25519_seed: &[u8; 32], old_x25519: Option<&[u8; 32]>) -> ServerKeys {
        let ed25519 = SigningKey::from_bytes(ed25519_seed);
        let derived = KeyPair::of_ed25519(&ed25519);
        let old = old_x25519.map(|secret| KeyPair::of_secret((*secret).into()));
        ServerKeys {
            ed25519_public: ed25519.verifying_key().to_bytes(),
            pairs: [derived].into_iter().chain(old).collect(),
        }
    }

    /// The X25519 key pairs, in the order in which decryption tries them.
    pub fn pairs(&self) -> &[KeyPair] {
        &self.pairs
    }

    /// The public keys as text, one line for each.
    pub fn public_keys(&self) -> Vec<String> {
        let names = ["X25519 public key:", "older X25519 public key:"];
        let x25519 = names.iter().zip(&self.pairs);
        let x25519 = x25519.map(|(name, pair)| format!("{name} {}", hex::encode(pair.public())));
        let ed25519 = format!("Ed25519 public key: {}", hex::encode(self.ed25519_public));
        [ed25519].into_iter().chain(x25519).collect()
    }

    /// The fragment that clients append to the URL of a file, with the server's Ed25519 key.
    pub fn url_ending(&self) -> String {
        format!("#p={}", hex::encode(self.ed25519_public))
    }

    /// The output of the `keys` command: the public keys, and the URLs that clients use.
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
    /// The pair that libsodium derives from an Ed25519 key. The secret key is the clamped first
    /// half of SHA-512(seed) (`crypto_sign_ed25519_sk_to_curve25519`). The public key is the
    /// image of the Ed25519 one under the birational map of RFC 7748, 4.1, which equals the
    /// secret key times the base point.
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

    /// X25519(our secret key, `theirs`) of RFC 7748, 5. `None` if the result is all zero, which
    /// happens for the few public keys of small order: anybody would know that result.
    pub fn shared_secret(&self, theirs: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(*theirs));
        let contributory = shared.was_contributory();
        contributory.then(|| Zeroizing::new(shared.to_bytes()))
    }
}

impl fmt::Debug for ServerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerKeys({})", self.public_keys().join(", "))
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
            let keys = ServerKeys::from_secrets(&seed, None);
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
        let keys = ServerKeys::from_secrets(&[7; 32], None);
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
        let shown = format!("{:?}", ServerKeys::from_secrets(&[7; 32], Some(&[9; 32])));
        assert!(!shown.contains(&hex::encode([7; 32])) && !shown.contains(&hex::encode([9; 32])));
    }
}
