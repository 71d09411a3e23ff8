//! What a running server tells of itself at `metrics.listen`, as `status` shows it.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::health::ask;
use crate::config::Listen;
use crate::exposition::{Sample, parse};
use crate::output::one_line;
use crate::quantity;

/// The largest text of metrics that is read, bytes. A server's text has about 40,000.
const MAX_TEXT: u64 = 1024 * 1024;
/// The quantiles that are shown: for each of these parts of all requests, the time within which
/// that part was answered.
const QUANTILES: [f64; 2] = [0.5, 0.99];

/// What a running server has told.
pub struct Running {
    address: Listen,
    /// Its metrics, or why there are none.
    metrics: Result<Metrics, String>,
}

/// The samples of a running server.
struct Metrics(Vec<Sample>);

/// The requests to an endpoint.
struct Requests {
    endpoint: String,
    direct: u64,
    onion: u64,
    /// Those that were answered with 4xx, and with 5xx.
    errors: [u64; 2],
    /// For each of [`QUANTILES`] the time within which so many are answered, seconds.
    within: [Option<f64>; QUANTILES.len()],
}

impl Running {
    /// Asks the server whose metrics are at `address`.
    pub fn ask(address: &Listen) -> Running {
        let answer = ask(address, "/metrics", MAX_TEXT).map_err(|error| error.to_string());
        let metrics = answer.and_then(|answer| {
            let metrics = Metrics(parse(&String::from_utf8_lossy(&answer)));
            if metrics.text("build_info", "version").is_empty() {
                return Err("it is no Session File Server".into());
            }
            Ok(metrics)
        });
        Running {
            address: address.clone(),
            metrics,
        }
    }

    /// What it has told as text.
    pub fn describe(&self, now: SystemTime) -> String {
        match &self.metrics {
            Ok(metrics) => metrics.describe(now),
            Err(error) => {
                let error = one_line(error);
                format!("running      no answer from {}: {error}\n", self.address)
            }
        }
    }

    /// What it has told as JSON; `null` if it has told nothing. Times are Unix times in seconds.
    pub fn to_json(&self) -> Value {
        self.metrics.as_ref().map_or(Value::Null, Metrics::to_json)
    }
}

impl Metrics {
    fn describe(&self, now: SystemTime) -> String {
        let started = Duration::from_secs(self.one("process_start_time_seconds"));
        let mut text = format!(
            "running      version {}, {} of memory, since {}\n",
            one_line(&self.text("build_info", "version")),
            quantity::bytes(self.one("process_resident_memory_bytes")),
            quantity::moment(SystemTime::UNIX_EPOCH + started, now),
        );
        for requests in self.requests() {
            text += &requests.describe();
        }
        text += &format!(
            "workers      {} of {} busy, {} waiting of at most {}\n",
            self.one("workers_busy"),
            quantity::number(self.one("workers")),
            quantity::count(self.one("queue_length"), "request"),
            quantity::number(self.one("queue_limit")),
        );
        for (label, name, key) in [
            ("connections", "connections", "phase"),
            ("refused", "refusals_total", "cause"),
            ("closed", "connections_closed_total", "cause"),
        ] {
            text += &format!("{label:<12} {}\n", listed(&self.by(name, key)));
        }
        let outages = quantity::count(self.one("database_outages_total"), "outage");
        let is_up = self.one("database_up") == 1;
        let state = if is_up { "up" } else { "away" };
        text + &format!("reachable    the database is {state}, after {outages}\n")
    }

    fn to_json(&self) -> Value {
        let object = |pairs: Vec<(String, u64)>| -> Map<String, Value> {
            let pairs = pairs.into_iter();
            pairs.map(|(key, count)| (key, json!(count))).collect()
        };
        let requests = self.requests().into_iter().map(|requests| {
            json!({
                "endpoint": requests.endpoint,
                "direct": requests.direct,
                "onion": requests.onion,
                "status_4xx": requests.errors[0],
                "status_5xx": requests.errors[1],
                "p50_seconds": requests.within[0],
                "p99_seconds": requests.within[1],
            })
        });
        json!({
            "version": self.text("build_info", "version"),
            "started": self.one("process_start_time_seconds"),
            "restarts": self.one("restarts_total"),
            "memory": self.one("process_resident_memory_bytes"),
            "requests": requests.collect::<Vec<_>>(),
            "workers": self.one("workers"),
            "workers_busy": self.one("workers_busy"),
            "queue_length": self.one("queue_length"),
            "queue_limit": self.one("queue_limit"),
            "connections": object(self.by("connections", "phase")),
            "refusals": object(self.by("refusals_total", "cause")),
            "connections_closed": object(self.by("connections_closed_total", "cause")),
            "bytes_in_flight": object(self.by("bytes_in_flight", "direction")),
            "database_up": self.one("database_up") == 1,
            "database_outages": self.one("database_outages_total"),
        })
    }

    /// The endpoints that have had a request.
    fn requests(&self) -> Vec<Requests> {
        let all = self.0.iter().filter(|s| s.name == "requests_total");
        let endpoints: BTreeSet<&str> = all.map(|sample| sample.label("endpoint")).collect();
        let requests = endpoints
            .into_iter()
            .map(|endpoint| self.requests_of(endpoint));
        requests.filter(|r| r.direct + r.onion > 0).collect()
    }

    fn requests_of(&self, endpoint: &str) -> Requests {
        let of = |name| {
            let samples = self.0.iter().filter(move |sample| sample.name == name);
            samples.filter(|sample| sample.label("endpoint") == endpoint)
        };
        let sum = |label: &str, begins: &str| {
            let chosen = of("requests_total").filter(|s| s.label(label).starts_with(begins));
            chosen.map(|sample| sample.value as u64).sum()
        };
        let buckets: Vec<(f64, f64)> = of("request_duration_seconds_bucket")
            .filter_map(|sample| Some((sample.label("le").parse().ok()?, sample.value)))
            .collect();
        Requests {
            endpoint: endpoint.to_string(),
            direct: sum("way", "direct"),
            onion: sum("way", "onion"),
            errors: ["4", "5"].map(|first| sum("status", first)),
            within: QUANTILES.map(|part| quantile(part, &buckets)),
        }
    }

    /// The value of the first sample of that name; 0 if there is none.
    fn one(&self, name: &str) -> u64 {
        let sample = self.0.iter().find(|sample| sample.name == name);
        sample.map_or(0, |sample| sample.value as u64)
    }

    /// The value of a label of the first sample of that name.
    fn text(&self, name: &str, label: &str) -> String {
        let sample = self.0.iter().find(|sample| sample.name == name);
        sample.map_or_else(String::new, |sample| sample.label(label).to_string())
    }

    /// The values of a family, each with the value of its label.
    fn by(&self, name: &str, label: &str) -> Vec<(String, u64)> {
        let samples = self.0.iter().filter(|sample| sample.name == name);
        samples
            .map(|sample| (sample.label(label).to_string(), sample.value as u64))
            .collect()
    }
}

impl Requests {
    fn describe(&self) -> String {
        let mut text = format!(
            "requests     {}: {} direct, {} onion",
            one_line(&self.endpoint),
            quantity::number(self.direct),
            quantity::number(self.onion)
        );
        for (count, class) in self.errors.into_iter().zip(["4xx", "5xx"]) {
            if count > 0 {
                text += &format!(", {} with {class}", quantity::number(count));
            }
        }
        if let [Some(half), Some(most)] = self.within {
            text += &format!("; half within {}, 99 % within {}", time(half), time(most));
        }
        text + "\n"
    }
}

/// The counts that are not 0 as text, the largest first.
fn listed(counts: &[(String, u64)]) -> String {
    let mut counts: Vec<_> = counts.iter().filter(|(_, count)| *count > 0).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let shown = counts.into_iter().map(|(name, count)| {
        let name = one_line(name).replace('_', " ");
        format!("{} {name}", quantity::number(*count))
    });
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() {
        "none".into()
    } else {
        shown.join(", ")
    }
}

/// The time within which a part of all observations lies, seconds, as `histogram_quantile` of
/// Prometheus estimates it from the buckets, each with its upper bound and how many observations
/// lie below that. `None` if there are no observations.
fn quantile(part: f64, buckets: &[(f64, f64)]) -> Option<f64> {
    let (_, all) = buckets.last().filter(|(_, all)| *all > 0.0)?;
    let rank = part * all;
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank && bound.is_finite() {
            let share = (rank - below) / (count - below).max(1.0);
            return Some(lower + (bound - lower) * share);
        }
        if bound.is_finite() {
            (lower, below) = (*bound, *count);
        }
    }
    Some(lower)
}

/// A time with two or three digits.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 0.00995 => format!("{:.1} ms", s * 1000.0),
        s if s < 0.9995 => format!("{:.0} ms", s * 1000.0),
        s => format!("{s:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_estimated_within_its_bucket() {
        let infinite = f64::INFINITY;
        let buckets = [(0.1, 10.0), (0.2, 90.0), (1.0, 99.0), (infinite, 100.0)];
        let at = |part| quantile(part, &buckets).expect("observations");
        assert!((at(0.05) - 0.05).abs() < 1e-9);
        assert!((at(0.5) - 0.15).abs() < 1e-9);
        assert!((at(0.99) - 1.0).abs() < 1e-9);
        assert!(
            (at(1.0) - 1.0).abs() < 1e-9,
            "beyond the last bound it isn't known"
        );
        assert_eq!(quantile(0.5, &[]), None);
        assert_eq!(quantile(0.5, &[(0.1, 0.0), (infinite, 0.0)]), None);
    }

    #[test]
    fn times_and_counts_are_told_briefly() {
        assert_eq!(time(0.000_42), "0.4 ms");
        assert_eq!(time(0.0426), "43 ms");
        assert_eq!(time(1.25), "1.2 s");
        let counts = [("queue_full", 2), ("shut", 0), ("too_large", 1000)];
        let counts = counts.map(|(name, count)| (name.to_string(), count));
        assert_eq!(listed(&counts), "1,000 too large, 2 queue full");
        assert_eq!(listed(&counts[1..2]), "none");
    }
}
