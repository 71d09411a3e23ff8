//! Texts: the configuration, GitHub's releases, base64, and the headers of a signed request.
//! Nothing may panic, and parsed values must be within their bounds.

use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine;
use session_file_server::config::Config;
use session_file_server::db::Settings;
use session_file_server::protocol::http::{BASE64, Headers, Method, Request};
use session_file_server::protocol::releases::Version;
use session_file_server::protocol::{auth, releases};
use session_file_server::upkeep::github_list;

/// Panics if the target does what it must not do with `input`.
pub fn check(input: &[u8]) {
    let (Some(kind), Some(rest)) = (input.first(), input.get(1..)) else {
        return;
    };
    match kind % 5 {
        0 => config(rest),
        1 => {
            if let Ok(listed) = github_list::parse(rest) {
                let count = listed.releases.len();
                let (newest, skipped) = releases::newest(listed.releases);
                assert!(newest.len() <= 3 && newest.len() + skipped.len() <= count);
            }
        }
        2 => {
            if let Ok(bytes) = BASE64.decode(rest) {
                assert!(bytes.len() <= rest.len());
            }
        }
        3 => signed(rest),
        _ => {
            let text = String::from_utf8_lossy(rest);
            if Version::parse(&text).is_some() {
                assert!(text.len() <= "v999.999.999-alpha.999999999".len());
            }
            // Its error must not repeat a password.
            let url = format!("postgresql://user:hunter2@{text}");
            if let Err(error) = Settings::parse(&url) {
                assert!(!error.contains("hunter2"));
            }
        }
    }
}

fn config(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    match Config::parse(text, Path::new("/etc/x/config.toml")) {
        Ok(config) => {
            assert!((1..=256).contains(&config.workers));
            assert!(config.files.max_size <= 256 * 1024 * 1024);
            assert!(config.files.numeric_id_prefix.len() <= 20);
        }
        Err(mistakes) => {
            let lines = text.matches('\n').count() + 1;
            assert!(!mistakes.is_empty());
            assert!(
                mistakes
                    .iter()
                    .all(|mistake| (1..=lines).contains(&mistake.line))
            );
        }
    }
}

fn signed(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let mut parts = text.splitn(3, '\n').map(str::to_string);
    let names = ["X-FS-Pubkey", "X-FS-Timestamp", "X-FS-Signature"];
    let headers: Headers = names
        .into_iter()
        .filter_map(|name| Some((name.to_string(), parts.next()?)))
        .collect();
    let request = Request {
        method: Method::Get,
        target: "/session_version?platform=ios",
        headers: &headers,
        body: b"",
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    if let Err(rejection) = auth::signer(&request, now) {
        assert!(matches!(rejection.status, 400 | 401 | 425));
    }
}
