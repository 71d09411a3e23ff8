//! The table `metrics` of the configuration.

use std::path::Path;

use super::Listen;
use super::reader::{Node, TomlReader};
use super::values::address;

/// The examples of `metrics.listen` in messages. Neither PostgreSQL nor another program of Debian's
/// has this port by default.
const EXAMPLE: &str = r#""127.0.0.1:9119" or "unix:/run/session-file-server-metrics/http.sock""#;

/// The table `metrics` of the configuration.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `metrics.listen`: the address on which Prometheus gets the metrics; `None` if nobody does.
    pub listen: Option<Listen>,
}

impl Metrics {
    /// Takes the table. `public` are the addresses for clients, from which `metrics.listen` must
    /// differ.
    pub(super) fn take(keys: &mut TomlReader, folder: &Path, public: &[Listen]) -> Metrics {
        Metrics {
            listen: keys.take("metrics.listen", None, |value| {
                own_address(value, folder, public)
            }),
        }
    }
}

/// Reads an address that is none of the public ones. `None` for an empty text.
fn own_address(value: &Node, folder: &Path, public: &[Listen]) -> Result<Option<Listen>, String> {
    if matches!(value, Node::Text(text) if text.is_empty()) {
        return Ok(None);
    }
    let own = address(value, folder, EXAMPLE)?;
    if public.iter().any(|public| is_same(&own, public)) {
        return Err(format!(
            "{value} is where clients connect, by listen; write another port or path, for example \
             {EXAMPLE}"
        ));
    }
    Ok(Some(own))
}

/// Whether two addresses are the same socket, or might be, because two hosts with the same port may
/// be names of the same one. Port 0 stands for any free port, so that it is never the same.
fn is_same(one: &Listen, other: &Listen) -> bool {
    let port = |address: &str| {
        let (_, port) = address.rsplit_once(':')?;
        port.parse::<u16>().ok()
    };
    match (one, other) {
        (Listen::Tcp(one), Listen::Tcp(other)) => port(one) == port(other) && port(one) != Some(0),
        (Listen::Unix(one), Listen::Unix(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parsed(public: &str, own: &str) -> Result<Option<Listen>, String> {
        let text = format!("listen = ['unix:/other', '{public}']\nmetrics.listen = '{own}'");
        let config = Config::parse(&text, Path::new("/etc/x/config.toml"));
        config
            .map(|config| config.metrics.listen)
            .map_err(|mistakes| mistakes[0].to_string())
    }

    #[test]
    fn metrics_have_an_address_of_their_own_or_none() {
        let tcp = |address: &str| Ok(Some(Listen::Tcp(address.into())));
        assert_eq!(parsed("[::]:8000", "[::1]:9119"), tcp("[::1]:9119"));
        assert_eq!(parsed("127.0.0.1:0", "127.0.0.1:0"), tcp("127.0.0.1:0"));
        assert_eq!(parsed("unix:/x", "127.0.0.1:1"), tcp("127.0.0.1:1"));
        let unix = parsed("unix:a", "unix:b");
        assert_eq!(unix, Ok(Some(Listen::Unix("/etc/x/b".into()))));
        assert_eq!(parsed("[::]:8000", ""), Ok(None));
    }

    #[test]
    fn the_public_address_is_refused_whatever_its_host_is_called() {
        for (public, own) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            ("[::]:8000", "localhost:08000"),
            ("unix:/etc/x/a", "unix:a"),
        ] {
            let mistake = parsed(public, own).expect_err("the same");
            assert!(
                mistake.starts_with("2: metrics.listen: ")
                    && mistake.contains("is where clients connect"),
                "{mistake}"
            );
        }
        let mistake = parsed("[::]:8000", "9119").expect_err("no port");
        assert!(mistake.contains("127.0.0.1:9119"), "{mistake}");
    }
}
