//! The layers of the program: a folder of `src/` uses only those below it, and files don't use each
//! other in a circle.

#[path = "common/source_files.rs"]
mod source_files;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use source_files::{root, source_files};

/// The folders and files directly in `src/`, from top to bottom. Those on one line don't use each
/// other, except for the files on the last line, which may.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["commands"],
    &["api", "upkeep"],
    &["server"],
    &["cache"],
    &["config"],
    &["db"],
    &["protocol"],
    GROUND,
];
/// The files directly in `src/` that every layer may use.
const GROUND: &[&str] = &[
    "allocator",
    "buffer",
    "descriptors",
    "exposition",
    "handover",
    "lock",
    "machine",
    "output",
    "quantity",
    "request_counts",
    "signals",
    "statistics",
    "stop",
    "systemd",
];

/// For some libraries the only folders that may use them.
const ONE_ROOM: &[(&str, &[&str])] = &[
    ("tiny_http", &["server"]),
    ("postgres", &["db"]),
    ("ureq", &["upkeep"]),
    ("x25519_dalek", &["protocol"]),
    ("curve25519_dalek", &["protocol"]),
    ("ring", &["protocol"]),
    ("chacha20", &["protocol"]),
    ("hmac", &["protocol"]),
    ("toml", &["config"]),
];

fn source() -> PathBuf {
    root().join("src")
}

/// Each module, `a::b`, with its code: comments and tests are cut off.
fn modules() -> BTreeMap<String, String> {
    let module = |(path, text): (PathBuf, String)| {
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = text.lines().map(|line| line.split("//").next());
        let code: Vec<&str> = code.flatten().collect();
        let path = path.strip_prefix(source()).expect("below");
        let name = path.with_extension("").to_string_lossy().replace('/', "::");
        (name, code.join("\n"))
    };
    source_files(&["src"]).into_iter().map(module).collect()
}

/// The modules that the code of `name` uses: what follows `crate::` and `super::`.
fn used(name: &str, modules: &BTreeMap<String, String>) -> BTreeSet<String> {
    let folder = name.rsplit_once("::").map_or("", |(folder, _)| folder);
    let code = modules[name]
        .replace("crate::", "\0")
        .replace("super::", "\0:");
    let mut paths = Vec::new();
    for written in code.split('\0').skip(1) {
        let (from, tree) = match written.strip_prefix(':') {
            Some(tree) => (folder, tree),
            None => ("", written),
        };
        expand(from, tree, &mut paths);
    }
    let module_of = |path: &String| {
        let mut path = path.as_str();
        loop {
            let file = [path.to_string(), format!("{path}::mod")];
            if let Some(module) = file.iter().find(|module| modules.contains_key(*module)) {
                return Some(module.clone());
            }
            path = path.rsplit_once("::")?.0;
        }
    };
    let mut used: BTreeSet<String> = paths.iter().filter_map(module_of).collect();
    used.remove(name);
    used
}

/// Adds to `paths` those of a tree such as `a::{self, b::C}` in the module `from`. Text that
/// follows the tree is not read. Returns how many bytes of `tree` were read.
fn expand(from: &str, tree: &str, paths: &mut Vec<String>) -> usize {
    let name = tree.split(|c| !is_name(c)).next().unwrap_or_default();
    let path = format!("{from}::{name}");
    let path = path.trim_start_matches(':');
    let path = path.trim_end_matches("self").trim_end_matches(':');
    let mut read = name.len();
    let opening = if name.is_empty() { "{" } else { "::{" };
    if let Some(rest) = tree[read..].strip_prefix(opening) {
        read = tree.len() - rest.len();
        while !tree[read..].starts_with('}') {
            let skipped = tree[read..]
                .find(|c: char| is_name(c) || c == '}')
                .expect("closed");
            read += skipped;
            if !tree[read..].starts_with('}') {
                read += expand(path, &tree[read..], paths);
            }
        }
        return read + 1;
    }
    if let Some(rest) = tree[read..].strip_prefix("::") {
        return tree.len() - rest.len() + expand(path, rest, paths);
    }
    paths.push(path.to_string());
    read
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[test]
fn a_folder_uses_only_those_below_it() {
    let modules = modules();
    let room = |name: &str| name.split("::").next().unwrap_or_default().to_string();
    let layer = |room: &str| {
        let found = LAYERS.iter().position(|rooms| rooms.contains(&room));
        found.unwrap_or_else(|| panic!("{room} is in no layer"))
    };
    for name in modules.keys().filter(|name| *name != "lib") {
        for used in used(name, &modules) {
            let (own, other) = (room(name), room(&used));
            let is_below = layer(&own) < layer(&other);
            let is_ground = GROUND.contains(&own.as_str()) && GROUND.contains(&other.as_str());
            assert!(own == other || is_below || is_ground, "{name} uses {used}");
        }
    }
}

/// A `mod.rs` stands for its folder, so that naming the files of the folder doesn't count as using
/// them.
#[test]
fn files_use_each_other_in_no_circle() {
    let modules = modules();
    let mut left: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in modules.keys() {
        let folder = name.strip_suffix("mod");
        let used = used(name, &modules).into_iter();
        let used = used.filter(|used| folder.is_none_or(|folder| !used.starts_with(folder)));
        left.insert(name.clone(), used.collect());
    }
    loop {
        let before = left.len();
        let names: BTreeSet<String> = left.keys().cloned().collect();
        let all_used: BTreeSet<String> = left.values().flatten().cloned().collect();
        left.retain(|name, used| {
            used.retain(|used| names.contains(used));
            !used.is_empty() && all_used.contains(name)
        });
        if left.len() == before {
            break;
        }
    }
    assert!(left.is_empty(), "among these is a circle: {left:#?}");
}

#[test]
fn a_library_is_known_to_one_room() {
    for (name, code) in modules() {
        let room = name.split("::").next().unwrap_or_default();
        for (library, rooms) in ONE_ROOM {
            let mut before = code.split(&format!("{library}::")).collect::<Vec<_>>();
            before.pop();
            // `rustls::crypto::ring` is a module of rustls that has the same name as the library.
            let is_named = before
                .iter()
                .any(|before| !before.ends_with(is_name) && !before.ends_with("crypto::"));
            assert!(!is_named || rooms.contains(&room), "{name} uses {library}");
        }
    }
}

/// The tests above would pass if they saw nothing.
#[test]
fn uses_are_found_however_they_are_written() {
    let of = |code: &str| {
        let mut modules: BTreeMap<String, String> = ["a::mod", "a::b", "c", "d::e::f"]
            .map(|name| (name.to_string(), String::new()))
            .into();
        modules.insert("a::own".into(), code.into());
        used("a::own", &modules).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(of("use super::b::{self, X};"), ["a::b"]);
    assert_eq!(of("use super::{Service, b::Y};"), ["a::b", "a::mod"]);
    assert_eq!(of("use crate::{c, d::{e::f::{G, H}}};"), ["c", "d::e::f"]);
    assert_eq!(
        of("fn x() { crate::c::y(crate::d::e::f::Z) }"),
        ["c", "d::e::f"]
    );
}
