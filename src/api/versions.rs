//! `GET /session_version`: Session's current versions, which the timer thread reads from GitHub.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::context::{Context, database_error};
use crate::config::Platform;
use crate::db::KnownReleases;
use crate::protocol::auth::{self, BlindedId};
use crate::protocol::http::{Request, Response, unix_seconds};
use crate::protocol::releases::{Channel, NewestRelease};

/// The longest time since the last successful check of GitHub. Older versions aren't served,
/// because they may be outdated.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The highest version of a platform's channel. 404 for an unknown platform or channel, 502 if no
/// version is known.
pub fn session_version(request: &Request, context: &mut Context) -> Response {
    let signer = match auth::signer(request, SystemTime::now()) {
        Ok(signer) => signer,
        Err(rejection) => return Response::text(rejection.status, rejection.reason),
    };
    let channel = request.query("release_channel");
    let channel = channel
        .filter(|name| !name.is_empty())
        .unwrap_or(Channel::Stable.as_str().into());
    let platform = request
        .query("platform")
        .and_then(|name| Platform::parse(&name));
    let (Some(platform), Some(channel)) = (platform, Channel::parse(&channel)) else {
        return Response::error(404);
    };
    if let Some(signer) = signer {
        record_check(&signer, platform, channel, context);
    }
    let project = context.config.versions.projects.of(platform);
    match context.versions.known(project, context.db) {
        Ok(known) => version_response(&known, channel, SystemTime::now()),
        Err(error) => database_error(&error),
    }
}

fn record_check(signer: &BlindedId, platform: Platform, channel: Channel, context: &mut Context) {
    // The client doesn't wait for its turn to write.
    if !context.config.versions.record_checks || !(context.may_write)() {
        return;
    }
    let recorded = context
        .db
        .record_version_check(signer, platform.as_str(), channel);
    if let Err(error) = recorded {
        // The client is answered all the same.
        log::debug!("a version check was not recorded: {error}");
    }
}

fn version_response(known: &KnownReleases, channel: Channel, now: SystemTime) -> Response {
    let newest_of = |channel| known.newest.iter().find(|newest| newest.channel == channel);
    let (Some(checked), Some(newest)) = (known.checked, newest_of(channel)) else {
        return Response::error(502);
    };
    // A check in the future, by a database whose clock is ahead, counts as recent.
    if now.duration_since(checked).unwrap_or_default() > MAX_AGE {
        return Response::error(502);
    }
    let mut answer = json!({ "status_code": 200 });
    add_version(&mut answer, newest, checked);
    if !newest.assets.is_empty() {
        answer["assets"] = assets_json(newest);
    }
    if channel == Channel::Stable {
        if let Some(newest) = newest_of(Channel::Prerelease) {
            let mut prerelease = json!({});
            add_version(&mut prerelease, newest, checked);
            prerelease["assets"] = assets_json(newest);
            answer["prerelease"] = prerelease;
        }
    }
    Response::json(200, &answer)
}

fn add_version(answer: &mut Value, newest: &NewestRelease, checked: SystemTime) {
    answer["updated"] = json!(unix_seconds(checked));
    answer["result"] = json!(newest.version);
    for (field, text) in [("name", &newest.name), ("notes", &newest.notes)] {
        if let Some(text) = text {
            answer[field] = json!(text);
        }
    }
}

fn assets_json(newest: &NewestRelease) -> Value {
    let assets = newest.assets.iter();
    assets
        .map(|asset| json!({ "name": asset.name, "url": asset.url }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(age: u64) -> KnownReleases {
        KnownReleases {
            checked: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(1_000_000_000 - age)),
            newest: vec![NewestRelease {
                channel: Channel::Stable,
                version: "1.2.3".into(),
                name: None,
                notes: None,
                assets: Vec::new(),
            }],
        }
    }

    #[test]
    fn a_version_is_named_for_24_hours_after_its_last_check() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (age, status) in [(0, 200), (86_400, 200), (86_401, 502)] {
            assert_eq!(
                version_response(&known(age), Channel::Stable, now).status,
                status,
                "{age}"
            );
        }
        assert_eq!(version_response(&known(0), Channel::Alpha, now).status, 502);
        let never = KnownReleases {
            checked: None,
            ..known(0)
        };
        assert_eq!(version_response(&never, Channel::Stable, now).status, 502);
    }

    #[test]
    fn what_there_is_none_of_is_left_away() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let answer = version_response(&known(10), Channel::Stable, now);
        let expected: &[u8] = br#"{"status_code":200,"updated":999999990.0,"result":"1.2.3"}"#;
        assert_eq!(answer.body.as_slice(), expected);
    }
}
