//! Bencoded lists of one or two byte strings, which is all of bencode that onion requests
//! use: `l<len>:<bytes>[<len>:<bytes>]e`.

/// The one or two byte strings of a list, and nothing before, between or behind them;
/// `None` for anything else.
pub fn parse(list: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let rest = list.strip_prefix(b"l")?;
    let (first, rest) = byte_string(rest)?;
    if rest == b"e" {
        return Some((first, None));
    }
    let (second, rest) = byte_string(rest)?;
    (rest == b"e").then_some((first, Some(second)))
}

/// The list's bytes up to a first part, and the header of a second part that is
/// `second_length` bytes long; what follows that is `e`.
pub fn write_head(out: &mut Vec<u8>, first: &[u8], second_length: usize) {
    out.extend_from_slice(format!("l{}:", first.len()).as_bytes());
    out.extend_from_slice(first);
    out.extend_from_slice(format!("{second_length}:").as_bytes());
}

/// A byte string and what follows it. Its length is decimal, without signs or leading
/// zeros.
fn byte_string(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let digits = input.iter().position(|byte| !byte.is_ascii_digit())?;
    let (length, rest) = input.split_at(digits);
    if length.len() > 1 && length[0] == b'0' {
        return None;
    }
    // Digits are UTF-8; none, or too many for a number, don't parse.
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
