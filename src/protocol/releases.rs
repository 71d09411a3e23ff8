//! Releases as data: the version in a tag, the channel of a release, and the highest release of
//! each channel.

use std::collections::BTreeMap;

/// A release channel that clients can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// Releases that GitHub doesn't mark as pre-releases.
    Stable,
    /// Releases that GitHub marks as pre-releases, and all of version `-beta.N`.
    Prerelease,
    /// Releases of version `-alpha.N`.
    Alpha,
}

impl Channel {
    /// All channels.
    pub const ALL: [Channel; 3] = [Channel::Stable, Channel::Prerelease, Channel::Alpha];

    /// Parses the name of a channel.
    pub fn parse(name: &str) -> Option<Channel> {
        Channel::ALL
            .into_iter()
            .find(|channel| channel.as_str() == name)
    }

    /// The channel's name, in requests and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Channel::Stable => "stable",
            Channel::Prerelease => "prerelease",
            Channel::Alpha => "alpha",
        }
    }

    fn of(version: &Version, prerelease: bool) -> Channel {
        match version.stage {
            Stage::Alpha(_) => Channel::Alpha,
            Stage::Beta(_) => Channel::Prerelease,
            Stage::Final if prerelease => Channel::Prerelease,
            Stage::Final => Channel::Stable,
        }
    }
}

/// A version, as the tag of a release names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    numbers: [u16; 3],
    stage: Stage,
}

/// The stage of a version, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Alpha(u32),
    Beta(u32),
    Final,
}

impl Version {
    /// Parses `v?MAJOR.MINOR.PATCH` with 1 to 3 digits each, and optionally `-alpha.N` or
    /// `-beta.N` with 1 to 9 digits.
    pub fn parse(tag: &str) -> Option<Version> {
        let text = without_v(tag);
        let (numbers, stage) = match text.split_once('-') {
            None => (text, Stage::Final),
            Some((numbers, stage)) => match stage.split_once('.')? {
                ("alpha", number) => (numbers, Stage::Alpha(digits(number, 9)?)),
                ("beta", number) => (numbers, Stage::Beta(digits(number, 9)?)),
                _ => return None,
            },
        };
        let mut parts = numbers.split('.').map(|number| digits(number, 3));
        let mut next = || u16::try_from(parts.next()??).ok();
        let numbers = [next()?, next()?, next()?];
        parts.next().is_none().then_some(Version { numbers, stage })
    }
}

/// A release on GitHub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The git tag.
    pub tag: String,
    /// Whether GitHub marks it as a pre-release.
    pub prerelease: bool,
    /// The release's title.
    pub name: Option<String>,
    /// The release's description.
    pub notes: Option<String>,
    /// The files of the release.
    pub assets: Vec<Asset>,
}

/// A file of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asset {
    /// The file's name.
    pub name: String,
    /// The file's `url` in GitHub's API.
    pub url: String,
}

/// The highest release of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewestRelease {
    /// The channel.
    pub channel: Channel,
    /// The version, without a `v`.
    pub version: String,
    /// The release's title.
    pub name: Option<String>,
    /// The release's description.
    pub notes: Option<String>,
    /// The files of the release.
    pub assets: Vec<Asset>,
}

/// Finds the highest release of each channel. Returns those releases, and the skipped tags,
/// which are no versions.
pub fn newest(releases: Vec<Release>) -> (Vec<NewestRelease>, Vec<String>) {
    let mut highest: BTreeMap<Channel, (Version, NewestRelease)> = BTreeMap::new();
    let mut skipped = Vec::new();
    for release in releases {
        let Some(version) = Version::parse(&release.tag) else {
            skipped.push(release.tag);
            continue;
        };
        let channel = Channel::of(&version, release.prerelease);
        let is_higher = |(highest, _): &(Version, _)| version > *highest;
        if highest.get(&channel).is_none_or(is_higher) {
            let newest = NewestRelease::of(channel, release);
            highest.insert(channel, (version, newest));
        }
    }
    let newest = highest.into_values().map(|(_, newest)| newest).collect();
    (newest, skipped)
}

impl NewestRelease {
    fn of(channel: Channel, release: Release) -> NewestRelease {
        NewestRelease {
            channel,
            version: without_v(&release.tag).to_string(),
            name: release.name,
            notes: release.notes,
            assets: release.assets,
        }
    }
}

fn without_v(tag: &str) -> &str {
    tag.strip_prefix('v').unwrap_or(tag)
}

/// Parses a number of 1 to `most` decimal digits.
fn digits(text: &str, most: usize) -> Option<u32> {
    let fits = (1..=most).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit());
    fits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn release(tag: &str, prerelease: bool) -> Release {
        Release {
            tag: tag.into(),
            prerelease,
            name: None,
            notes: None,
            assets: Vec::new(),
        }
    }

    #[test]
    fn tags_are_read_as_the_test_vectors_say() {
        let vectors = include_str!("../../tests/vectors/release-tags.json");
        let vectors: Vec<serde_json::Value> = serde_json::from_str(vectors).expect("JSON");
        assert!(!vectors.is_empty());
        for vector in vectors {
            let tag = vector["tag"].as_str().expect("a text");
            let (found, skipped) = newest(vec![release(tag, vector["prerelease"] == true)]);
            if vector["invalid"] == true {
                assert_eq!((found, skipped), (vec![], vec![tag.to_string()]));
            } else {
                assert_eq!(vector["version"], found[0].version);
                assert_eq!(vector["channel"], found[0].channel.as_str());
            }
        }
    }

    #[test]
    fn versions_are_ordered_by_number_then_by_stage() {
        let ordered = [
            "0.0.1",
            "0.0.2",
            "0.1.0",
            "1.0.0-alpha.2",
            "1.0.0-alpha.10",
            "1.0.0-beta.1",
            "1.0.0-beta.2",
            "1.0.0",
            "1.2.9",
            "1.2.10",
            "1.10.0",
            "2.0.0-alpha.1",
            "10.0.0",
        ];
        for pair in ordered.windows(2) {
            assert!(
                Version::parse(pair[0]) < Version::parse(pair[1]),
                "{pair:?}"
            );
        }
    }

    #[test]
    fn what_is_no_version_is_none() {
        for tag in [
            "v",
            "vv1.2.3",
            "1.2.3-",
            "1.2.3-alpha",
            "1.2.3-alpha.",
            "1.2.3-alpha.1.2",
            "1.2.3-alpha.-1",
            "1.2.3-alpha.1234567890",
            "1..3",
            "+1.2.3",
            "1.2.3 ",
            "١.٢.٣",
            "1.2.3-gamma.1",
            "V1.2.3",
            "1.2.0003",
        ] {
            assert_eq!(Version::parse(tag), None, "{tag:?}");
        }
    }

    #[test]
    fn each_channel_has_its_own_highest() {
        let (found, skipped) = newest(vec![
            release("v1.9.0", false),
            release("v1.10.0", false),
            release("nightly", false),
            release("v1.11.0", true),
            release("v1.11.1-beta.3", false),
            release("v1.12.0-alpha.1", true),
            release("v1.2.0-alpha.9", false),
        ]);
        let versions: Vec<(Channel, &str)> = found
            .iter()
            .map(|newest| (newest.channel, newest.version.as_str()))
            .collect();
        assert_eq!(
            versions,
            [
                (Channel::Stable, "1.10.0"),
                (Channel::Prerelease, "1.11.1-beta.3"),
                (Channel::Alpha, "1.12.0-alpha.1"),
            ]
        );
        assert_eq!(skipped, ["nightly"]);
    }

    proptest! {
        #[test]
        fn no_tag_makes_the_parser_panic(tag in ".{0,20}|v?[0-9.]{0,12}(-(alpha|beta)[.0-9]{0,12})?") {
            let _ = Version::parse(&tag);
        }
    }
}
