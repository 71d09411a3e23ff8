//! The table `versions` of the configuration.

use std::fmt;
use std::time::Duration;

use super::reader::{Node, TomlReader};
use super::values::{boolean, interval, text};

/// The default of `versions.github_api`.
const DEFAULT_GITHUB_API: &str = "https://api.github.com";
/// The default of `versions.refresh_interval`. Three projects twice an hour are a tenth of the
/// requests that GitHub allows without a token.
const DEFAULT_REFRESH_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// The table `versions` of the configuration.
#[derive(Clone, Debug)]
pub struct Versions {
    /// `versions.enabled`: whether GitHub is asked at all.
    pub enabled: bool,
    /// `versions.github_api`: the URL of GitHub's API, without a slash at its end.
    pub github_api: String,
    /// `versions.github_token`: the token that requests to GitHub carry.
    pub github_token: Option<Token>,
    /// The table `versions.projects`.
    pub projects: Projects,
    /// `versions.refresh_interval`: how often GitHub is asked for each project.
    pub refresh_interval: Duration,
    /// `versions.record_checks`: whether signed version checks are recorded.
    pub record_checks: bool,
}

impl Versions {
    pub(super) fn take(keys: &mut TomlReader) -> Versions {
        Versions {
            enabled: keys.take("versions.enabled", true, boolean),
            github_api: keys.take("versions.github_api", DEFAULT_GITHUB_API.into(), api_url),
            github_token: keys.take("versions.github_token", None, token),
            projects: Projects::take(keys),
            refresh_interval: keys.take(
                "versions.refresh_interval",
                DEFAULT_REFRESH_INTERVAL,
                interval,
            ),
            record_checks: keys.take("versions.record_checks", false, boolean),
        }
    }
}

/// The table `versions.projects`: the project on GitHub, `owner/name`, whose releases are the
/// versions of a platform.
#[derive(Clone, Debug)]
pub struct Projects {
    /// `versions.projects.desktop`
    pub desktop: String,
    /// `versions.projects.android`
    pub android: String,
    /// `versions.projects.ios`
    pub ios: String,
}

impl Projects {
    fn take(keys: &mut TomlReader) -> Projects {
        let mut project = |key, default: &str| keys.take(key, default.to_string(), project_name);
        Projects {
            desktop: project(
                "versions.projects.desktop",
                "session-foundation/session-desktop",
            ),
            android: project(
                "versions.projects.android",
                "session-foundation/session-android",
            ),
            ios: project("versions.projects.ios", "session-foundation/session-ios"),
        }
    }

    /// The project of a platform.
    pub fn of(&self, platform: Platform) -> &str {
        match platform {
            Platform::Desktop => &self.desktop,
            Platform::Android => &self.android,
            Platform::Ios => &self.ios,
        }
    }

    /// The projects of all platforms, in the order of [`Platform::ALL`].
    pub fn all(&self) -> Vec<String> {
        let project = |platform| self.of(platform).to_string();
        Platform::ALL.into_iter().map(project).collect()
    }
}

/// A platform that Session runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Named `desktop`.
    Desktop,
    /// Named `android`.
    Android,
    /// Named `ios`.
    Ios,
}

impl Platform {
    /// All platforms.
    pub const ALL: [Platform; 3] = [Platform::Desktop, Platform::Android, Platform::Ios];

    /// Parses the name of a platform.
    pub fn parse(name: &str) -> Option<Platform> {
        Platform::ALL
            .into_iter()
            .find(|platform| platform.as_str() == name)
    }

    /// The platform's name, in requests and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Platform::Desktop => "desktop",
            Platform::Android => "android",
            Platform::Ios => "ios",
        }
    }
}

/// A secret that `Debug` doesn't show.
#[derive(Clone)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The name of a project on GitHub, `owner/name`.
fn project_name(value: &Node) -> Result<String, String> {
    let example = r#""session-foundation/session-desktop""#;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_name = |part: &str| !part.is_empty() && part.chars().all(allowed);
    match text(value, example)?.split_once('/') {
        Some((owner, name)) if is_name(owner) && is_name(name) => Ok(format!("{owner}/{name}")),
        _ => Err(format!(
            "{value} is not owner/name; write for example {example}"
        )),
    }
}

/// An http or https URL. Slashes at its end are removed.
fn api_url(value: &Node) -> Result<String, String> {
    let example = format!("{DEFAULT_GITHUB_API:?}");
    let url = text(value, &example)?.trim_end_matches('/');
    let host = url.strip_prefix("https://").or(url.strip_prefix("http://"));
    match host {
        Some(host) if !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic()) => {
            Ok(url.to_string())
        }
        _ => Err(format!("{value} is not a URL; write for example {example}")),
    }
}

/// A token for GitHub's API.
fn token(value: &Node) -> Result<Option<Token>, String> {
    match value {
        Node::Text(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => {
            Ok(Some(Token(text.clone())))
        }
        // The value isn't repeated, because it may be the secret with a typing error.
        _ => Err("not a GitHub token: a text in quotes, without spaces".into()),
    }
}
