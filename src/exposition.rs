//! The text format in which Prometheus reads metrics, version 0.0.4: it is written here for the
//! server, and read for `status`.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::{Display, Write};

/// The value of `Content-Type` for a text in this format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// What the names of the server's own metrics begin with.
pub const PREFIX: &str = "session_file_server_";

/// The types of metrics that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows until the server restarts.
    Counter,
    /// A number that may grow and shrink.
    Gauge,
    /// Counts of observations up to some bounds.
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A text that grows, one family of metrics after the other.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins the family `name`, to which [`PREFIX`] is added.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) -> Family<'_> {
        self.begin(format!("{PREFIX}{name}"), kind, help)
    }

    /// Begins the family `name`, which many programs have under this name. [`PREFIX`] isn't added.
    pub fn standard_family(&mut self, name: &str, kind: Kind, help: &str) -> Family<'_> {
        self.begin(name.to_string(), kind, help)
    }

    /// Adds a gauge that is one number. [`PREFIX`] is added to its name.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, Kind::Gauge, help).sample(&[], value);
    }

    /// Adds a counter that is one number. [`PREFIX`] is added to its name.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, Kind::Counter, help).sample(&[], value);
    }

    /// The whole text.
    pub fn into_text(self) -> String {
        self.text
    }

    fn begin(&mut self, name: String, kind: Kind, help: &str) -> Family<'_> {
        let kind = kind.as_str();
        self.text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Family {
            text: &mut self.text,
            name,
        }
    }
}

/// A family of metrics, to which samples are added.
pub struct Family<'a> {
    text: &'a mut String,
    name: String,
}

impl Family<'_> {
    /// Adds a sample with these labels.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, value);
    }

    /// Adds a histogram with these labels: how many observations were in each bucket, with the
    /// buckets' upper bounds; those beyond the last bound; and the sum of all observations.
    pub fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        buckets: &[(f64, u64)],
        beyond: u64,
        sum: f64,
    ) {
        let mut count = 0;
        let bounds = buckets.iter().map(|(bound, n)| (bound.to_string(), *n));
        for (bound, observations) in bounds.chain([("+Inf".to_string(), beyond)]) {
            count += observations;
            let labels = [labels, &[("le", bound.as_str())]].concat();
            self.line("_bucket", &labels, count);
        }
        self.line("_sum", labels, sum);
        self.line("_count", labels, count);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        *self.text += &self.name;
        *self.text += suffix;
        for (index, (label, value)) in labels.iter().enumerate() {
            *self.text += if index == 0 { "{" } else { "," };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            *self.text += &format!("{label}=\"{}\"", value.replace('\n', "\\n"));
        }
        if !labels.is_empty() {
            *self.text += "}";
        }
        // Writing to a text can't fail.
        let _ = writeln!(self.text, " {value}");
    }
}

/// A sample that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name, without [`PREFIX`] if it has it.
    pub name: String,
    /// The labels and their values.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// The value of a label; empty if the sample doesn't have it.
    pub fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(label, _)| label == name);
        found.map_or("", |(_, value)| value)
    }
}

/// Reads the samples of a text. Lines that are no samples are left out.
pub fn parse(text: &str) -> Vec<Sample> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Sample> {
    let name_ends = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_ends);
    if name.is_empty() || name.starts_with('#') {
        return None;
    }
    let mut labels = Vec::new();
    if let Some(mut list) = rest.strip_prefix('{') {
        while !list.starts_with('}') {
            let (label, value) = list.split_once("=\"")?;
            let (value, after) = unquote(value)?;
            labels.push((label.to_string(), value));
            list = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &list[1..];
    }
    Some(Sample {
        name: name.strip_prefix(PREFIX).unwrap_or(name).to_string(),
        labels,
        value: rest.trim().parse().ok()?,
    })
}

/// The value of a label up to its closing quote, and what follows it.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[index + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_with_help_and_type() {
        let mut exposition = Exposition::default();
        exposition.counter("files_total", "Files.", 7);
        exposition
            .family("up", Kind::Gauge, "Whether.")
            .sample(&[("a", "x"), ("b", "y")], 0.5);
        exposition
            .standard_family("process_x", Kind::Gauge, "X.")
            .sample(&[], 1);
        let expected = "# HELP session_file_server_files_total Files.\n\
             # TYPE session_file_server_files_total counter\n\
             session_file_server_files_total 7\n\
             # HELP session_file_server_up Whether.\n\
             # TYPE session_file_server_up gauge\n\
             session_file_server_up{a=\"x\",b=\"y\"} 0.5\n\
             # HELP process_x X.\n# TYPE process_x gauge\nprocess_x 1\n";
        assert_eq!(exposition.into_text(), expected);
    }

    #[test]
    fn a_histogram_adds_its_buckets_up() {
        let mut exposition = Exposition::default();
        let mut family = exposition.family("seconds", Kind::Histogram, "Time.");
        family.histogram(&[("e", "x")], &[(0.001, 2), (2.5, 0), (30.0, 1)], 4, 1.25);
        let text = exposition.into_text();
        let samples: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("session_file_server_seconds"))
            .collect();
        let expected = [
            "_bucket{e=\"x\",le=\"0.001\"} 2",
            "_bucket{e=\"x\",le=\"2.5\"} 2",
            "_bucket{e=\"x\",le=\"30\"} 3",
            "_bucket{e=\"x\",le=\"+Inf\"} 7",
            "_sum{e=\"x\"} 1.25",
            "_count{e=\"x\"} 7",
        ];
        assert_eq!(samples, expected);
    }

    #[test]
    fn what_was_written_is_read_again() {
        let mut exposition = Exposition::default();
        let odd = "a\"b\\c\nd},e=\"{ ";
        let mut family = exposition.family("odd", Kind::Gauge, "Odd.");
        family.sample(&[("one", odd), ("two", "")], 1.5);
        family.sample(&[], u64::MAX);
        let samples = parse(&exposition.into_text());
        assert_eq!(samples.len(), 2);
        assert_eq!(samples[0].label("one"), odd);
        assert_eq!(samples[0].label("two"), "");
        assert_eq!((samples[0].name.as_str(), samples[0].value), ("odd", 1.5));
        assert!(samples[1].labels.is_empty() && samples[1].value > 1e19);
    }

    #[test]
    fn what_is_no_sample_is_left_out() {
        for line in [
            "",
            "# HELP a b",
            "a",
            "a{",
            "a{b",
            "a{b=\"",
            "a{b=\"c",
            "a{b=\"c\" 1",
            "a{b=\"c\\",
            "a x",
            "{} 1",
            "HTTP/1.1 200 OK",
        ] {
            assert_eq!(parse(line), [], "{line:?}");
        }
        assert_eq!(parse("a +Inf\nb 1e3 ").len(), 2);
    }
}
