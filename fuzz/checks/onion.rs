//! Onion requests: the input is used as an envelope from the network, and as a decrypted plaintext.
//! Nothing may panic, and parsed values must be within their bounds.

use session_file_server::protocol::http::{Request, Response};
use session_file_server::protocol::keys::ServerKeys;
use session_file_server::protocol::onion::cipher::FreshNonce;
use session_file_server::protocol::onion::{
    MAX_META, Opened, Version, bencode, v3_sub_request, v4_sub_request,
};

/// Panics if the target does what it must not do with `input`.
pub fn check(input: &[u8]) {
    // The seed of the first key in tests/vectors/keys.json, for which the corpus is made.
    let mut seed = [0; 32];
    hex_decode(
        "68761fa5c5b5e6c800d7183df175c38ae579a110966da90d2d1ec5fb7af9619a",
        &mut seed,
    );
    let keys = ServerKeys::from_secrets(&seed, Some(&[1; 32]));
    let status = |version| match Opened::open(version, &keys, input.to_vec().into()) {
        Ok(opened) => {
            let router = |_: &Request| Some(Response::error(404));
            let answered = opened.answer(FreshNonce([0; 24]), router);
            answered
                .unwrap_or_else(|_| panic!("it was answered"))
                .status
        }
        Err(refusal) => refusal.status,
    };
    let (v3, v4) = (status(Version::V3), status(Version::V4));
    assert!(matches!(v3, 200 | 400) && v3 == v4);

    if let Some((first, second)) = bencode::parse(input) {
        assert!(first.len() + second.map_or(0, <[u8]>::len) < input.len());
    }
    if let Some(sub_request) = v4_sub_request(input) {
        let request = sub_request.as_request();
        assert!(request.target.starts_with('/') && !request.target.starts_with("//"));
        assert!(request.target.len() <= MAX_META);
        assert!(request.body.len() < input.len());
    }
    if let Some(sub_request) = v3_sub_request(input) {
        let target = sub_request.as_request().target;
        assert!(target.starts_with('/') && !target.starts_with("//"));
    }
}

fn hex_decode(text: &str, out: &mut [u8; 32]) {
    for (byte, digits) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).expect("ASCII");
        *byte = u8::from_str_radix(digits, 16).expect("hexadecimal");
    }
}
