//! File ids: parsed, derived from content, or random.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The length of the digest behind a content id, bytes: 33 bytes are 44 characters of base64url.
const DIGEST_LENGTH: usize = 33;
/// The length of a content id, characters. No other kind of id is that long.
const CONTENT_ID_LENGTH: usize = 44;
/// The salt of content ids: the protocol's, padded with zeros to BLAKE2b's 16 bytes.
const SALT: &[u8; 16] = b"SessionFileSvr\0\0";
/// The length of a numeric id, bits. Old clients keep it in a double, which is exact up to 53
/// bits.
const NUMERIC_ID_BITS: usize = 53;

/// A file id: 1 to 44 characters of `[A-Za-z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(String);

impl FileId {
    /// Parses a file id; `None` if `text` is none.
    pub fn parse(text: &str) -> Option<FileId> {
        FileId::is_valid(text).then(|| FileId(text.to_string()))
    }

    /// Finds the id in what people copy: the id itself, the path `/file/ID` (or `/files/ID`, as old
    /// clients have it), or a whole URL that ends with this path. A query and a fragment, such as
    /// `#p=…` in clients' links, are ignored.
    pub fn in_link(link: &str) -> Option<FileId> {
        let link = link.trim().split(['?', '#']).next()?;
        let (scheme, path) = match link.split_once("://") {
            Some((scheme, path)) => (Some(scheme), path),
            None => (None, link),
        };
        let is_http =
            |scheme: &str| ["http", "https"].contains(&scheme.to_ascii_lowercase().as_str());
        if !scheme.is_none_or(is_http) {
            return None;
        }
        let Some((folder, id)) = path.rsplit_once('/') else {
            // A URL with nothing but a host names no file.
            return FileId::parse(path).filter(|_| scheme.is_none());
        };
        let (host, folder) = folder.rsplit_once('/').unwrap_or(("", folder));
        // In a URL a host comes first.
        let has_host = scheme.is_none() || !host.is_empty();
        let is_file = has_host && matches!(folder, "file" | "files");
        FileId::parse(id).filter(|_| is_file)
    }

    /// Whether `text` is a valid file id.
    pub fn is_valid(text: &str) -> bool {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        (1..=CONTENT_ID_LENGTH).contains(&text.len()) && text.bytes().all(allowed)
    }

    /// The content id of a file: unkeyed BLAKE2b (RFC 7693, with the salt of the BLAKE2
    /// paper, 2.8) with a 33-byte digest and the salt `SessionFileSvr` ‖ 00 00, in
    /// base64url without padding.
    pub fn of_content(data: &[u8]) -> FileId {
        let mut params = blake2b_simd::Params::new();
        params.hash_length(DIGEST_LENGTH).salt(SALT);
        FileId(URL_SAFE_NO_PAD.encode(params.hash(data).as_bytes()))
    }

    /// A decimal id of 53 bits: `prefix`, followed by the lowest bits of `random`.
    pub fn numeric(prefix: &[bool], random: u64) -> FileId {
        let random_bits = NUMERIC_ID_BITS - prefix.len();
        let random_mask = (1 << random_bits) - 1;
        let leading = prefix
            .iter()
            .fold(0, |bits, bit| (bits << 1) | u64::from(*bit));
        let number = (leading << random_bits) | (random & random_mask);
        FileId(number.to_string())
    }

    /// Whether this is a content id. Any other id may be given to another file later.
    pub fn is_content_id(&self) -> bool {
        self.0.len() == CONTENT_ID_LENGTH
    }

    /// The id's characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ids_are_those_of_the_test_vectors() {
        let vectors = include_str!("../../tests/vectors/file-ids.json");
        let vectors: Vec<serde_json::Value> = serde_json::from_str(vectors).expect("JSON");
        assert!(!vectors.is_empty());
        for vector in vectors {
            let unhex = |text: &serde_json::Value| {
                hex::decode(text.as_str().expect("a text")).expect("hexadecimal")
            };
            let data = match vector["repeat"].as_object() {
                Some(repeat) => unhex(&repeat["unit"])
                    .repeat(repeat["times"].as_u64().expect("a number") as usize),
                None => unhex(&vector["data"]),
            };
            assert_eq!(FileId::of_content(&data).as_str(), vector["id"]);
        }
    }

    #[test]
    fn an_id_has_1_to_44_characters_of_its_alphabet() {
        let longest = "a".repeat(44);
        for valid in ["0", "aZ09_-", &longest] {
            assert!(FileId::is_valid(valid), "{valid:?}");
        }
        let too_long = "a".repeat(45);
        for invalid in ["", "a b", "a.b", "ä", "a%20", "a+b", "a=", &too_long] {
            assert!(!FileId::is_valid(invalid), "{invalid:?}");
        }
    }

    #[test]
    fn an_id_is_found_in_everything_that_people_copy() {
        let id = "Ab-_".repeat(11);
        for link in [
            "ID",
            " ID\r",
            "ID#p=00ff",
            "ID?x=ftp://y",
            "/file/ID",
            "//file/ID",
            "file/ID",
            "/files/ID",
            "/file/ID#p=00ff&d",
            "http://example.org/file/ID",
            "HTTPS://example.org:8443/file/ID#p=00ff",
            "https://example.org/below/file/ID?x=a/b#d",
            "http://[::1]:8000//file/ID",
            "example.org/file/ID",
        ] {
            for id in [id.as_str(), "12345", "-", "file"] {
                let found = FileId::in_link(&link.replace("ID", id));
                assert_eq!(found, FileId::parse(id), "{link}");
            }
        }
    }

    #[test]
    fn what_names_no_file_is_no_link_to_one() {
        for link in [
            "",
            " ",
            "#p=00",
            "/",
            "/file",
            "/file/",
            "/file/a b",
            "/file/a.b",
            "/file/a/info",
            "/avatar/abc",
            "a b",
            "http://",
            "http://example",
            "http://example.org",
            "http://example.org/abc",
            "http://file/abc",
            "ftp://example.org/file/abc",
            "://example.org/file/abc",
            &"a".repeat(45),
        ] {
            assert_eq!(FileId::in_link(link), None, "{link:?}");
        }
    }

    #[test]
    fn numeric_ids_have_53_bits_led_by_the_prefix() {
        assert_eq!(
            FileId::numeric(&[], u64::MAX).as_str(),
            ((1u64 << 53) - 1).to_string()
        );
        assert_eq!(FileId::numeric(&[], 7).as_str(), "7");
        assert_eq!(
            FileId::numeric(&[false, true], 0).as_str(),
            (1u64 << 51).to_string()
        );
        let all_ones = FileId::numeric(&[false, true], u64::MAX);
        assert_eq!(all_ones.as_str(), ((1u64 << 52) - 1).to_string());
    }
}
