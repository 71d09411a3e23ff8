//! The tables as SVG charts.

use std::fmt::{self, Write};

use crate::peers::{self, Compared};
use crate::table::{Measured, Memory};

/// The width of the chart, pixels.
const WIDTH: f64 = 760.0;
/// The left end of the bars, pixels.
const LEFT: f64 = 170.0;
/// The width of the area for bars, pixels.
const SPAN: f64 = 520.0;
/// The height of a row, pixels.
const ROW: f64 = 40.0;
/// The height of a bar, pixels.
const BAR: f64 = 13.0;

/// The colours of bars: this server's, and those of the server that it replaces.
const SERVERS: [&str; 2] = ["#2f6fdb", "#b9bec7"];
/// The colours of bars for each of the two peers.
const PEERS: [&str; 2] = ["#2a9d78", "#d9902f"];
/// The colour of text.
const INK: &str = "#24292f";
/// The colour of numbers and notes.
const FAINT: &str = "#6b7280";

/// The resident memory of the Python server, MB: four processes of 95 MB.
const ORIGINAL_MEMORY: f64 = 380.0;

/// Draws the throughput relative to the database alone, and the memory below it.
pub fn draw(measured: &[Measured], memory: &Memory) -> String {
    let mut svg = Svg::with(SERVERS);
    let bottom = svg.throughput(28.0, measured);
    let bottom = svg.memory(bottom + 56.0, memory);
    svg.finish(bottom + 4.0)
}

/// Draws this server's requests and its processor time relative to those of each peer.
pub fn draw_peers(compared: &[Compared]) -> String {
    let mut svg = Svg::with(PEERS);
    let note = "more than 1: this server is ahead";
    let requests = "Requests in a second, times as many as the peer answers";
    svg.legend(54.0, [peers::NAMES[1], peers::NAMES[2]], note);
    let bottom = svg.ratios(28.0, 48.0, requests, compared, Compared::requests);
    let processor = "Processor time per request, times less than the peer takes";
    let top = bottom + 56.0;
    let bottom = svg.ratios(top, 22.0, processor, compared, Compared::processor);
    svg.finish(bottom + 28.0)
}

impl Svg {
    /// Draws the ratios to both peers from `top` on, with the bars `below` that. Returns where it
    /// ends.
    fn ratios(
        &mut self,
        top: f64,
        below: f64,
        heading: &str,
        compared: &[Compared],
        ratio: impl Fn(&Compared, usize) -> Option<f64>,
    ) -> f64 {
        self.heading(top, heading);
        let both = |row| Some((row, [ratio(row, 1)?, ratio(row, 2)?]));
        let rows: Vec<(&Compared, [f64; 2])> = compared.iter().filter_map(both).collect();
        let longest = rows.iter().flat_map(|row| row.1).fold(1.0, f64::max);
        let (mut y, scale) = (top + below, SPAN / (longest * 1.05));
        let bottom = y + ROW * rows.len() as f64;
        self.scale(y, bottom, longest, 1.0, scale);
        for (row, ratios) in rows {
            let labels = ratios.map(|ratio| format!("{ratio:.1}"));
            self.pair(y, row.row.name, ratios.map(|ratio| ratio * scale), labels);
            y += ROW;
        }
        bottom
    }

    /// Draws the throughput from `top` on. Returns where it ends.
    fn throughput(&mut self, top: f64, measured: &[Measured]) -> f64 {
        self.heading(top, "Throughput, as a part of what the database alone does");
        let note = "1: one plain statement for each file, without HTTP";
        self.legend(top + 26.0, ["this server", "the Python server"], note);
        let mut y = top + 48.0;
        let longest = measured.iter().map(Measured::ratio).fold(1.0, f64::max);
        let scale = SPAN / (longest * 1.05);
        let bottom = y + ROW * measured.len() as f64;
        self.scale(y, bottom, longest, 0.5, scale);
        for row in measured {
            let (ours, original) = (row.ratio(), row.row.original);
            let labels = [format!("{ours:.2}"), original.to_string()];
            self.pair(y, row.row.name, [ours * scale, original * scale], labels);
            y += ROW;
        }
        bottom
    }

    /// Draws the memory from `top` on. Returns where it ends.
    fn memory(&mut self, top: f64, memory: &Memory) -> f64 {
        self.heading(top, "Resident memory, MB");
        let mut y = top + 22.0;
        let scale = SPAN / (ORIGINAL_MEMORY * 1.05);
        for (name, bytes) in [
            ("idle", memory.idle),
            ("files of 10 MB", memory.busy),
            ("30 s later", memory.after),
        ] {
            let ours = bytes as f64 / 1e6;
            let labels = [format!("{ours:.0}"), ORIGINAL_MEMORY.to_string()];
            self.pair(y, name, [ours * scale, ORIGINAL_MEMORY * scale], labels);
            y += ROW;
        }
        y
    }

    /// Draws a line every `step`, from 0 to `longest`; the one at 1 is darker.
    fn scale(&mut self, top: f64, bottom: f64, longest: f64, step: f64, scale: f64) {
        for tick in 0..=(longest / step) as u32 {
            let value = f64::from(tick) * step;
            let color = if value == 1.0 { FAINT } else { "#e5e7eb" };
            let x = LEFT + value * scale;
            self.line(x, top - 6.0, bottom, color);
            let label = value.to_string();
            self.text(x, bottom + 16.0, "middle", FAINT, 12.0, &label);
        }
    }

    fn heading(&mut self, y: f64, text: &str) {
        self.text(16.0, y, "start", INK, 16.0, text);
    }

    /// A row: a bar of the first colour, and one of the second below.
    fn pair(&mut self, y: f64, name: &str, lengths: [f64; 2], labels: [String; 2]) {
        self.text(LEFT - 10.0, y + BAR + 5.0, "end", INK, 13.0, name);
        self.bar(y, lengths[0], self.colors[0], &labels[0]);
        self.bar(y + BAR + 2.0, lengths[1], self.colors[1], &labels[1]);
    }
}

/// A chart that is being drawn.
struct Svg {
    elements: String,
    /// The colours of the two kinds of bars.
    colors: [&'static str; 2],
}

impl Svg {
    fn with(colors: [&'static str; 2]) -> Svg {
        let elements = String::new();
        Svg { elements, colors }
    }

    fn put(&mut self, element: fmt::Arguments) {
        // Writing to a string never fails.
        let _ = self.elements.write_fmt(element);
        self.elements.push('\n');
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, color: &str, size: f64, text: &str) {
        self.put(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{color}" font-size="{size}">{text}</text>"#
        ));
    }

    fn bar(&mut self, y: f64, length: f64, color: &str, label: &str) {
        let length = length.max(1.0);
        self.put(format_args!(
            r#"<rect x="{LEFT}" y="{y:.1}" width="{length:.1}" height="{BAR}" rx="2" fill="{color}"/>"#
        ));
        self.text(
            LEFT + length + 6.0,
            y + BAR - 2.5,
            "start",
            FAINT,
            11.5,
            label,
        );
    }

    fn line(&mut self, x: f64, top: f64, bottom: f64, color: &str) {
        self.put(format_args!(
            r#"<line x1="{x:.1}" x2="{x:.1}" y1="{top:.1}" y2="{bottom:.1}" stroke="{color}"/>"#
        ));
    }

    fn legend(&mut self, y: f64, names: [&str; 2], note: &str) {
        let mut x = 16.0;
        for (color, name) in self.colors.into_iter().zip(names) {
            let top = y - 10.0;
            self.put(format_args!(
                r#"<rect x="{x}" y="{top}" width="12" height="12" rx="2" fill="{color}"/>"#
            ));
            self.text(x + 18.0, y, "start", INK, 13.0, name);
            // About the width of the name, and a gap.
            x += 44.0 + 6.7 * name.len() as f64;
        }
        self.text(x + 8.0, y, "start", FAINT, 13.0, note);
    }

    fn finish(self, height: f64) -> String {
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="system-ui, sans-serif">
<rect width="100%" height="100%" rx="8" fill="#ffffff"/>
{}</svg>
"##,
            self.elements
        )
    }
}
