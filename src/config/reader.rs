//! The settings of a configuration file with their lines, and the mistakes in it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

/// One mistake in a configuration file. Its text starts with the line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The line, counted from 1.
    pub line: usize,
    /// The key, for example `files.max_size`. Empty if the file isn't TOML.
    pub key: String,
    /// The description: what is wrong and what would be right.
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

/// The reader of a configuration file. Its caller takes each known key once; what is left then is
/// unknown.
pub(super) struct TomlReader {
    /// The settings that are not taken yet.
    settings: Vec<Setting>,
    /// The keys that were taken, whether or not the file has them.
    known: Vec<&'static str>,
    mistakes: Vec<Mistake>,
}

/// A setting in the file.
struct Setting {
    /// The key with its table, for example `files.max_size`.
    key: String,
    line: usize,
    value: Node,
}

impl TomlReader {
    /// Parses the text of a file.
    ///
    /// # Errors
    /// The one mistake of a text that isn't TOML.
    pub(super) fn parse(text: &str) -> Result<TomlReader, Vec<Mistake>> {
        let line_of = |offset: usize| text[..offset].matches('\n').count() + 1;
        let root: Node = toml::from_str(text).map_err(|error| {
            vec![Mistake {
                line: error.span().map_or(1, |span| line_of(span.start)),
                key: String::new(),
                message: format!("not TOML: {}", error.message()),
            }]
        })?;
        let mut settings = Vec::new();
        root.flatten("", &line_of, &mut settings);
        Ok(TomlReader {
            settings,
            known: Vec::new(),
            mistakes: Vec::new(),
        })
    }

    /// Takes the value of `key`, as `check` converts it. Returns `default` if the key is absent,
    /// or if `check` finds a mistake, which is noted.
    pub(super) fn take<T>(
        &mut self,
        key: &'static str,
        default: T,
        check: impl FnOnce(&Node) -> Result<T, String>,
    ) -> T {
        self.known.push(key);
        let is_wanted = |setting: &Setting| setting.key == key;
        let Some(index) = self.settings.iter().position(is_wanted) else {
            return default;
        };
        let Setting { line, value, .. } = self.settings.swap_remove(index);
        check(&value).unwrap_or_else(|message| {
            self.mistakes.push(Mistake {
                line,
                key: key.into(),
                message,
            });
            default
        })
    }

    /// Ends reading. Settings that were not taken are unknown.
    ///
    /// # Errors
    /// All mistakes, ordered by line.
    pub(super) fn finish(mut self) -> Result<(), Vec<Mistake>> {
        for Setting { key, line, .. } in &self.settings {
            let message = match self.similar_key(key) {
                Some(meant) => format!("unknown key; did you mean {meant}?"),
                None => format!("unknown key; known here are {}", self.keys_of_table(key)),
            };
            self.mistakes.push(Mistake {
                line: *line,
                key: key.clone(),
                message,
            });
        }
        self.mistakes.sort();
        if self.mistakes.is_empty() {
            Ok(())
        } else {
            Err(self.mistakes)
        }
    }

    /// The known key with the same last word, in any case and with or without `_` and `-`.
    fn similar_key(&self, key: &str) -> Option<&'static str> {
        let spelling = |key: &str| {
            let last = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase();
            last.replace(['_', '-'], "")
        };
        self.known
            .iter()
            .copied()
            .find(|known| spelling(known) == spelling(key))
    }

    /// The known keys of the table of `key`; those of all tables if that table is unknown.
    fn keys_of_table(&self, key: &str) -> String {
        let is_in_table = |known: &&&str| table_of(known) == table_of(key);
        let keys: Vec<&str> = self.known.iter().filter(is_in_table).copied().collect();
        if keys.is_empty() {
            self.known.join(", ")
        } else {
            keys.join(", ")
        }
    }
}

/// The table in a key; empty for the keys outside of all tables.
fn table_of(key: &str) -> &str {
    key.rsplit_once('.').map_or("", |(table, _)| table)
}

/// A value in a TOML file. Only types that a setting may have keep their value.
pub(super) enum Node {
    Table(Vec<(Spanned<String>, Node)>),
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Node>),
    /// A value of another type, whose name is for messages.
    Other(&'static str),
}

impl Node {
    /// Adds the settings of a table and of those in it to `settings`.
    fn flatten(self, prefix: &str, line_of: &dyn Fn(usize) -> usize, settings: &mut Vec<Setting>) {
        let Node::Table(entries) = self else { return };
        for (name, value) in entries {
            let line = line_of(name.span().start);
            let key = format!("{prefix}{}", name.get_ref());
            match value {
                Node::Table(_) => value.flatten(&format!("{key}."), line_of, settings),
                value => settings.push(Setting { key, line, value }),
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
            Node::List(_) => f.write_str("a list"),
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
        let mut nodes = Vec::new();
        while let Some(node) = items.next_element()? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<Spanned<String>>()? {
            entries.push((name, map.next_value()?));
        }
        Ok(Node::Table(entries))
    }
}
