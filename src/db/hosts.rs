//! The hosts of `database.url` and `database.read_url`, each as a configuration of its own.
//!
//! The driver tries several hosts by itself, but takes the first that lets it in, and can't be told
//! to go on to the next ([`lineage`](super::lineage) may refuse one).

use postgres::Config;
use postgres::config::{Host, LoadBalanceHosts};

/// The configurations for the single hosts, each with the host's name for the log. `None` if there
/// is one host, or if the driver shall choose among them at random.
pub(super) fn single(config: &Config) -> Option<Vec<(String, Config)>> {
    let hosts = config.get_hosts();
    let is_ours = hosts.len() > 1 && config.get_load_balance_hosts() != LoadBalanceHosts::Random;
    is_ours.then(|| each(config))
}

/// The configuration of each host alone, with the host's name for the log.
pub(super) fn each(config: &Config) -> Vec<(String, Config)> {
    let hosts = config.get_hosts();
    let (addresses, ports) = (config.get_hostaddrs(), config.get_ports());
    let of = |(index, host): (usize, &Host)| {
        let mut single = without_hosts(config);
        let name = match host {
            Host::Tcp(name) => {
                single.host(name);
                name.clone()
            }
            Host::Unix(folder) => {
                single.host_path(folder);
                folder.display().to_string()
            }
        };
        if let Some(address) = addresses.get(index) {
            single.hostaddr(*address);
        }
        match ports.get(index).or(ports.first()) {
            Some(port) => {
                single.port(*port);
                (format!("{name}, port {port}"), single)
            }
            None => (name, single),
        }
    };
    hosts.iter().enumerate().map(of).collect()
}

/// A copy of everything but the hosts, which can't be removed.
fn without_hosts(config: &Config) -> Config {
    let mut copy = Config::new();
    if let Some(user) = config.get_user() {
        copy.user(user);
    }
    if let Some(password) = config.get_password() {
        copy.password(password);
    }
    if let Some(name) = config.get_dbname() {
        copy.dbname(name);
    }
    if let Some(options) = config.get_options() {
        copy.options(options);
    }
    if let Some(name) = config.get_application_name() {
        copy.application_name(name);
    }
    if let Some(timeout) = config.get_connect_timeout() {
        copy.connect_timeout(*timeout);
    }
    if let Some(timeout) = config.get_tcp_user_timeout() {
        copy.tcp_user_timeout(*timeout);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        copy.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        copy.keepalives_retries(retries);
    }
    copy.keepalives(config.get_keepalives());
    copy.keepalives_idle(config.get_keepalives_idle());
    copy.ssl_mode(config.get_ssl_mode());
    copy.target_session_attrs(config.get_target_session_attrs());
    copy.channel_binding(config.get_channel_binding());
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(url: &str) -> Option<Vec<(String, Config)>> {
        single(&url.parse().expect("valid"))
    }

    #[test]
    fn each_host_has_everything_but_the_other_hosts() {
        let all = "user=u password=p dbname=d options=o application_name=a connect_timeout=1 \
                   tcp_user_timeout=2 keepalives=0 keepalives_idle=3 keepalives_interval=4 \
                   keepalives_retries=5 sslmode=require target_session_attrs=read-write \
                   channel_binding=require";
        let two = format!("{all} host=one,/two port=6,7 hostaddr=127.0.0.1,127.0.0.2");
        let split = split(&two).expect("two hosts");
        let expected = [
            (
                "one, port 6",
                format!("{all} host=one port=6 hostaddr=127.0.0.1"),
            ),
            (
                "/two, port 7",
                format!("{all} host=/two port=7 hostaddr=127.0.0.2"),
            ),
        ];
        for ((name, single), (expected_name, expected)) in split.iter().zip(expected) {
            let expected: Config = expected.parse().expect("valid");
            assert_eq!(name, expected_name);
            assert_eq!(format!("{single:?}"), format!("{expected:?}"));
        }
    }

    #[test]
    fn one_host_and_a_choice_at_random_are_the_driver_s() {
        assert!(split("host=one").is_none());
        assert!(split("host=one,two load_balance_hosts=random").is_none());
        let same_port = split("host=one,two port=6").expect("two hosts");
        assert_eq!(same_port[1].0, "two, port 6");
    }
}
