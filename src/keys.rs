//! The server's keys: files of secrets, and the X25519 pairs made from them.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use ed25519_dalek::SigningKey;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::config;

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
    /// Loads the keys, and makes the Ed25519 key first if there is none.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn load_or_create(settings: &config::Keys) -> Result<Keys, String> {
        if !config::may_exist(&settings.ed25519) {
            create(&settings.ed25519)?;
        }
        Keys::load(settings)
    }

    /// Loads the keys.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn load(settings: &config::Keys) -> Result<Keys, String> {
        let seed = read(&settings.ed25519, parse_ed25519)?;
        let old = match settings.old_x25519() {
            Some(path) => Some(read(path, parse_x25519)?),
            None => None,
        };
        Ok(Keys::from_secrets(&seed, old.as_deref()))
    }

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

type Secret = Zeroizing<[u8; 32]>;

fn read(path: &Path, parse: fn(&[u8]) -> Result<Secret, &'static str>) -> Result<Secret, String> {
    let shown = path.display();
    let cannot = |error: io::Error| match error.kind() {
        ErrorKind::PermissionDenied => format!(
            "the key {shown} cannot be looked at: {error}; run this as the user whose key it is"
        ),
        _ => format!("the key {shown} cannot be read: {error}"),
    };
    let metadata = fs::metadata(path).map_err(cannot)?;
    if metadata.len() > MAX_KEY_FILE {
        return Err(format!("the file {shown} is too long for a key"));
    }
    let bytes = Zeroizing::new(fs::read(path).map_err(cannot)?);
    if metadata.permissions().mode() & 0o077 != 0 {
        log::warn!("the key {shown} can be read by others; run chmod 600 {shown}");
    }
    parse(&bytes).map_err(|problem| format!("the key {shown} {problem}"))
}

/// The longest form is 128 hex digits with a line end.
const MAX_KEY_FILE: u64 = 4096;

/// An Ed25519 seed from 64 raw bytes (seed ‖ public key), 32 raw bytes (seed), or either
/// as hex digits.
fn parse_ed25519(file: &[u8]) -> Result<Secret, &'static str> {
    let bytes = raw_or_hex(file, &[64, 32]).ok_or(
        "has none of the forms of an Ed25519 key: 64 or 32 bytes, or as many hex digits twice",
    )?;
    let (seed, public) = bytes.split_at(32);
    let mut secret = Secret::default();
    secret.copy_from_slice(seed);
    let expected = SigningKey::from_bytes(&secret).verifying_key();
    if !public.is_empty() && public != expected.as_bytes() {
        return Err("is broken: its public half doesn't belong to its secret half");
    }
    Ok(secret)
}

/// An X25519 secret key from 32 raw bytes or 64 hex digits.
fn parse_x25519(file: &[u8]) -> Result<Secret, &'static str> {
    let bytes = raw_or_hex(file, &[32])
        .ok_or("has none of the forms of an X25519 key: 32 bytes, or 64 hex digits")?;
    let mut secret = Secret::default();
    secret.copy_from_slice(&bytes);
    Ok(secret)
}

/// Bytes of one of the `lengths`, raw or as hex digits with a line end or without. As many
/// raw bytes as would make hex digits are never all hex digits by chance.
fn raw_or_hex(file: &[u8], lengths: &[usize]) -> Option<Zeroizing<Vec<u8>>> {
    let is_line_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let end = file
        .iter()
        .rposition(|byte| !is_line_end(byte))
        .map_or(0, |last| last + 1);
    let line_end_fits = matches!(&file[end..], b"" | b"\n" | b"\r\n");
    let bytes = match hex::decode(&file[..end]) {
        Ok(bytes) if line_end_fits => Zeroizing::new(bytes),
        _ => Zeroizing::new(file.to_vec()),
    };
    lengths.contains(&bytes.len()).then_some(bytes)
}

/// Makes a new Ed25519 key file: 128 hex digits, mode 0600. It appears whole or not at
/// all, and never in the place of another.
fn create(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let mut seed = Secret::default();
    getrandom::getrandom(seed.as_mut())
        .map_err(|error| format!("no random numbers for a new key: {error}"))?;
    let key = Zeroizing::new(SigningKey::from_bytes(&seed).to_keypair_bytes());
    let text = Zeroizing::new(hex::encode(key.as_slice()) + "\n");
    let unfinished = path.with_extension(format!("new-{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        })
        .and_then(|()| fs::hard_link(&unfinished, path));
    let _ = fs::remove_file(&unfinished);
    match written {
        Ok(()) => {
            log::info!(
                "made a new key in {shown}: keep a copy of it, clients know the server by it"
            );
            Ok(())
        }
        // Another server on the same folder was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(format!(
            "cannot make a key in {shown}: {error}; let this user write into its folder, or set \
             another path in keys.ed25519"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &serde_json::Value) -> Vec<u8> {
        hex::decode(text.as_str().expect("a text")).expect("hexadecimal")
    }

    fn vectors() -> Vec<serde_json::Value> {
        serde_json::from_str(include_str!("../tests/vectors/keys.json")).expect("JSON")
    }

    #[test]
    fn x25519_pairs_are_derived_as_libsodium_does() {
        for vector in vectors() {
            let seed = parse_ed25519(&unhex(&vector["ed25519_seed"])).expect("a seed");
            let keys = Keys::from_secrets(&seed, None);
            assert_eq!(keys.ed25519_public[..], unhex(&vector["ed25519_public"]));
            assert_eq!(
                keys.pairs()[0].public()[..],
                unhex(&vector["x25519_public"])
            );
            let secret = parse_x25519(&unhex(&vector["x25519_secret"])).expect("a key");
            let same = KeyPair::of_secret((*secret).into());
            assert_eq!(same.public()[..], unhex(&vector["x25519_public"]));
            // The birational map comes to the same as the derived secret.
            let mapped = SigningKey::from_bytes(&seed)
                .verifying_key()
                .to_montgomery();
            assert_eq!(mapped.as_bytes(), keys.pairs()[0].public());
        }
    }

    #[test]
    fn a_key_is_read_in_every_form() {
        let vector = &vectors()[0];
        let seed = unhex(&vector["ed25519_seed"]);
        let text = vector["ed25519_secret"].as_str().expect("a text");
        for form in [
            unhex(&vector["ed25519_secret"]),
            text.into(),
            format!("{text}\n").into(),
            format!("{text}\r\n").into(),
            text.to_uppercase().into(),
            seed.clone(),
            text[..64].into(),
            format!("{}\n", &text[..64]).into(),
        ] {
            let parsed = parse_ed25519(&form).unwrap_or_else(|e| panic!("{e}: {form:?}"));
            assert_eq!(parsed[..], seed);
        }
        // A raw key may end like a line.
        let raw = [b'\n'; 32];
        assert_eq!(parse_x25519(&raw).expect("a key")[..], raw);
        assert_eq!(parse_ed25519(&raw).expect("a seed")[..], raw);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let text = vectors()[0]["ed25519_secret"]
            .as_str()
            .expect("a text")
            .to_string();
        for bad in [
            "",
            "\n",
            &text[..63],
            &text[..127],
            &format!("{text}00"),
            &format!("{text} "),
            &format!("{text}\n\n"),
            &text.replace('2', "g"),
        ] {
            assert!(parse_ed25519(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(parse_x25519(text.as_bytes()).is_err());
        let halves_differ = format!("{}{}", &text[..64], "00".repeat(32));
        assert!(parse_ed25519(halves_differ.as_bytes()).is_err());
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
