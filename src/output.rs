//! What the program says: log lines and errors on standard error, results on standard output.
//!
//! Standard error may be full, closed, or have nobody who reads it: that changes nothing else.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Write};

use log::LevelFilter;

/// Starts the log, on standard error; under systemd without the time, which the journal adds.
/// `level` is that of the program's own lines, unless RUST_LOG says otherwise.
pub fn start_logging(level: LevelFilter) {
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let mut builder = env_logger::Builder::new();
    match std::env::var("RUST_LOG") {
        Ok(filters) => builder.parse_filters(&filters),
        // The libraries' own lines are of interest to nobody but a developer.
        Err(_) => builder
            .filter_level(LevelFilter::Error)
            // What it calls an error is its way to stop, or is reported by the server.
            .filter_module("tiny_http", LevelFilter::Off)
            .filter_module("session_file_server", level),
    };
    builder
        .format(move |out, record| {
            if !in_journal {
                let now = humantime::format_rfc3339_millis(std::time::SystemTime::now());
                write!(out, "{now} ")?;
            }
            // Here, so that no caller can forget it: lines repeat what clients, GitHub and the
            // database have sent.
            let text = record.args().to_string();
            writeln!(out, "{:<5} {}", record.level(), one_line(&text))
        })
        .init();
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
}

/// Prints what a command was asked for, as text for people or for programs.
///
/// Whoever reads it may stop reading, as `head` does.
///
/// # Errors
/// A sentence for the operator, if the text can't be delivered.
pub fn print(text: &str) -> Result<(), String> {
    // Not `print!`, which panics when nobody reads.
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}"))
        }
        _ => Ok(()),
    }
}

/// Prints what a command has done. Where that can't be delivered, the work is done all the
/// same, and the exit status tells of the work.
pub fn mention(text: &str) {
    if let Err(error) = print(text) {
        log::warn!("{error}");
    }
}

/// Prints why the program ends, on standard error.
pub fn complain(message: &str) {
    // Not `eprintln!`, which panics when standard error is full.
    let _ = writeln!(io::stderr(), "session-file-server: {}", printable(message));
}

/// The text with everything escaped that could end its line, or show it as another one: control
/// characters, and Unicode's line separators and changes of direction.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, changes_lines)
}

/// The same with line ends left: a text of ours may have several lines.
pub fn printable(text: &str) -> Cow<'_, str> {
    escape(text, |c| c != '\n' && changes_lines(c))
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_escaped(c) {
            true => escaped.extend(c.escape_default()),
            false => escaped.push(c),
        }
    }
    escaped.into()
}

/// C0, DEL and C1; marks of direction, line and paragraph separators, embeddings, overrides and
/// isolates (Unicode Standard Annex 9), and the byte order mark.
fn changes_lines(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
                | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_its_line_or_shows_as_another() {
        for (text, shown) in [
            ("GET /file → 200", "GET /file → 200"),
            ("Grüße, 文件, ملف", "Grüße, 文件, ملف"),
            ("a\nERROR b", "a\\nERROR b"),
            ("a\r\nb\tc", "a\\r\\nb\\tc"),
            ("\0\x1b[2J\x7f", "\\u{0}\\u{1b}[2J\\u{7f}"),
            ("\u{85}\u{9b}31m", "\\u{85}\\u{9b}31m"),
            ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
            ("\u{202a}\u{202e}\u{202c}", "\\u{202a}\\u{202e}\\u{202c}"),
            ("\u{2066}\u{2069}\u{200f}", "\\u{2066}\\u{2069}\\u{200f}"),
            ("\u{61c}\u{feff}", "\\u{61c}\\u{feff}"),
        ] {
            assert_eq!(one_line(text), shown);
        }
    }

    #[test]
    fn a_text_of_several_lines_keeps_them() {
        assert_eq!(printable("a\nb\x1b\u{2028}"), "a\nb\\u{1b}\\u{2028}");
    }
}
