//! The parser of GitHub's list of releases. Each item is parsed separately, so that a malformed
//! one doesn't affect the others. Counts and lengths are bounded.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::protocol::releases::{Asset, Release};

/// The most items of a list that are parsed. Fewer releases are requested, and a release of
/// Session has 30 assets.
const MAX_ITEMS: usize = 500;
/// The longest tag, bytes. Versions are shorter.
const MAX_TAG: usize = 100;
/// The longest title of a release, name of an asset or URL of an asset, bytes.
const MAX_LINE: usize = 2000;
/// The longest description, bytes. GitHub's own limit is 125,000 characters.
const MAX_NOTES: usize = 500_000;
/// The most characters of a text that are shown in the log.
const MAX_SHOWN: usize = 40;

/// A parsed list of releases.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The releases, without drafts.
    pub releases: Vec<Release>,
    /// Descriptions of the malformed parts that were skipped, for the operator's log.
    pub malformed: Vec<String>,
}

/// Parses the body of an answer. NUL characters are removed, because PostgreSQL can't store them.
///
/// # Errors
/// The reason why it is no list of releases.
pub fn parse(body: &[u8]) -> Result<Listed, String> {
    // Bytes that are not UTF-8 must not affect texts other than their own.
    let text = String::from_utf8_lossy(body);
    let items: Items = serde_json::from_str(&text)
        .map_err(|error| format!("it answered no list of releases: {error}"))?;
    let mut listed = Listed::default();
    let mut is_readable = items.0.is_empty();
    for (index, item) in items.0.into_iter().enumerate() {
        match release(item, &mut listed.malformed) {
            Ok(release) => {
                is_readable = true;
                listed.releases.extend(release);
            }
            Err(error) => listed
                .malformed
                .push(format!("release {}: {error}", index + 1)),
        }
    }
    if is_readable {
        Ok(listed)
    } else {
        // Items that aren't readable have been noted as malformed, and there is one.
        Err(format!(
            "it answered no list of releases: {}",
            listed.malformed[0]
        ))
    }
}

/// Parses an item of the list; `None` for a draft.
fn release(item: &RawValue, malformed: &mut Vec<String>) -> Result<Option<Release>, String> {
    #[derive(serde::Deserialize)]
    struct ReleaseItem<'a> {
        tag_name: String,
        #[serde(default, borrow)]
        name: Option<&'a RawValue>,
        #[serde(default, borrow)]
        body: Option<&'a RawValue>,
        #[serde(default)]
        draft: bool,
        #[serde(default)]
        prerelease: bool,
        #[serde(default, borrow)]
        assets: Option<&'a RawValue>,
    }
    let item: ReleaseItem = serde_json::from_str(item.get()).map_err(|error| reason(&error))?;
    if item.draft {
        return Ok(None);
    }
    if item.tag_name.len() > MAX_TAG {
        return Err("its tag is too long".into());
    }
    let tag = shown(&item.tag_name);
    let mut note = |what: &str, reason: &str| {
        if malformed.len() < MAX_ITEMS {
            malformed.push(format!("{what} of {tag}: {reason}"));
        }
    };
    let mut text =
        |what, value: Option<&RawValue>, limit| match value.map(|value| text(value, limit)) {
            Some(Err(reason)) => {
                note(what, &reason);
                None
            }
            found => found.and_then(Result::ok).flatten(),
        };
    let name = text("the name", item.name, MAX_LINE);
    let notes = text("the body", item.body, MAX_NOTES);
    Ok(Some(Release {
        assets: item
            .assets
            .map_or_else(Vec::new, |list| assets(list, &mut note)),
        tag: clean(&item.tag_name),
        prerelease: item.prerelease,
        name,
        notes,
    }))
}

/// Parses a text; `None` if it is null or empty.
fn text(value: &RawValue, limit: usize) -> Result<Option<String>, String> {
    let text: Option<String> = serde_json::from_str(value.get()).map_err(|error| reason(&error))?;
    let text = text
        .map(|text| clean(&text))
        .filter(|text| !text.is_empty());
    match text {
        Some(text) if text.len() > limit => Err("it is too long".into()),
        text => Ok(text),
    }
}

/// Parses the assets of a release. Malformed ones are given to `note` and skipped.
fn assets(list: &RawValue, note: &mut impl FnMut(&str, &str)) -> Vec<Asset> {
    #[derive(serde::Deserialize)]
    struct AssetItem {
        name: String,
        url: String,
    }
    let items: Option<Items> = match serde_json::from_str(list.get()) {
        Ok(items) => items,
        Err(error) => {
            note("the list of assets", &reason(&error));
            return Vec::new();
        }
    };
    let mut assets = Vec::new();
    for item in items.map_or_else(Vec::new, |items| items.0) {
        match serde_json::from_str::<AssetItem>(item.get()) {
            Ok(AssetItem { name, url }) if name.len() <= MAX_LINE && url.len() <= MAX_LINE => {
                assets.push(Asset {
                    name: clean(&name),
                    url: clean(&url),
                });
            }
            Ok(_) => note("an asset", "it is too long"),
            Err(error) => note("an asset", &reason(&error)),
        }
    }
    assets
}

fn clean(text: &str) -> String {
    text.replace('\0', "")
}

/// A short text about an error, without its position in the item.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    let short: String = text.chars().take(3 * MAX_SHOWN).collect();
    short.escape_debug().to_string()
}

/// Shortens and escapes a text for a line of the log.
pub fn shown(text: &str) -> String {
    let short: String = text.chars().take(MAX_SHOWN).collect();
    short.escape_debug().to_string()
}

/// The unparsed items of a list, without those beyond [`MAX_ITEMS`].
struct Items<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Items<'a>, D::Error> {
        deserializer.deserialize_seq(ItemsVisitor).map(Items)
    }
}

struct ItemsVisitor;

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < MAX_ITEMS {
            match list.next_element()? {
                Some(item) => items.push(item),
                None => return Ok(items),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_and_unknown_fields_are_skipped_and_nul_removed() {
        let listed = parse(
            br#"[{"tag_name": "v1.0.0", "name": "One\u0000", "body": null, "draft": false,
                  "prerelease": true, "more": {"a": [1]},
                  "assets": [{"name": "a.deb", "url": "https://api/1", "size": 5}]},
                 {"tag_name": "v2.0.0", "draft": true}, {"tag_name": "v3.0.0", "name": ""}]"#,
        )
        .expect("releases");
        let releases = listed.releases;
        assert!(listed.malformed.is_empty(), "{:?}", listed.malformed);
        assert_eq!(releases.len(), 2);
        assert_eq!(releases[0].name.as_deref(), Some("One"));
        assert_eq!(releases[0].notes, None);
        assert!(releases[0].prerelease);
        assert_eq!(releases[0].assets[0].url, "https://api/1");
        assert_eq!(
            (releases[1].tag.as_str(), &releases[1].name),
            ("v3.0.0", &None)
        );
    }

    #[test]
    fn what_is_no_list_of_releases_is_a_failure() {
        for body in [
            "",
            "<html>",
            "{}",
            "null",
            "[1]",
            "[null, null]",
            r#"[{"name": "x"}]"#,
            r#"[{"tag_name": 5}]"#,
            "[{}",
            r#"[{"tag_name": "v1.0.0"}] more"#,
        ] {
            assert!(parse(body.as_bytes()).is_err(), "{body:?}");
        }
        assert!(parse("[".repeat(1 << 20).as_bytes()).is_err());
        assert_eq!(parse(b"[]"), Ok(Listed::default()));
    }

    #[test]
    fn a_malformed_item_is_skipped_and_costs_no_other() {
        let deep = format!(
            r#"{{"tag_name": {}1{}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let long = format!(r#"{{"tag_name": "{}"}}"#, "9".repeat(1_000_000));
        for item in [
            "null",
            "5",
            "[]",
            r#""v9.9.9""#,
            "{}",
            r#"{"tag_name": null}"#,
            r#"{"tag_name": 5}"#,
            r#"{"tag_name": 1e999}"#,
            r#"{"tag_name": ["v9.9.9"]}"#,
            r#"{"tag_name": "v9.9.9", "tag_name": "v9.9.8"}"#,
            r#"{"tag_name": "v9.9.9", "prerelease": "no"}"#,
            r#"{"tag_name": "v9.9.9", "draft": null}"#,
            r#"{"tag_name": "\ud800"}"#,
            r#"{"tag_name": "v9.9.9", "draft": 1e999}"#,
            &deep,
            &long,
        ] {
            let body = format!(r#"[{{"tag_name": "v2.0.0"}}, {item}, {{"tag_name": "v1.0.0"}}]"#);
            let listed = parse(body.as_bytes()).unwrap_or_else(|e| panic!("{e}: {:.99}", item));
            let tags: Vec<&str> = listed.releases.iter().map(|r| r.tag.as_str()).collect();
            assert_eq!(tags, ["v2.0.0", "v1.0.0"], "{item:.99}");
            assert_eq!(listed.malformed.len(), 1, "{item:.99}");
            let line = &listed.malformed[0];
            assert!(
                line.starts_with("release 2: ") && line.len() < 200,
                "{line}"
            );
            assert!(!line.contains('\n'), "{line}");
        }
    }

    /// Reads a list of two releases, of which the first has that part as well: how many
    /// things in it were malformed, and how many assets it has.
    fn read_with(part: &str) -> (usize, usize) {
        let body = format!(r#"[{{"tag_name": "v2.0.0", {part}}}, {{"tag_name": "v1.0.0"}}]"#);
        let listed = parse(body.as_bytes()).unwrap_or_else(|e| panic!("{e}: {part:.99}"));
        assert_eq!(listed.releases.len(), 2, "{part:.99}");
        assert!(listed.malformed.iter().all(|line| line.len() < 300));
        (listed.malformed.len(), listed.releases[0].assets.len())
    }

    #[test]
    fn a_malformed_text_is_skipped_and_its_release_kept() {
        let long = format!("{:?}", "x".repeat(600_000));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for value in [
            "5",
            r#"{"a": null}"#,
            "[]",
            r#""\udfff""#,
            "1e999",
            &long,
            &deep,
        ] {
            for part in ["name", "body", "assets"] {
                let (malformed, assets) = read_with(&format!(r#""{part}": {value}"#));
                let fine = part == "assets" && value == "[]";
                assert_eq!(
                    (malformed, assets),
                    (usize::from(!fine), 0),
                    "{part} {value:.99}"
                );
            }
            assert_eq!(
                read_with(&format!(r#""unknown": {value}"#)),
                (0, 0),
                "{value:.99}"
            );
        }
        // Bytes that are no UTF-8 harm the text in which they are.
        let listed = parse(b"[{\"tag_name\": \"v2.0.0\", \"name\": \"\xff\"}]").expect("a list");
        assert_eq!(listed.releases[0].name.as_deref(), Some("\u{fffd}"));
    }

    #[test]
    fn a_malformed_asset_is_skipped_and_costs_no_other() {
        let good = r#"{"name": "a", "url": "b"}"#;
        let long = format!(r#"{{"name": "a", "url": {:?}}}"#, "x".repeat(600_000));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for bad in [
            "null",
            "5",
            r#"{"name": "a"}"#,
            r#"{"name": "a", "url": 5}"#,
            &long,
            &deep,
        ] {
            let read = read_with(&format!(r#""assets": [{good}, {bad}, {good}]"#));
            assert_eq!(read, (1, 2), "{bad:.99}");
        }
        assert_eq!(read_with(r#""assets": null"#), (0, 0));
        let many = vec![good; 2000].join(",");
        assert_eq!(read_with(&format!(r#""assets": [{many}]"#)), (0, MAX_ITEMS));
    }

    #[test]
    fn a_list_without_end_is_cut() {
        let body = format!("[{}]", vec![r#"{"tag_name": "v1.0.0"}"#; 10_000].join(","));
        let listed = parse(body.as_bytes()).expect("a list");
        assert_eq!(listed.releases.len(), MAX_ITEMS);
    }
}
