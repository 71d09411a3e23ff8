//! Bencoded lists of one or two byte strings, the only part of bencode that onion requests use:
//! `l<len>:<bytes>[<len>:<bytes>]e`.

/// Parses a list of one or two byte strings; `None` if it is malformed or followed by anything.
pub fn parse(list: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let rest = list.strip_prefix(b"l")?;
    let (first, rest) = byte_string(rest)?;
    if rest == b"e" {
        return Some((first, None));
    }
    let (second, rest) = byte_string(rest)?;
    (rest == b"e").then_some((first, Some(second)))
}

/// Writes a list up to the bytes of its second string, which must follow and have
/// `second_length` bytes. After them the list ends with `e`.
pub fn write_head(out: &mut Vec<u8>, first: &[u8], second_length: usize) {
    out.extend_from_slice(format!("l{}:", first.len()).as_bytes());
    out.extend_from_slice(first);
    out.extend_from_slice(format!("{second_length}:").as_bytes());
}

/// Splits a byte string off the input. Its length is decimal, without sign or leading zeros.
fn byte_string(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let digits = input.iter().position(|byte| !byte.is_ascii_digit())?;
    let (length, rest) = input.split_at(digits);
    if length.len() > 1 && length[0] == b'0' {
        return None;
    }
    // Digits are always UTF-8. Parsing fails if there are none, or too many.
    let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
    rest.strip_prefix(b":")?.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_one_or_two_byte_strings_are_read() {
        assert_eq!(parse(b"l2:ab3:cdee"), Some((&b"ab"[..], Some(&b"cde"[..]))));
        assert_eq!(parse(b"l2:abe"), Some((&b"ab"[..], None)));
        assert_eq!(parse(b"l0:0:e"), Some((&b""[..], Some(&b""[..]))));
        assert_eq!(parse(b"l1:e1:ee"), Some((&b"e"[..], Some(&b"e"[..]))));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "l",
            "le",
            "e",
            "2:ab",
            "d2:ab2:cde",
            "i5e",
            "l2:ab",
            "l2:ab3:cde",
            "l2:ab3:cdeex",
            "l2:ab3:cdee\n",
            "l2:ab1:c1:de",
            "l3:abe",
            "l99999999999999999999999:abe",
            "l-1:abe",
            "l+2:abe",
            "l02:abe",
            "l00:e",
            "l2;abe",
            "l:abe",
            "l2: abe",
            "l2:abl1:cee",
            "li5ee",
            " l2:abe",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut list = Vec::new();
        write_head(&mut list, b"meta", 4);
        list.extend_from_slice(b"bodye");
        assert_eq!(parse(&list), Some((&b"meta"[..], Some(&b"body"[..]))));
    }
}
