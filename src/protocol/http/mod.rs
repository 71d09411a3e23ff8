//! Requests and responses as plain data: what a handler takes and returns. They are the same for
//! direct requests and for those inside onion requests.

mod request;
mod response;

pub use request::{BodyRule, Headers, Incoming, Method, Request, one_slash, path_of};
pub use response::{
    Body, JSON, OCTET_STREAM, PLAIN_TEXT, RETRY_AFTER, Response, http_date, unix_seconds,
};

use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Base64 as clients send it: the standard alphabet (RFC 4648, 4), padded or not.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The length of so many bytes in padded base64, bytes.
pub fn base64_length(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

/// The largest JSON document with a file of `max_size` bytes in base64, bytes: 4/3 for the base64,
/// an eighth more for characters that some encoders escape and lines that they wrap, and 4 KiB
/// for other fields.
pub fn base64_json_limit(max_size: usize) -> usize {
    base64_length(max_size) * 9 / 8 + 4096
}
