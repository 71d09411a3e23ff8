//! Signed requests, as clients make them.

use ed25519_dalek::{Signer, SigningKey};

/// The headers of a signed request.
pub fn sign(key: &SigningKey, timestamp: u64, message: &str) -> [(&'static str, String); 3] {
    let signature = key.sign(format!("{timestamp}{message}").as_bytes());
    let pubkey = format!("07{}", hex::encode(key.verifying_key().as_bytes()));
    [
        ("X-FS-Pubkey", pubkey),
        ("X-FS-Timestamp", timestamp.to_string()),
        ("X-FS-Signature", hex::encode(signature.to_bytes())),
    ]
}
