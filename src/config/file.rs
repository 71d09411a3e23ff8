//! The keys of a configuration file with their lines, and its mistakes.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

/// One mistake in a configuration file. Its text starts with the line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Counted from 1.
    pub line: usize,
    /// As `files.max_size`; empty where the file isn't TOML at all.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.line, self.message),
            key => write!(f, "{}: {key}: {}", self.line, self.message),
        }
    }
}

/// What a configuration file holds, until every key has been taken.
pub(super) struct TomlReader {
    found: Vec<Setting>,
    known: Vec<&'static str>,
    mistakes: Vec<Mistake>,
}

struct Setting {
    key: String,
    line: usize,
    value: Node,
}

impl TomlReader {
    pub(super) fn parse(text: &str) -> Result<TomlReader, Vec<Mistake>> {
        let line_of = |offset: usize| text[..offset].matches('\n').count() + 1;
        let root: Node = toml::from_str(text).map_err(|error| {
            vec![Mistake {
                line: error.span().map_or(1, |span| line_of(span.start)),
                key: String::new(),
                message: format!("not TOML: {}", error.message()),
            }]
        })?;
        let mut found = Vec::new();
        root.flatten("", &line_of, &mut found);
        Ok(TomlReader {
            found,
            known: Vec::new(),
            mistakes: Vec::new(),
        })
    }

    /// The value of `key`, checked; the default where it is absent or a mistake.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        default: T,
        check: impl FnOnce(&Node) -> Result<T, String>,
    ) -> T {
        self.known.push(key);
        let Some(index) = self.found.iter().position(|found| found.key == key) else {
            return default;
        };
        let Setting { line, value, .. } = self.found.swap_remove(index);
        check(&value).unwrap_or_else(|message| {
            self.mistakes.push(Mistake {
                line,
                key: key.into(),
                message,
            });
            default
        })
    }

    /// What was not taken is unknown.
    pub(super) fn finish(mut self) -> Result<(), Vec<Mistake>> {
        for found in &self.found {
            let message = match self.meant(&found.key) {
                Some(meant) => format!("unknown key; did you mean {meant}?"),
                None => format!("unknown key; known here are {}", self.beside(&found.key)),
            };
            self.mistakes.push(Mistake {
                line: found.line,
                key: found.key.clone(),
                message,
            });
        }
        self.mistakes.sort();
        match self.mistakes.is_empty() {
            true => Ok(()),
            false => Err(self.mistakes),
        }
    }

    /// The known key with the same last word, however it is spelled.
    fn meant(&self, key: &str) -> Option<&'static str> {
        let spelling = |key: &str| {
            let last = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase();
            last.replace(['_', '-'], "")
        };
        self.known
            .iter()
            .copied()
            .find(|known| spelling(known) == spelling(key))
    }

    /// The known keys of the same table; of all if there is no such table.
    fn beside(&self, key: &str) -> String {
        let table = key.rsplit_once('.').map_or("", |(table, _)| table);
        let is_beside = |known: &&&str| known.rsplit_once('.').map_or("", |(t, _)| t) == table;
        let beside: Vec<&str> = self.known.iter().filter(is_beside).copied().collect();
        if beside.is_empty() {
            self.known.join(", ")
        } else {
            beside.join(", ")
        }
    }
}

/// A value of a TOML file, as far as a setting can be one.
pub(super) enum Node {
    Table(Vec<(Spanned<String>, Node)>),
    Text(String),
    Integer(i64),
    Boolean(bool),
    /// Named, because no setting is one.
    Other(&'static str),
}

impl Node {
    fn flatten(self, prefix: &str, line_of: &dyn Fn(usize) -> usize, found: &mut Vec<Setting>) {
        let Node::Table(entries) = self else { return };
        for (name, value) in entries {
            let line = line_of(name.span().start);
            let key = format!("{prefix}{}", name.get_ref());
            match value {
                Node::Table(_) => value.flatten(&format!("{key}."), line_of, found),
                value => found.push(Setting { key, line, value }),
            }
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Table(_) => f.write_str("a table"),
            Node::Text(text) => write!(f, "{text:?}"),
            Node::Integer(number) => write!(f, "{number}"),
            Node::Boolean(value) => write!(f, "{value}"),
            Node::Other(name) => f.write_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a TOML value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Integer(number))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Boolean(value))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other("a number with a fraction"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Node::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<Spanned<String>>()? {
            entries.push((name, map.next_value()?));
        }
        Ok(Node::Table(entries))
    }
}
