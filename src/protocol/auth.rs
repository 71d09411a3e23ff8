//! Signed requests: the headers `X-FS-Pubkey`, `X-FS-Timestamp` and `X-FS-Signature`. Any
//! endpoint can use them.

use std::cmp::Ordering;
use std::fmt;
use std::time::SystemTime;

use base64::Engine;
use curve25519_dalek::edwards::CompressedEdwardsY;
use ed25519_dalek::{Signature, VerifyingKey};

use crate::protocol::http::{BASE64, Request};

/// The header with the signer's blinded id.
pub const PUBKEY_HEADER: &str = "X-FS-Pubkey";
/// The header with the Unix time of the signature, seconds.
pub const TIMESTAMP_HEADER: &str = "X-FS-Timestamp";
/// The header with the signature.
pub const SIGNATURE_HEADER: &str = "X-FS-Signature";

/// How far a timestamp may differ from the current time, seconds.
const MAX_CLOCK_DIFFERENCE: u64 = 24 * 60 * 60;
/// The first byte of a blinded id.
const BLINDED_ID_PREFIX: u8 = 0x07;

/// The verified signer of a request: `07` ‖ an Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BlindedId([u8; 33]);

impl fmt::Display for BlindedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for BlindedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The response that refuses a signed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The response's status.
    pub status: u16,
    /// The response's body, one line.
    pub reason: &'static str,
}

const fn reject(status: u16, reason: &'static str) -> Rejection {
    Rejection { status, reason }
}

/// Verifies the signature of a request and returns its signer; `None` if it isn't signed.
///
/// # Errors
/// 400 if a header is missing or malformed, 425 if the timestamp is more than
/// [`MAX_CLOCK_DIFFERENCE`] from `now`, 401 if the signature is wrong.
pub fn signer(request: &Request, now: SystemTime) -> Result<Option<BlindedId>, Rejection> {
    let headers = [PUBKEY_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER];
    let (pubkey, timestamp, signature) = match headers.map(|name| request.headers.get(name)) {
        [None, None, None] => return Ok(None),
        [Some(pubkey), Some(timestamp), Some(signature)] => (pubkey, timestamp, signature),
        _ => {
            let all = "X-FS-Pubkey, X-FS-Timestamp and X-FS-Signature must all be given, or none";
            return Err(reject(400, all));
        }
    };
    let (blinded_id, key) = blinded_id(pubkey).ok_or(reject(
        400,
        "X-FS-Pubkey is not 07 and an Ed25519 point of prime order",
    ))?;
    let seconds = unix_time(timestamp).ok_or(reject(400, "X-FS-Timestamp is not a Unix time"))?;
    let signature: [u8; 64] =
        hex_or_base64(signature).ok_or(reject(400, "X-FS-Signature is not 64 bytes"))?;

    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    if now.abs_diff(seconds) > MAX_CLOCK_DIFFERENCE {
        return Err(reject(425, "X-FS-Timestamp is more than 24 hours from now"));
    }
    let message = signed_message(request, timestamp);
    // `verify_strict` verifies as in RFC 8032, 5.1.7, and refuses points of small order.
    match key.verify_strict(&message, &Signature::from_bytes(&signature)) {
        Ok(()) => Ok(Some(blinded_id)),
        Err(_) => Err(reject(401, "X-FS-Signature is wrong")),
    }
}

/// The signed bytes: timestamp ‖ METHOD ‖ path and query as requested ‖ BLAKE2b-512(body), the last
/// only if there is a body.
fn signed_message(request: &Request, timestamp: &str) -> Vec<u8> {
    let mut message = [timestamp, request.method.as_str(), request.target]
        .concat()
        .into_bytes();
    if !request.body.is_empty() {
        message.extend_from_slice(blake2b_simd::blake2b(request.body).as_bytes());
    }
    message
}

/// Parses a blinded id of 33 bytes: `07`, and the canonical encoding of a point of prime order.
fn blinded_id(text: &str) -> Option<(BlindedId, VerifyingKey)> {
    let id: [u8; 33] = hex_or_base64(text)?;
    let (&prefix, encoded) = id.split_first()?;
    let encoded: [u8; 32] = encoded.try_into().ok()?;
    let point = CompressedEdwardsY(encoded).decompress()?;
    // `is_torsion_free` also holds for the identity, which `is_small_order` excludes.
    let is_canonical = point.compress().0 == encoded;
    let has_prime_order = point.is_torsion_free() && !point.is_small_order();
    let key = VerifyingKey::from_bytes(&encoded).ok()?;
    (prefix == BLINDED_ID_PREFIX && is_canonical && has_prime_order).then_some((BlindedId(id), key))
}

/// Parses decimal seconds. A number beyond 64 bits becomes the largest one, which is refused as
/// too far from now.
fn unix_time(text: &str) -> Option<u64> {
    let is_decimal = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    is_decimal.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Decodes `N` bytes. Hex digits and base64 are told apart by their length.
fn hex_or_base64<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = match text.len().cmp(&(2 * N)) {
        Ordering::Less => BASE64.decode(text).ok()?,
        Ordering::Equal => hex::decode(text).ok()?,
        Ordering::Greater => return None,
    };
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::protocol::http::{Headers, Method};

    fn check(
        vector: &Value,
        change: impl Fn(&str, &str) -> String,
    ) -> Result<Option<BlindedId>, Rejection> {
        let text = |name: &str| vector[name].as_str().expect("a text");
        let headers = vector["headers"].as_object().expect("headers").iter();
        let headers: Headers = headers
            .map(|(name, value)| (name.clone(), change(name, value.as_str().expect("a text"))))
            .collect();
        let request = Request {
            method: Method::parse(text("method")),
            target: text("path"),
            headers: &headers,
            body: &hex::decode(text("body")).expect("hexadecimal"),
        };
        let now = vector["now"].as_u64().expect("a number");
        signer(&request, SystemTime::UNIX_EPOCH + Duration::from_secs(now))
    }

    fn unchanged(_: &str, value: &str) -> String {
        value.to_string()
    }

    fn vectors() -> Vec<Value> {
        serde_json::from_str(include_str!("../../tests/vectors/version-auth.json")).expect("JSON")
    }

    #[test]
    fn every_vector_is_accepted_or_refused_as_it_says() {
        assert!(vectors().iter().any(|vector| vector["ok"] == true));
        for vector in vectors() {
            match check(&vector, unchanged) {
                Ok(signer) => {
                    assert!(vector["ok"] == true, "{vector}");
                    assert!(signer.is_some_and(|signer| signer.to_string().starts_with("07")));
                }
                Err(rejection) => assert_eq!(vector["status"], rejection.status, "{vector}"),
            }
        }
    }

    #[test]
    fn an_unsigned_request_has_no_signer() {
        let request = Request {
            method: Method::Get,
            target: "/",
            headers: &Headers::default(),
            body: b"",
        };
        assert_eq!(signer(&request, SystemTime::now()), Ok(None));
    }

    #[test]
    fn malformed_values_are_400_whatever_the_others_are() {
        let good = vectors()
            .into_iter()
            .find(|vector| vector["ok"] == true)
            .expect("one");
        for (name, bad) in [
            (TIMESTAMP_HEADER, ""),
            (TIMESTAMP_HEADER, "-1"),
            (TIMESTAMP_HEADER, "1750000000.5"),
            (TIMESTAMP_HEADER, "now"),
            (SIGNATURE_HEADER, ""),
            (SIGNATURE_HEADER, "00"),
            (SIGNATURE_HEADER, "!"),
            (PUBKEY_HEADER, ""),
            (PUBKEY_HEADER, "07"),
        ] {
            let change = |n: &str, value: &str| (if n == name { bad } else { value }).to_string();
            assert_eq!(
                check(&good, change).map_err(|r| r.status),
                Err(400),
                "{name}: {bad:?}"
            );
        }
        let far = |n: &str, value: &str| match n {
            TIMESTAMP_HEADER => "99999999999999999999999".to_string(),
            _ => value.to_string(),
        };
        assert_eq!(check(&good, far).map_err(|r| r.status), Err(425));
    }

    #[test]
    fn points_that_are_not_of_prime_order_or_not_canonical_are_refused() {
        let base = curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
        let torsion = curve25519_dalek::constants::EIGHT_TORSION;
        let is_accepted =
            |encoded: &[u8]| blinded_id(&format!("07{}", hex::encode(encoded))).is_some();
        assert!(is_accepted(base.compress().as_bytes()));
        for small in torsion {
            assert!(!is_accepted(small.compress().as_bytes()), "small order");
        }
        assert!(
            !is_accepted((base + torsion[1]).compress().as_bytes()),
            "mixed order"
        );
        // y = p + 1 is the identity's y, encoded a second time.
        let mut not_canonical = [0xff; 32];
        not_canonical[0] = 0xee;
        not_canonical[31] = 0x7f;
        assert!(!is_accepted(&not_canonical));
    }
}
