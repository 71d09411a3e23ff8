//! Storing Unicode texts in databases of any encoding.
//!
//! GitHub's release notes are Unicode. A database in LATIN1, EUC_JP and the like refuses characters
//! that its encoding lacks. In such a database, texts are stored in ASCII: every other character,
//! and the backslash, becomes `\u{…}` with its number in hexadecimal, as in Rust. In a database
//! that holds all of Unicode, texts are stored unchanged, as by older servers.

use super::connection::OpenConnection;

const SELECT_ENCODING: &str = "SELECT getdatabaseencoding()::text";

/// The form in which texts are stored in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextForm {
    /// Texts are unchanged.
    Plain,
    /// Texts are escaped in ASCII.
    Escaped,
}

impl TextForm {
    /// The form for the database of a connection.
    pub(super) fn of(open: &mut OpenConnection) -> Result<TextForm, postgres::Error> {
        let row = open.query_one(SELECT_ENCODING, &[])?;
        // A database in SQL_ASCII stores any bytes.
        Ok(match row.try_get(0)? {
            "UTF8" | "SQL_ASCII" => TextForm::Plain,
            _ => TextForm::Escaped,
        })
    }

    /// The stored form of a text. The character 0, which no database can store, is removed.
    pub(super) fn store(self, text: &str) -> String {
        let mut stored = String::with_capacity(text.len());
        for c in text.chars().filter(|c| *c != '\0') {
            if self == TextForm::Escaped && (!c.is_ascii() || c == '\\') {
                stored.extend(c.escape_unicode());
            } else {
                stored.push(c);
            }
        }
        stored
    }

    /// The text of a stored form. Invalid escapes are kept unchanged.
    pub(super) fn read(self, stored: String) -> String {
        if self == TextForm::Plain {
            return stored;
        }
        let mut text = String::with_capacity(stored.len());
        let mut rest = stored.as_str();
        while let Some(position) = rest.find("\\u{") {
            let (before, escape) = rest.split_at(position);
            text += before;
            match unescape(escape) {
                Some((c, after)) => {
                    text.push(c);
                    rest = after;
                }
                None => {
                    text.push('\\');
                    rest = &escape[1..];
                }
            }
        }
        text + rest
    }
}

/// Splits an escape into its character and the text after it.
fn unescape(escape: &str) -> Option<(char, &str)> {
    let (digits, after) = escape.strip_prefix("\\u{")?.split_once('}')?;
    let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
    Some((c, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_is_stored_in_ascii_where_the_database_lacks_unicode() {
        let text = "Fixed: 🎉 für C:\\u{41}\0";
        assert_eq!(TextForm::Plain.store(text), "Fixed: 🎉 für C:\\u{41}");
        let stored = TextForm::Escaped.store(text);
        assert_eq!(stored, "Fixed: \\u{1f389} f\\u{fc}r C:\\u{5c}u{41}");
        assert_eq!(TextForm::Escaped.read(stored), "Fixed: 🎉 für C:\\u{41}");
        // As older servers stored it, in LATIN1.
        for old in [
            "für",
            "C:\\user",
            "\\u{",
            "\\u{}",
            "\\u{110000}",
            "\\u{zz} x",
        ] {
            assert_eq!(TextForm::Escaped.read(old.into()), old);
        }
    }

    proptest! {
        #[test]
        fn every_text_comes_back_as_it_was(text in "[^\0]{0,40}") {
            for form in [TextForm::Plain, TextForm::Escaped] {
                let stored = form.store(&text);
                prop_assert!(form == TextForm::Plain || stored.is_ascii());
                prop_assert_eq!(form.read(stored), text.clone());
            }
        }
    }
}
