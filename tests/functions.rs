//! Every function fits on a screen: those of the program, the tests, the load generator and the
//! fuzz targets.

#[path = "common/source_files.rs"]
mod source_files;

use source_files::source_files;

/// The most lines that a function may have: what a screen shows.
const SCREEN: usize = 50;

/// Whether a line, as rustfmt leaves it, begins a function.
fn begins_a_function(line: &str) -> bool {
    let mut words = line.trim_start().split(' ');
    let is_keyword = |word: &str| {
        ["pub", "const", "async", "unsafe"].contains(&word) || word.starts_with("pub(")
    };
    words.find(|word| !is_keyword(word)) == Some("fn")
}

#[test]
fn every_function_fits_on_a_screen() {
    let mut longer = Vec::new();
    for (path, text) in source_files(&["src", "tests", "benches/load", "fuzz/checks"]) {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            if !begins_a_function(line) || line.ends_with(['}', ';']) {
                continue;
            }
            let indent = &line[..line.len() - line.trim_start().len()];
            let is_end = |line: &&str| line.strip_prefix(indent) == Some("}");
            let end = lines[number..].iter().position(is_end);
            let length = end.map_or(0, |end| end + 1);
            if length > SCREEN {
                longer.push(format!("{}:{}: {length}", path.display(), number + 1));
            }
        }
    }
    assert!(longer.is_empty(), "{longer:#?}");
}
