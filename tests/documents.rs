//! The documents: what they link to is there, and is installed by the package.

#[path = "common/source_files.rs"]
mod source_files;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use source_files::{root, source_files};

/// Every Markdown document of the repository.
const DOCUMENTS: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "benches/README.md",
    "docs/growing.md",
    "docs/migrating.md",
    "docs/operating.md",
];

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect(path)
}

/// The lines of a document that are not in a block of code.
fn prose(document: &str) -> Vec<&str> {
    let mut is_code = false;
    let lines = document.lines().filter(|line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_fence && !is_code
    });
    lines.collect()
}

/// The targets of a document's links and pictures, without those on the web.
fn links(document: &str) -> Vec<String> {
    let text = prose(document).join("\n");
    let targets = text.split("](").skip(1);
    let targets = targets.map(|rest| rest.split(')').next().unwrap_or_default());
    let targets = targets.filter(|target| !target.contains("://"));
    targets.map(str::to_string).collect()
}

/// The anchors of a document's headings, as GitHub and others make them.
fn anchors(document: &str) -> Vec<String> {
    let headings = prose(document)
        .into_iter()
        .filter_map(|line| Some(line.strip_prefix('#')?.trim_start_matches('#').trim()));
    let anchor = |heading: &str| {
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

/// A link of the document `from`, as a path in the repository.
fn resolve(from: &str, target: &str) -> PathBuf {
    let mut path = PathBuf::from(from);
    path.pop();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{from}: {target} leaves the repository"),
            part => path.push(part),
        }
    }
    path
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut seen = 0;
    for from in DOCUMENTS {
        for link in links(&read(from)) {
            let (target, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let path = match target {
                "" => PathBuf::from(from),
                target => resolve(from, target),
            };
            assert!(root().join(&path).exists(), "{from}: {link} leads nowhere");
            let document = || read(&path.to_string_lossy());
            let is_found = anchor.is_empty() || anchors(&document()).iter().any(|a| a == anchor);
            assert!(is_found, "{from}: there is no heading for {link}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} links were found");
}

/// What the package installs, as paths in the repository; a folder stands for all that is in it.
fn installed() -> Vec<PathBuf> {
    let mut installed = vec![PathBuf::from("CHANGELOG.md")];
    for list in ["docs", "examples", "install", "manpages"] {
        let list = read(&format!("debian/session-file-server.{list}"));
        let sources = list
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        installed.extend(sources.map(|source| PathBuf::from(source.trim_end_matches("/*"))));
    }
    installed
}

#[test]
fn what_the_installed_documents_link_to_is_installed() {
    let installed = installed();
    let is_installed = |path: &Path| installed.iter().any(|source| path.starts_with(source));
    for from in [
        "README.md",
        "SECURITY.md",
        "docs/growing.md",
        "docs/migrating.md",
        "docs/operating.md",
        "benches/README.md",
    ] {
        assert!(is_installed(Path::new(from)), "{from} is not installed");
        for link in links(&read(from)) {
            let target = link.split('#').next().unwrap_or_default();
            let path = resolve(from, target);
            let is_here = target.is_empty() || is_installed(&path);
            // The folder of all examples is installed part by part.
            assert!(
                is_here || path == Path::new("packaging"),
                "{from}: {link} is not installed"
            );
        }
    }
}

#[test]
fn every_document_is_looked_at() {
    for folder in ["", "benches", "docs", "packaging", "scripts"] {
        for entry in fs::read_dir(root().join(folder)).expect("a folder") {
            let path = Path::new(folder).join(entry.expect("an entry").file_name());
            let name = path.to_string_lossy();
            let is_known = DOCUMENTS.contains(&name.as_ref());
            assert!(is_known || !name.ends_with(".md"), "{name} is in no list");
        }
    }
}

/// The names that the source gives to threads: literals in `.name("…")` and `Elastic::new("…")`.
fn threads_of_source() -> BTreeSet<String> {
    let mut threads = BTreeSet::new();
    for (_, text) in source_files(&["src"]) {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for before in [".name(\"", ".name(format!(\"", "Elastic::new(\""] {
            let names = code.split(before).skip(1);
            let names = names.map(|rest| rest.split('"').next().unwrap_or_default());
            threads.extend(names.map(|name| name.replace("{number}", "1")));
        }
    }
    threads
}

#[test]
fn the_architecture_lists_every_named_thread() {
    let document = read("ARCHITECTURE.md");
    let table = document
        .split("\n## ")
        .find(|part| part.starts_with("Threads\n"));
    let rows = table.expect("a chapter").lines();
    let listed: BTreeSet<String> = rows
        .filter_map(|row| row.strip_prefix("| `")?.split('`').next())
        .map(str::to_string)
        .collect();
    assert_eq!(listed, threads_of_source());
}
