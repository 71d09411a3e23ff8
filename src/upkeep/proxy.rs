//! The proxy for requests to GitHub. The environment names it, by curl's rules (`man curl`,
//! "Proxy environment variables"). A proxy that can't be used is an error, because a request
//! without it would reveal the address that it is to hide.

use std::ffi::OsString;
use std::net::IpAddr;

use ureq::http::Uri;
use ureq::unversioned::resolver::{ArrayVec, DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// The choice of a proxy for a URL.
#[derive(Clone, Debug, PartialEq)]
pub enum ProxyChoice {
    /// The environment names no proxy.
    NoProxy,
    /// The environment names a proxy, and `no_proxy` excludes the URL's host.
    Bypassed,
    /// Requests go through this proxy.
    Use(ureq::Proxy),
}

/// Chooses the proxy for `url`. `variable` returns the value of an environment variable.
///
/// # Errors
/// A sentence for the operator if the proxy can't be used. It doesn't repeat the proxy's URL,
/// which may hold a password.
pub fn choose(
    url: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<ProxyChoice, String> {
    let is_https = url.starts_with("https:");
    let set = |name: &&str| variable(name).is_some_and(|value| !value.is_empty());
    let Some(name) = names(is_https).iter().copied().find(&set) else {
        return Ok(ProxyChoice::NoProxy);
    };
    let uri: Uri = url.parse().map_err(|_| format!("{url} is not a URL"))?;
    let exceptions = ["no_proxy", "NO_PROXY"].into_iter().find(&set);
    if let Some(exceptions) = exceptions.and_then(&variable) {
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        if is_excepted(
            uri.host().unwrap_or(""),
            port,
            &exceptions.to_string_lossy(),
        ) {
            return Ok(ProxyChoice::Bypassed);
        }
    }
    let value = variable(name).unwrap_or_default();
    let proxy = value
        .to_str()
        .ok_or("it is not UTF-8".into())
        .and_then(usable);
    proxy.map(ProxyChoice::Use).map_err(|reason| {
        format!(
            "the proxy in the environment variable {name} can't be used: {reason}; set one as \
             http://HOST:PORT (Tor has one, see HTTPTunnelPort), or except GitHub in no_proxy"
        )
    })
}

/// The variables that name a proxy, of which the first that is set counts. curl uses `http_proxy`
/// for `http:` only. Here it is used for `https:` too, if no other is set, because an operator who
/// sets a proxy doesn't want direct requests.
fn names(is_https: bool) -> &'static [&'static str] {
    const NAMES: [&str; 6] = [
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
        "http_proxy",
        "HTTP_PROXY",
    ];
    const NAMES_FOR_HTTP: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
    if is_https { &NAMES } else { &NAMES_FOR_HTTP }
}

/// Parses the URL of a proxy. The error is the reason why the HTTP client can't use it.
fn usable(url: &str) -> Result<ureq::Proxy, String> {
    let url = url.trim();
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    match scheme.to_ascii_lowercase().as_str() {
        "http" => {}
        // ureq 3.0 would take the TLS connection to the proxy for one to GitHub, and show its
        // request, with the token, to the proxy (RustlsConnector).
        "https" => return Err("TLS to a proxy is not supported".into()),
        scheme if scheme.starts_with("socks") => return Err("SOCKS is not supported".into()),
        _ => return Err("it has an unknown scheme".into()),
    }
    let no_url = || "it is not a URL".to_string();
    let uri: Uri = format!("http://{rest}").parse().map_err(|_| no_url())?;
    let authority = uri.authority().ok_or_else(no_url)?;
    let host = authority.host();
    // The client would replace an invalid port by the default one.
    let after_host = authority.as_str().rsplit('@').next().unwrap_or("");
    let has_port = after_host.len() > host.len();
    if host.is_empty() || has_port && authority.port_u16().is_none_or(|port| port == 0) {
        return Err(no_url());
    }
    ureq::Proxy::new(&format!("http://{authority}")).map_err(|_| no_url())
}

/// Whether the list `exceptions` contains a host. Its entries are separated by commas or spaces:
/// `*`, names, which include all their subdomains, addresses, and networks. An entry with a port,
/// which curl doesn't support, holds for that port only.
fn is_excepted(host: &str, port: u16, exceptions: &str) -> bool {
    let unbracketed = |text: &str| text.trim_matches(['[', ']']).to_ascii_lowercase();
    let host = unbracketed(host);
    let host = host.trim_end_matches('.');
    let address: Option<IpAddr> = host.parse().ok();
    let has = |exception: &str| {
        let (name, is_port) = match exception.rsplit_once(':') {
            // Several colons outside of brackets belong to an IPv6 address.
            Some((name, digits)) if !name.contains(':') || name.ends_with(']') => {
                (name, digits.parse() == Ok(port))
            }
            _ => (exception, true),
        };
        let name = unbracketed(name);
        let name = name.strip_prefix("*.").unwrap_or(&name);
        let name = name.trim_matches('.');
        let below = || {
            host.strip_suffix(name)
                .is_some_and(|rest| rest.ends_with('.'))
        };
        is_port
            && match address {
                Some(address) => is_in_network(address, name),
                None => !name.is_empty() && (host == name || below()),
            }
    };
    let mut exceptions = exceptions
        .split([',', ' ', '\t'])
        .filter(|text| !text.is_empty());
    exceptions.any(|exception| exception == "*" || has(exception))
}

/// Whether an address equals `network`, or is in it if `network` is written as 10.0.0.0/8.
fn is_in_network(address: IpAddr, network: &str) -> bool {
    let (start, bits) = match network.split_once('/') {
        Some((start, bits)) => (start, bits.parse::<u32>().ok()),
        None => (network, Some(128)),
    };
    let (Ok(start), Some(bits)) = (start.parse::<IpAddr>(), bits) else {
        return false;
    };
    let same = |a: u128, b: u128, length: u32| {
        let host_bits = length.saturating_sub(bits);
        host_bits >= 128 || a >> host_bits == b >> host_bits
    };
    match (address, start) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

/// A resolver that looks up the proxy's name only. The proxy looks up all others; a lookup of
/// ours would reveal them to DNS servers.
#[derive(Debug)]
pub struct ProxyOnly {
    /// The proxy's URL.
    pub proxy: Uri,
    /// The resolver for the proxy's name.
    pub resolver: DefaultResolver,
}

impl Resolver for ProxyOnly {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        if uri.authority() == self.proxy.authority() {
            return self.resolver.resolve(uri, config, timeout);
        }
        // The client needs an address here, but doesn't use it.
        let nowhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
        let mut addresses = ArrayVec::from_fn(|_| nowhere);
        addresses.push(nowhere);
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const API: &str = "https://api.github.com";

    fn choose_with(url: &str, variables: &[(&str, &str)]) -> Result<ProxyChoice, String> {
        choose(url, |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| value.into())
        })
    }

    /// The proxy's host and port; empty for none.
    fn proxy(url: &str, variables: &[(&str, &str)]) -> String {
        match choose_with(url, variables).expect("usable") {
            ProxyChoice::Use(proxy) => format!("{}:{}", proxy.host(), proxy.port()),
            ProxyChoice::NoProxy | ProxyChoice::Bypassed => String::new(),
        }
    }

    #[test]
    fn the_proxy_is_the_one_that_curl_would_take_or_any_that_is_set() {
        for (url, variables, expected) in [
            (API, &[][..], ""),
            (API, &[("https_proxy", "")], ""),
            (
                API,
                &[("https_proxy", "http://a:1"), ("HTTPS_PROXY", "http://b:1")],
                "a:1",
            ),
            (
                API,
                &[("https_proxy", ""), ("HTTPS_PROXY", "http://b:1")],
                "b:1",
            ),
            (
                API,
                &[("all_proxy", "http://c:1"), ("HTTPS_PROXY", "http://b:1")],
                "b:1",
            ),
            (
                API,
                &[("ALL_PROXY", "http://c:1"), ("http_proxy", "http://d:1")],
                "c:1",
            ),
            (API, &[("http_proxy", "http://d:1")], "d:1"),
            (API, &[("http_proxy", "HTTP://d:1/path")], "d:1"),
            (API, &[("http_proxy", "d:1")], "d:1"),
            (API, &[("http_proxy", "d:1/")], "d:1"),
            (API, &[("http_proxy", "d")], "d:80"),
            (
                API,
                &[("http_proxy", "http://user:p@ss@[::1]:3128")],
                "[::1]:3128",
            ),
            ("http://x", &[("https_proxy", "http://a:1")], ""),
            (
                "http://x",
                &[("http_proxy", "http://d:1"), ("all_proxy", "http://c:1")],
                "d:1",
            ),
            ("http://x", &[("all_proxy", "http://c:1")], "c:1"),
        ] {
            assert_eq!(proxy(url, variables), expected, "{url} {variables:?}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_and_its_password_not_repeated() {
        for bad in [
            "socks5://u:secret@127.0.0.1:9050",
            "socks5h://u:secret@127.0.0.1:9050",
            "socks4://127.0.0.1",
            "SOCKS://127.0.0.1",
            "https://u:secret@127.0.0.1:3128",
            "ftp://u:secret@127.0.0.1",
            "://127.0.0.1",
            "http://",
            "http://:3128",
            "http://u:secret@",
            "http://host:99999",
            "http://host:0",
            "http://host:port",
            "http://ho st",
            "secret nonsense",
        ] {
            let refused = choose_with(API, &[("all_proxy", bad)]);
            let error = refused.expect_err(bad);
            assert!(
                error.contains("all_proxy") && !error.contains("secret"),
                "{bad}: {error}"
            );
            // What is excepted needs no proxy.
            let excepted = choose_with(API, &[("all_proxy", bad), ("no_proxy", "github.com")]);
            assert_eq!(excepted, Ok(ProxyChoice::Bypassed), "{bad}");
        }
    }

    #[test]
    fn exceptions_are_names_with_what_is_below_them_addresses_and_networks() {
        for (host, exceptions, expected) in [
            ("api.github.com", "", false),
            ("api.github.com", "*", true),
            ("api.github.com", "api.github.com", true),
            ("API.GitHub.com", "api.github.COM", true),
            ("api.github.com.", "api.github.com", true),
            ("api.github.com", "github.com", true),
            ("api.github.com", ".github.com", true),
            ("api.github.com", "*.github.com", true),
            ("api.github.com", "hub.com", false),
            ("api.github.com", "i.github.com", false),
            ("api.github.com", "api.github.com.example", false),
            ("api.github.com", "localhost, 127.0.0.1,github.com", true),
            ("api.github.com", "localhost github.com", true),
            ("api.github.com", "localhost,,", false),
            ("api.github.com", ".", false),
            ("api.github.com", "github.com:443", true),
            ("api.github.com", "github.com:80", false),
            ("10.1.2.3", "10.0.0.0/8", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.0/25", true),
            ("10.1.2.200", "10.1.2.0/25", false),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("11.1.2.3", "0.0.0.0/0", true),
            ("110.1.2.3", "10.1.2.3", false),
            ("10.1.2.3", "2.3", false),
            ("[2001:db8::1]", "2001:db8::/32", true),
            ("[2001:db8::1]", "[2001:db8::1]", true),
            ("[2001:db8::1]", "[2001:db8::1]:443", true),
            ("[2001:db8::1]", "2001:db8::2", false),
            ("[2001:db8::1]", "::/0", true),
            ("[2001:db8::1]", "10.0.0.0/nonsense", false),
        ] {
            assert_eq!(
                is_excepted(host, 443, exceptions),
                expected,
                "{host} {exceptions:?}"
            );
        }
    }
}
