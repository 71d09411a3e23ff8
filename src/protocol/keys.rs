//! The server's keys: the Ed25519 key, and the X25519 key pairs that decrypt onion requests.

use std::fmt;

use curve25519_dalek::montgomery::MontgomeryPoint;
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
        let shared = if has_vectors() {
            on_edwards_curve(self.secret.as_bytes(), theirs)
        } else {
            None
        };
        let shared = shared.unwrap_or_else(|| {
            let shared = self.secret.diffie_hellman(&PublicKey::from(*theirs));
            Zeroizing::new(shared.to_bytes())
        });
        let any_bit = shared.iter().fold(0, |all, byte| all | byte);
        (any_bit != 0).then_some(shared)
    }
}

/// X25519 by way of the Edwards curve, to which the curve of RFC 7748 is birationally equivalent
/// (4.1): curve25519-dalek multiplies there with the processor's vectors. Measured: two thirds to
/// three quarters of the time of its own X25519 with AVX2, an eighth more without. `None` if
/// `theirs` is no point of the curve but of its twist, which X25519 takes as well. Both points with
/// that coordinate lead to the same result.
fn on_edwards_curve(secret: &[u8; 32], theirs: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let point = MontgomeryPoint(*theirs).to_edwards(0)?;
    // Clamped as X25519 wants it (RFC 7748, 5), in a time that doesn't depend on the secret.
    let product = Zeroizing::new(point.mul_clamped(*secret));
    let shared = Zeroizing::new(product.to_montgomery());
    Some(Zeroizing::new(shared.to_bytes()))
}

/// Whether curve25519-dalek has a faster multiplication on the Edwards curve for this processor.
fn has_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has_vectors = std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    let has_vectors = false;
    has_vectors
}

impl fmt::Debug for ServerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerKeys({})", self.public_keys().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        let torsion = curve25519_dalek::constants::EIGHT_TORSION;
        let torsion = torsion.map(|point| point.to_montgomery().to_bytes());
        for point in [[0; 32], one, minus_one].into_iter().chain(torsion) {
            assert!(keys.pairs()[0].shared_secret(&point).is_none());
        }
    }

    /// X25519(secret, theirs) in each way that the server knows; all must come to the same.
    fn in_each_way(secret: [u8; 32], theirs: [u8; 32]) -> [u8; 32] {
        let expected = x25519_dalek::x25519(secret, theirs);
        if let Some(shared) = on_edwards_curve(&secret, &theirs) {
            assert_eq!(*shared, expected);
        }
        let pair = KeyPair::of_secret(secret.into());
        let shared = pair.shared_secret(&theirs).map(|shared| *shared);
        assert_eq!(shared.unwrap_or_default(), expected);
        expected
    }

    #[test]
    fn x25519_is_that_of_the_rfc_in_each_way() {
        // RFC 7748, 5.2: two vectors, and the result of a thousand iterations.
        for (secret, theirs, shared) in [
            (
                "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
                "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
                "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
            ),
            (
                "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
                "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
                "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
            ),
        ] {
            let [secret, theirs, shared] = [secret, theirs, shared].map(|hex| array(&hex.into()));
            assert_eq!(in_each_way(secret, theirs), shared);
        }
        let (mut secret, mut theirs) = ([0; 32], [0; 32]);
        secret[0] = 9;
        theirs[0] = 9;
        for _ in 0..1000 {
            // Nine and what comes of it are on the curve.
            assert!(on_edwards_curve(&secret, &theirs).is_some());
            (secret, theirs) = (in_each_way(secret, theirs), secret);
        }
        let last = "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51";
        assert_eq!(hex::encode(secret), last);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_key_in_each_way(secret: [u8; 32], theirs: [u8; 32], order: usize) {
            in_each_way(secret, theirs);
            // Coordinates of small order, and those just below and above 2^255 - 19.
            let torsion = curve25519_dalek::constants::EIGHT_TORSION[order % 8];
            in_each_way(secret, torsion.to_montgomery().to_bytes());
            let mut edge = [0xff; 32];
            edge[0] = [0xec, 0xed, 0xee, 0xff][order % 4];
            edge[31] = [0x7f, 0xff][order / 4 % 2];
            in_each_way(secret, edge);
        }
    }

    #[test]
    fn debug_shows_public_keys_only() {
        let shown = format!("{:?}", ServerKeys::from_secrets(&[7; 32], Some(&[9; 32])));
        assert!(!shown.contains(&hex::encode([7; 32])) && !shown.contains(&hex::encode([9; 32])));
    }
}
