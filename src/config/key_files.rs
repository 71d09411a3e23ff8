//! The key files: the formats in which they are read, and the creation of a new one.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::reader::TomlReader;
use super::source::may_exist;
use super::values::file_path;
use crate::protocol::keys::ServerKeys;

/// The default of `keys.ed25519`, in the folder of the configuration.
const DEFAULT_ED25519: &str = "key_ed25519";
/// The default of `keys.x25519`, in the folder of the configuration.
const DEFAULT_X25519: &str = "key_x25519";
/// The largest accepted key file, bytes. The longest format is 128 hex digits with a line end.
const MAX_KEY_FILE: u64 = 4096;

/// The table `keys` of the configuration.
#[derive(Clone, Debug)]
pub struct KeyFiles {
    /// `keys.ed25519`: the file of the Ed25519 key, which is created at the first start.
    pub ed25519: PathBuf,
    /// `keys.x25519`: the file of an older server's X25519 key.
    pub x25519: PathBuf,
    /// Whether `keys.x25519` differs from the default. That file must exist; the default one is
    /// optional.
    pub x25519_is_set: bool,
}

impl KeyFiles {
    pub(super) fn take(keys: &mut TomlReader, folder: &Path) -> KeyFiles {
        let default_x25519 = folder.join(DEFAULT_X25519);
        let ed25519 = keys.take("keys.ed25519", folder.join(DEFAULT_ED25519), |value| {
            file_path(value, folder)
        });
        let x25519 = keys.take("keys.x25519", default_x25519.clone(), |value| {
            file_path(value, folder)
        });
        KeyFiles {
            ed25519,
            x25519_is_set: x25519 != default_x25519,
            x25519,
        }
    }

    /// Loads the keys. Creates the Ed25519 key first if there is none.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn load_or_create(&self) -> Result<ServerKeys, String> {
        if !may_exist(&self.ed25519) {
            create(&self.ed25519)?;
        }
        self.load()
    }

    /// Loads the keys.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn load(&self) -> Result<ServerKeys, String> {
        let seed = read(&self.ed25519, parse_ed25519)?;
        let old = match self.old_x25519() {
            Some(path) => Some(read(path, parse_x25519)?),
            None => None,
        };
        Ok(ServerKeys::from_secrets(&seed, old.as_deref()))
    }

    /// The file of an older server's key; `None` if it is optional and missing.
    fn old_x25519(&self) -> Option<&Path> {
        (self.x25519_is_set || may_exist(&self.x25519)).then_some(&self.x25519)
    }
}

/// A secret key or seed, wiped when dropped.
type Secret = Zeroizing<[u8; 32]>;

/// Reads and parses a key file. Warns if other users can read it.
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

/// Parses an Ed25519 seed from 64 bytes (seed ‖ public key) or 32 bytes (seed), either raw or as
/// hex digits.
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

/// Parses an X25519 secret key from 32 raw bytes or 64 hex digits.
fn parse_x25519(file: &[u8]) -> Result<Secret, &'static str> {
    let bytes = raw_or_hex(file, &[32])
        .ok_or("has none of the forms of an X25519 key: 32 bytes, or 64 hex digits")?;
    let mut secret = Secret::default();
    secret.copy_from_slice(&bytes);
    Ok(secret)
}

/// Decodes bytes of one of the `lengths`, raw or as hex digits with or without a line end. Raw
/// key bytes are never all hex digits by chance.
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

/// Creates an Ed25519 key file of 128 hex digits, mode 0600. The file appears complete or not at
/// all, and never replaces another one.
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
        // Another server that uses the same folder has created the key.
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
        serde_json::from_str(include_str!("../../tests/vectors/keys.json")).expect("JSON")
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
}
