//! The parameters of libpq in `database.url` that the driver doesn't support. They are taken out of
//! the text before the driver parses the rest.

use std::borrow::Cow;

/// The parameters that were taken out of a text, and the rest of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// The text without our parameters.
    pub rest: String,
    /// Our parameters, in the order of the text.
    pub taken: Vec<(&'static str, String)>,
}

/// Takes the parameters with these `names` out of key=value pairs or of a URL's query. Other text
/// is left unchanged, so that the driver reports the mistake.
pub fn take(text: &str, names: &[&'static str]) -> Parameters {
    if text.starts_with("postgresql://") || text.starts_with("postgres://") {
        take_of_url(text, names)
    } else {
        take_of_pairs(text, names)
    }
}

fn take_of_url(text: &str, names: &[&'static str]) -> Parameters {
    let Some((start, query)) = text.split_once('?') else {
        return Parameters {
            rest: text.into(),
            taken: Vec::new(),
        };
    };
    let mut taken = Vec::new();
    let mut left = Vec::new();
    for parameter in query.split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match names.iter().find(|known| **known == name) {
            Some(name) => taken.push((*name, percent_decoded(value).into_owned())),
            None => left.push(parameter),
        }
    }
    let rest = match left.join("&") {
        left if left.is_empty() => start.into(),
        left => format!("{start}?{left}"),
    };
    Parameters { rest, taken }
}

/// Decodes a value in a URL. A plus sign isn't decoded to a space, as with libpq. Invalid UTF-8 is
/// replaced.
fn percent_decoded(value: &str) -> Cow<'_, str> {
    let value = value.replace('+', "%2B");
    let decoded = form_urlencoded::parse(value.as_bytes()).next();
    decoded.map_or(Cow::Borrowed(""), |(name, _)| Cow::Owned(name.into_owned()))
}

fn take_of_pairs(text: &str, names: &[&'static str]) -> Parameters {
    let mut parameters = Parameters::default();
    let mut left = text;
    while let Some((pair, rest)) = next_pair(left) {
        match names.iter().find(|known| **known == pair.name) {
            Some(name) => parameters.taken.push((*name, pair.value)),
            None => parameters.rest += pair.written,
        }
        left = rest;
    }
    parameters.rest += left;
    parameters
}

/// A key=value pair.
struct Pair<'a> {
    name: &'a str,
    /// The value, without quotes and escapes.
    value: String,
    /// The text of the pair, with the space around it.
    written: &'a str,
}

/// Splits the first pair off the text; `None` if there is no valid one. A value may stand in single
/// quotes, and a backslash escapes the next character (libpq, "Keyword/Value Connection Strings").
fn next_pair(text: &str) -> Option<(Pair<'_>, &str)> {
    let (name, after) = text.split_once('=')?;
    let value_start = after.trim_start();
    let is_quoted = value_start.starts_with('\'');
    let mut value = String::new();
    let mut characters = value_start.char_indices();
    if is_quoted {
        characters.next();
    }
    let mut end = None;
    while let Some((place, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if is_quoted => {
                end = Some(place + 1);
                break;
            }
            space if !is_quoted && space.is_whitespace() => {
                end = Some(place);
                break;
            }
            other => value.push(other),
        }
    }
    // The driver refuses a quote that isn't closed.
    let end = if is_quoted {
        end?
    } else {
        end.unwrap_or(value_start.len())
    };
    let rest = &value_start[end..];
    let rest = rest.trim_start();
    Some((
        Pair {
            name: name.trim(),
            value,
            written: &text[..text.len() - rest.len()],
        },
        rest,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 2] = ["sslmode", "sslrootcert"];

    #[test]
    fn our_parameters_are_taken_out_of_pairs() {
        for (text, rest, taken) in [
            ("host=a dbname=b", "host=a dbname=b", &[][..]),
            ("sslmode=require", "", &[("sslmode", "require")]),
            (
                "host=a sslmode=require dbname=b",
                "host=a dbname=b",
                &[("sslmode", "require")],
            ),
            (
                "host=a sslrootcert = '/a b\\'c' port=1",
                "host=a port=1",
                &[("sslrootcert", "/a b'c")],
            ),
            (
                "password='sslmode=x' sslmode=a\\ b",
                "password='sslmode=x' ",
                &[("sslmode", "a b")],
            ),
            ("password='never closed", "password='never closed", &[]),
            ("sslmode='' host=a", "host=a", &[("sslmode", "")]),
            ("nonsense", "nonsense", &[]),
        ] {
            let found = take(text, &NAMES);
            assert_eq!(found.rest, rest, "{text}");
            let expected: Vec<_> = taken.iter().map(|(n, v)| (*n, v.to_string())).collect();
            assert_eq!(found.taken, expected, "{text}");
        }
    }

    #[test]
    fn our_parameters_are_taken_out_of_a_url() {
        for (text, rest, taken) in [
            ("postgresql://a/b", "postgresql://a/b", &[][..]),
            (
                "postgres://a/b?sslmode=require",
                "postgres://a/b",
                &[("sslmode", "require")],
            ),
            (
                "postgresql://a/b?port=1&sslrootcert=%2Fetc%2Fa+b%20c&user=x",
                "postgresql://a/b?port=1&user=x",
                &[("sslrootcert", "/etc/a+b c")],
            ),
            (
                "postgresql://u:p%3Fsslmode=x@a/b",
                "postgresql://u:p%3Fsslmode=x@a/b",
                &[],
            ),
            (
                "postgresql://a/b?sslmode",
                "postgresql://a/b",
                &[("sslmode", "")],
            ),
        ] {
            let found = take(text, &NAMES);
            assert_eq!(found.rest, rest, "{text}");
            let expected: Vec<_> = taken.iter().map(|(n, v)| (*n, v.to_string())).collect();
            assert_eq!(found.taken, expected, "{text}");
        }
    }
}
