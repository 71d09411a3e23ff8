//! Counts of requests: by endpoint, way and status, and how long they took. Counting takes no lock
//! and no memory, because every request is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use crate::exposition::{Exposition, Kind};

/// The way in which a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As plain HTTP.
    Direct,
    /// Encrypted, through the onion network.
    Onion,
}

impl Way {
    /// Both ways, in the order of their counters.
    const ALL: [Way; 2] = [Way::Direct, Way::Onion];

    fn as_str(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Onion => "onion",
        }
    }
}

/// The statuses that the server answers with. Any other is counted as [`OTHER`], so that the number
/// of counters is bounded.
const STATUSES: [u16; 13] = [
    200, 400, 401, 404, 405, 411, 413, 417, 425, 500, 502, 503, 507,
];
/// The statuses that are shown before any answer has had them, because a rate can be computed only
/// from a counter that was shown before it grew.
const SHOWN_AT_ONCE: [u16; 4] = [200, 500, 503, 507];
/// The name of what is none of the known endpoints or statuses.
const OTHER: &str = "other";
/// The upper bounds of the histogram's buckets, seconds. A file from the cache takes less than the
/// first bound, a request may wait for a worker for 10 seconds, and a statement may take 30.
const BOUNDS: [f64; 15] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// The nanoseconds of a second.
const NANOS: f64 = 1e9;

/// The counters of all endpoints.
#[derive(Debug)]
pub struct RequestCounts {
    /// The counters of each endpoint, and at the end those of requests that reach no endpoint.
    endpoints: Vec<Endpoint>,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

/// The counters of an endpoint.
#[derive(Debug)]
struct Endpoint {
    name: String,
    /// For each way the answers with each of [`STATUSES`], and those with another status.
    answers: [[AtomicU64; STATUSES.len() + 1]; Way::ALL.len()],
    /// The answers in each bucket of [`BOUNDS`], and those beyond.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// How long all of these took, nanoseconds.
    nanos: AtomicU64,
}

/// A request that is being answered. It is counted when it is dropped.
#[derive(Debug)]
pub struct RequestCount<'a> {
    counts: &'a RequestCounts,
    began: Instant,
    /// The number of the endpoint. Until the endpoint is found, it is the number that stands for
    /// none.
    pub endpoint: usize,
    /// The way in which the request came.
    pub way: Way,
    /// The status of its answer. A request whose handler panics counts as 500 whatever this is.
    pub status: u16,
    /// The bytes of its body.
    pub bytes_up: usize,
    /// The bytes of the answer's body.
    pub bytes_down: usize,
}

impl Default for RequestCounts {
    /// Counters without endpoints.
    fn default() -> RequestCounts {
        RequestCounts::new(Vec::new())
    }
}

impl RequestCounts {
    /// Counters for the endpoints of these names.
    pub fn new(names: Vec<String>) -> RequestCounts {
        let endpoint = |name| Endpoint {
            name,
            answers: Default::default(),
            buckets: Default::default(),
            nanos: AtomicU64::new(0),
        };
        let names = names.into_iter().chain([OTHER.to_string()]);
        RequestCounts {
            endpoints: names.map(endpoint).collect(),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
        }
    }

    /// Begins to count a request that came whole at the time `began`.
    pub fn begin(&self, began: Instant) -> RequestCount<'_> {
        RequestCount {
            counts: self,
            began,
            endpoint: self.endpoints.len() - 1,
            way: Way::Direct,
            status: 200,
            bytes_up: 0,
            bytes_down: 0,
        }
    }

    /// Counts a request that was refused before its handler could run. It has no place in the
    /// histogram. `endpoint` is the number of its endpoint if it has one.
    pub fn refused(&self, endpoint: Option<usize>, way: Way, status: u16) {
        self.endpoint(endpoint.unwrap_or(usize::MAX))
            .answered(way, status);
    }

    /// All requests that were answered.
    pub fn requests(&self) -> u64 {
        let answers = self.endpoints.iter().flat_map(|e| &e.answers).flatten();
        answers.map(load).sum()
    }

    /// The bytes of the requests' bodies.
    pub fn bytes_up(&self) -> u64 {
        load(&self.bytes_up)
    }

    /// The bytes of the answers' bodies.
    pub fn bytes_down(&self) -> u64 {
        load(&self.bytes_down)
    }

    /// Writes the counters.
    pub fn expose(&self, exposition: &mut Exposition) {
        let mut family = exposition.family(
            "requests_total",
            Kind::Counter,
            "Requests that were answered, by endpoint, way and status; those in onion requests with \
             the status inside. An answer that is replaced by 503 for want of memory or a thread \
             to send it is in refusals_total.",
        );
        for endpoint in &self.endpoints {
            for (way, status, count) in endpoint.shown() {
                let labels = [
                    ("endpoint", endpoint.name.as_str()),
                    ("way", way.as_str()),
                    ("status", status.as_str()),
                ];
                family.sample(&labels, count);
            }
        }
        let mut family = exposition.family(
            "request_duration_seconds",
            Kind::Histogram,
            "Time from a whole request to its answer: waiting for a worker, decrypting, the handler.",
        );
        for endpoint in &self.endpoints {
            let counts = endpoint.buckets.iter().map(load);
            let buckets: Vec<(f64, u64)> = BOUNDS.into_iter().zip(counts).collect();
            family.histogram(
                &[("endpoint", &endpoint.name)],
                &buckets,
                load(&endpoint.buckets[BOUNDS.len()]),
                load(&endpoint.nanos) as f64 / NANOS,
            );
        }
        let help = "Bytes of the bodies of requests.";
        exposition.counter("received_bytes_total", help, self.bytes_up());
        let help = "Bytes of the bodies of answers.";
        exposition.counter("sent_bytes_total", help, self.bytes_down());
    }

    /// The counters of an endpoint; those of no endpoint if there is none of that number.
    fn endpoint(&self, number: usize) -> &Endpoint {
        &self.endpoints[number.min(self.endpoints.len() - 1)]
    }
}

impl Endpoint {
    fn answered(&self, way: Way, status: u16) {
        let index = STATUSES.iter().position(|known| *known == status);
        let answers = &self.answers[way as usize];
        answers[index.unwrap_or(STATUSES.len())].fetch_add(1, Ordering::Relaxed);
    }

    fn took(&self, seconds: f64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = (seconds * NANOS) as u64;
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// The counters that have counted something, and those of [`SHOWN_AT_ONCE`].
    fn shown(&self) -> impl Iterator<Item = (Way, String, u64)> {
        Way::ALL.into_iter().flat_map(move |way| {
            let counts = self.answers[way as usize].iter().enumerate();
            counts.filter_map(move |(index, count)| {
                let (status, count) = (STATUSES.get(index), load(count));
                let is_shown = count > 0 || status.is_some_and(|s| SHOWN_AT_ONCE.contains(s));
                let status = status.map_or(OTHER.to_string(), u16::to_string);
                is_shown.then_some((way, status, count))
            })
        })
    }
}

impl RequestCount<'_> {
    /// Notes the status and the length of what the client gets. The answer to an onion request that
    /// could be decrypted is always 200, which doesn't replace the status of the encrypted reply.
    pub fn answered(&mut self, status: u16, bytes: usize) {
        if status != 200 {
            self.status = status;
        }
        self.bytes_down = bytes;
    }

    /// Doesn't count the request, which is answered later.
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for RequestCount<'_> {
    fn drop(&mut self) {
        let endpoint = self.counts.endpoint(self.endpoint);
        let status = if thread::panicking() {
            500
        } else {
            self.status
        };
        endpoint.answered(self.way, status);
        endpoint.took(self.began.elapsed().as_secs_f64());
        let add = |counter: &AtomicU64, bytes| counter.fetch_add(bytes as u64, Ordering::Relaxed);
        add(&self.counts.bytes_up, self.bytes_up);
        add(&self.counts.bytes_down, self.bytes_down);
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::Duration;

    use super::*;
    use crate::exposition::{Sample, parse};

    fn samples(counts: &RequestCounts) -> Vec<Sample> {
        let mut exposition = Exposition::default();
        counts.expose(&mut exposition);
        parse(&exposition.into_text())
    }

    fn value(counts: &RequestCounts, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &Sample| labels.iter().all(|(l, value)| sample.label(l) == *value);
        let found = samples(counts)
            .into_iter()
            .find(|s| s.name == name && has(s));
        found.map(|sample| sample.value)
    }

    fn answer(counts: &RequestCounts, endpoint: usize, way: Way, status: u16) {
        let mut count = counts.begin(Instant::now());
        (count.endpoint, count.way, count.status) = (endpoint, way, status);
        (count.bytes_up, count.bytes_down) = (3, 5);
    }

    #[test]
    fn requests_are_counted_by_endpoint_way_and_status() {
        let counts = RequestCounts::new(vec!["GET /a".into()]);
        answer(&counts, 0, Way::Direct, 200);
        answer(&counts, 0, Way::Onion, 404);
        answer(&counts, 0, Way::Onion, 404);
        answer(&counts, 7, Way::Direct, 299);
        counts.refused(Some(0), Way::Direct, 413);
        counts.refused(None, Way::Onion, 411);
        for (endpoint, way, status, expected) in [
            ("GET /a", "direct", "200", Some(1.0)),
            ("GET /a", "onion", "404", Some(2.0)),
            ("GET /a", "direct", "413", Some(1.0)),
            ("GET /a", "direct", "404", None),
            ("GET /a", "direct", "503", Some(0.0)),
            ("other", "direct", "other", Some(1.0)),
            ("other", "onion", "411", Some(1.0)),
        ] {
            let labels = [("endpoint", endpoint), ("way", way), ("status", status)];
            assert_eq!(
                value(&counts, "requests_total", &labels),
                expected,
                "{labels:?}"
            );
        }
        assert_eq!(counts.requests(), 6);
        assert_eq!((counts.bytes_up(), counts.bytes_down()), (12, 20));
        let labels = [("endpoint", "GET /a")];
        let timed = value(&counts, "request_duration_seconds_count", &labels);
        assert_eq!(timed, Some(3.0), "who was refused took no time");
    }

    #[test]
    fn a_duration_is_in_the_first_bucket_that_it_fits() {
        let counts = RequestCounts::new(Vec::new());
        for seconds in [0.0, 0.0005, 0.0006, 30.0, 31.0] {
            counts.endpoints[0].took(seconds);
        }
        for (bound, expected) in [("0.0005", 2.0), ("0.001", 3.0), ("10", 3.0), ("30", 4.0)] {
            let labels = [("le", bound)];
            let found = value(&counts, "request_duration_seconds_bucket", &labels);
            assert_eq!(found, Some(expected), "{bound}");
        }
        let sum = value(&counts, "request_duration_seconds_sum", &[]).expect("there");
        assert!((sum - 61.0011).abs() < 1e-6, "{sum}");
        let waited = Duration::from_secs(2);
        drop(
            counts.begin(
                Instant::now()
                    .checked_sub(waited)
                    .expect("the machine is older"),
            ),
        );
        let labels = [("le", "1")];
        let found = value(&counts, "request_duration_seconds_bucket", &labels);
        assert_eq!(found, Some(3.0), "what was waited counts");
    }

    #[test]
    fn a_handler_that_panics_counts_as_500() {
        let counts = RequestCounts::default();
        let panics = || {
            let _count = counts.begin(Instant::now());
            panic!("on purpose");
        };
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        let labels = [("status", "500")];
        assert_eq!(value(&counts, "requests_total", &labels), Some(1.0));
    }
}
