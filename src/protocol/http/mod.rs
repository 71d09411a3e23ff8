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
