//! The client of GitHub's API. Every answer is bounded in time and size.

use std::fmt;
use std::io::Read;
use std::time::{Duration, Instant, SystemTime};

use ureq::http::HeaderMap;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;

use crate::config;
use crate::upkeep::github_list::{self, Listed};
use crate::upkeep::proxy::{self, ProxyChoice, ProxyOnly};

/// The longest time for a request, from the DNS lookup to the last byte. Once it has passed, the
/// HTTP client limits each read only, so that a slow trickle would go on. Therefore the body is
/// read with a deadline of its own, and the caller abandons a request whose head trickles.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest accepted answer, bytes.
const MAX_ANSWER: u64 = 4 * 1024 * 1024;
/// The number of releases that are requested. Each has some 40 KB with its assets, so that the
/// answer stays well below [`MAX_ANSWER`], and they include the newest of each channel.
const RELEASES: usize = 40;
/// The most redirects that are followed. A renamed project takes one.
const MAX_REDIRECTS: u32 = 3;

/// A client of GitHub's API, or of a server that speaks it.
pub struct GitHub {
    agent: ureq::Agent,
    api: String,
    authorization: Option<String>,
}

/// A successful answer of GitHub.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// 304: the releases haven't changed.
    Unchanged,
    /// The newest releases.
    Releases {
        /// The value of `ETag`, for the next request.
        etag: Option<String>,
        /// The parsed list.
        listed: Listed,
    },
}

/// The reason why a request failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason, for the operator's log.
    pub reason: String,
    /// How long GitHub asks to wait before the next request.
    pub retry_after: Option<Duration>,
}

impl GitHub {
    /// A client that uses the proxy from the environment, if there is one.
    ///
    /// # Errors
    /// A sentence for the operator if that proxy can't be used.
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

    /// Requests the newest releases of `project` (`owner/name`). `etag` is from the last answer,
    /// and lets GitHub answer [`Answer::Unchanged`].
    ///
    /// # Errors
    /// Every failure, including answers with an error status.
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

/// An HTTP client with that choice of a proxy.
fn agent(choice: ProxyChoice) -> ureq::Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .build();
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(match choice {
            // A redirect may lead to a host that must be reached through the proxy.
            ProxyChoice::Bypassed => 0,
            ProxyChoice::NoProxy | ProxyChoice::Use(_) => MAX_REDIRECTS,
        })
        .max_idle_connections(0)
        .user_agent(concat!("session-file-server/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls);
    // The proxy is always set, because otherwise ureq takes one from the environment by itself.
    match choice {
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

/// Reads the whole body; fails if it doesn't end before the deadline.
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
    /// The failure of a request without a complete answer within [`TIMEOUT`].
    pub fn too_slow() -> Failure {
        Failure::new(format!("no whole answer within {} s", TIMEOUT.as_secs()))
    }

    /// The failure of a request whose thread panicked, which is a bug.
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

/// The time to wait before the next request: `Retry-After`, in seconds or as a date (RFC 9110,
/// 10.2.3); otherwise, if the status is 403 or 429, `X-RateLimit-Reset`, a Unix time.
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
