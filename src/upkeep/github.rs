//! GitHub's releases as data. No database; every answer bounded in time and size.

use std::fmt;
use std::io::Read;
use std::time::{Duration, Instant, SystemTime};

use ureq::http::HeaderMap;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;

use crate::config;
use crate::upkeep::github_list::{self, Listed};
use crate::upkeep::proxy::{self, ProxyChoice, ProxyOnly};

/// The longest that asking may take, from looking up the name to the last byte. What the
/// HTTP client makes of it is a limit per read once it has passed, so that a trickle would
/// go on: the body is read with a deadline of its own, and the caller gives up on a head
/// that trickles.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is read, bytes.
const MAX_ANSWER: u64 = 4 * 1024 * 1024;
/// Releases that are asked for. One with all its assets has some 40 KB, so that they stay
/// well below the largest answer; and each channel has one among them.
const RELEASES: usize = 40;
/// A renamed project redirects once.
const MAX_REDIRECTS: u32 = 3;

/// Asks for the releases of projects.
pub struct GitHub {
    agent: ureq::Agent,
    api: String,
    authorization: Option<String>,
}

/// What GitHub said.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// 304: what is known is current.
    Unchanged,
    /// The releases.
    Releases {
        /// What to send with the next question.
        etag: Option<String>,
        /// As many as were asked for, or all.
        listed: Listed,
    },
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// For the operator's log.
    pub reason: String,
    /// How long GitHub wants to be left alone.
    pub retry_after: Option<Duration>,
}

impl GitHub {
    /// The proxy that the environment names is honoured.
    ///
    /// # Errors
    /// A sentence for the operator: that proxy can't be used.
    pub fn new(settings: &config::Versions) -> Result<GitHub, String> {
        let authorization = settings.github_token.as_ref();
        Ok(GitHub {
            agent: agent(proxy::choose(&settings.github_api, |name| {
                std::env::var_os(name)
            })?),
            api: settings.github_api.clone(),
            authorization: authorization.map(|token| format!("Bearer {}", token.0)),
        })
    }

    /// Asks for the newest releases of `project` (`owner/name`), unless they are still
    /// those that `etag` stands for.
    ///
    /// # Errors
    /// Whatever went wrong; GitHub may say when to ask again.
    pub fn releases(&self, project: &str, etag: Option<&str>) -> Result<Answer, Failure> {
        let url = format!("{}/repos/{project}/releases?per_page={RELEASES}", self.api);
        let mut request = self
            .agent
            .get(&url)
            .header("Accept", "application/vnd.github+json");
        if let Some(etag) = etag {
            request = request.header("If-None-Match", etag);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let deadline = Instant::now() + TIMEOUT;
        let mut answer = request.call().map_err(Failure::new)?;
        match answer.status().as_u16() {
            304 if etag.is_some() => Ok(Answer::Unchanged),
            200 => {
                let etag = text_of(answer.headers(), "etag");
                let body = answer.body_mut().with_config();
                let body = read(body.limit(MAX_ANSWER).reader(), deadline)?;
                let listed = github_list::parse(&body).map_err(Failure::new)?;
                Ok(Answer::Releases { etag, listed })
            }
            status => Err(Failure {
                reason: format!("it answered {status}"),
                retry_after: retry_after(status, answer.headers(), SystemTime::now()),
            }),
        }
    }
}

/// A client that goes that way.
fn agent(way: ProxyChoice) -> ureq::Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .build();
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(match way {
            // Another host may be one that only the proxy is to see.
            ProxyChoice::Bypassed => 0,
            ProxyChoice::NoProxy | ProxyChoice::Use(_) => MAX_REDIRECTS,
        })
        .max_idle_connections(0)
        .user_agent(concat!("session-file-server/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls);
    // Set in any case: without that the client takes one from the environment by itself.
    match way {
        ProxyChoice::NoProxy | ProxyChoice::Bypassed => config.proxy(None).build().into(),
        ProxyChoice::Use(proxy) => {
            let resolver = ProxyOnly {
                proxy: proxy.uri().clone(),
                resolver: Default::default(),
            };
            let config = config.proxy(Some(proxy)).build();
            ureq::Agent::with_parts(config, DefaultConnector::default(), resolver)
        }
    }
}

/// All that comes before the deadline, which must be everything.
fn read(mut body: impl Read, deadline: Instant) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        if Instant::now() >= deadline {
            return Err(Failure::too_slow());
        }
        match body.read(&mut buffer).map_err(Failure::new)? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

impl Failure {
    /// GitHub didn't answer, or not to the end, within [`TIMEOUT`].
    pub fn too_slow() -> Failure {
        Failure::new(format!("no whole answer within {} s", TIMEOUT.as_secs()))
    }

    /// A bug of ours.
    pub fn panicked() -> Failure {
        Failure::new("asking panicked")
    }

    fn new(reason: impl fmt::Display) -> Failure {
        Failure {
            reason: reason.to_string(),
            retry_after: None,
        }
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3); else, for an answer that says
/// that a limit is reached, `X-RateLimit-Reset` as Unix time.
fn retry_after(status: u16, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let until = |time: SystemTime| time.duration_since(now).unwrap_or_default();
    if let Some(value) = text_of(headers, "retry-after") {
        let date = httpdate::parse_http_date(&value).ok().map(until);
        return value.parse().ok().map(Duration::from_secs).or(date);
    }
    if !matches!(status, 403 | 429) {
        return None;
    }
    let reset = Duration::from_secs(text_of(headers, "x-ratelimit-reset")?.parse().ok()?);
    SystemTime::UNIX_EPOCH.checked_add(reset).map(until)
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_wait_is_the_answers_own() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let wait = |status, fields: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.insert(*name, value.parse().expect("a value"));
            }
            retry_after(status, &headers, now).map(|time| time.as_secs())
        };
        assert_eq!(wait(429, &[("retry-after", "120")]), Some(120));
        assert_eq!(
            wait(503, &[("retry-after", "Sun, 09 Sep 2001 01:47:40 GMT")]),
            Some(60)
        );
        assert_eq!(wait(403, &[("x-ratelimit-reset", "1000000300")]), Some(300));
        assert_eq!(wait(403, &[("x-ratelimit-reset", "999999999")]), Some(0));
        assert_eq!(
            wait(403, &[("x-ratelimit-reset", "18446744073709551615")]),
            None
        );
        assert_eq!(wait(500, &[("x-ratelimit-reset", "1000000300")]), None);
        assert_eq!(wait(429, &[("retry-after", "soon")]), None);
        assert_eq!(wait(429, &[]), None);
    }
}
