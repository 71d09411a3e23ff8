//! The program's output: log lines and errors on standard error, results on standard output.
//!
//! Standard error may be full, closed, or without a reader. Nothing else depends on it.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Write};

use log::LevelFilter;

/// Starts the log on standard error. Under systemd the lines have no time, because the journal
/// adds it. `level` is the level of the program's own lines, unless RUST_LOG overrides it.
pub fn start_logging(level: LevelFilter) {
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let mut builder = env_logger::Builder::new();
    match std::env::var("RUST_LOG") {
        Ok(filters) => builder.parse_filters(&filters),
        // Lines of the libraries are useful to developers only, who can set RUST_LOG.
        Err(_) => builder
            .filter_level(LevelFilter::Error)
            // tiny_http logs errors when it stops normally; the server reports the others.
            .filter_module("tiny_http", LevelFilter::Off)
            .filter_module("session_file_server", level),
    };
    builder
        .format(move |out, record| {
            if !in_journal {
                let now = humantime::format_rfc3339_millis(std::time::SystemTime::now());
                write!(out, "{now} ")?;
            }
            // Escaped here so that no caller can forget it: log lines repeat what clients,
            // GitHub and the database have sent.
            let text = record.args().to_string();
            writeln!(out, "{:<5} {}", record.level(), one_line(&text))
        })
        .init();
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
}

/// Prints the result of a command, for people or for programs. A reader that closes the pipe
/// early, as `head` does, is no error.
///
/// # Errors
/// A sentence for the operator, if the text can't be written.
pub fn print(text: &str) -> Result<(), String> {
    // `print!` would panic when the pipe is closed.
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}"))
        }
        _ => Ok(()),
    }
}

/// Prints a message about work that is done. A failure to write it is only logged, because the
/// exit status must tell whether the work succeeded.
pub fn mention(text: &str) {
    if let Err(error) = print(text) {
        log::warn!("{error}");
    }
}

/// Prints a message on standard error: a warning, or why the program ends.
pub fn complain(message: &str) {
    // `eprintln!` would panic when standard error can't be written.
    let _ = writeln!(io::stderr(), "session-file-server: {}", printable(message));
}

/// Escapes what could end the line or make it look like another one: control characters, and
/// Unicode's line separators and direction marks.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, changes_lines)
}

/// Like [`one_line`], but keeps line ends, for messages of several lines.
pub fn printable(text: &str) -> Cow<'_, str> {
    escape(text, |c| c != '\n' && changes_lines(c))
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_escaped(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

/// Whether a character is C0, DEL or C1; a direction mark, a line or paragraph separator, an
/// embedding, an override or an isolate (Unicode Standard Annex 9); or the byte order mark.
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
