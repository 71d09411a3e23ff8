//! The libraries: which may be used, and where they come from.

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// The versions in Debian 13 (trixie) main, with which the package is built.
const DEBIAN_13: &[(&str, &str)] = &[
    ("base64", "0.22.1"),
    ("blake2b_simd", "1.0.2"),
    ("chacha20", "0.9.1"),
    ("curve25519-dalek", "4.1.3"),
    ("ed25519-dalek", "2.1.1"),
    ("env_logger", "0.11.6"),
    ("form_urlencoded", "1.2.1"),
    ("getrandom", "0.2.15"),
    ("hex", "0.4.3"),
    ("hmac", "0.12.1"),
    ("httpdate", "1.0.2"),
    ("humantime", "2.1.0"),
    ("indicatif", "0.17.8"),
    ("lexopt", "0.3.0"),
    ("libc", "0.2.169"),
    ("listenfd", "1.0.0"),
    ("log", "0.4.26"),
    ("postgres", "0.19.9"),
    ("proptest", "1.6.0"),
    ("ring", "0.17.14"),
    ("rustix", "0.38.37"),
    ("rustls-platform-verifier", "0.5.1"),
    ("sd-notify", "0.4.1"),
    ("sendfd", "0.4.3"),
    ("serde", "1.0.217"),
    ("serde_json", "1.0.139"),
    ("sha2", "0.10.8"),
    ("signal-hook", "0.3.17"),
    ("socket2", "0.5.8"),
    ("tempfile", "3.15.0"),
    ("tiny_http", "0.12.0"),
    ("tokio", "1.43.1"),
    ("tokio-rustls", "0.26.1"),
    ("toml", "0.8.19"),
    ("ureq", "3.0.11"),
    ("x25519-dalek", "2.0.1"),
    ("zeroize", "1.8.1"),
];

/// Where a file of the repository is.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A file of the repository.
fn read(name: &str) -> Table {
    let text = fs::read_to_string(path(name)).expect("a file");
    text.parse().expect("TOML")
}

/// The numbers of a version or a requirement, which may have fewer than three.
fn numbers(version: &str) -> Vec<u64> {
    let numbers = version.split('.').map(str::parse);
    numbers
        .collect::<Result<_, _>>()
        .unwrap_or_else(|_| panic!("not plain numbers: {version}"))
}

/// Whether a requirement without an operator, which means `^`, admits a version: it is as high,
/// and the same up to the first number that is not 0.
fn admits(required: &str, version: &str) -> bool {
    let (required, version) = (numbers(required), numbers(version));
    let leading = required.iter().position(|number| *number != 0);
    let same = leading.unwrap_or(required.len() - 1);
    version >= required && required[..=same] == version[..=same]
}

#[test]
fn a_requirement_admits_what_cargo_would_take_for_it() {
    for (required, version, expected) in [
        ("1.0", "1.0.0", true),
        ("1.0", "1.7.2", true),
        ("1.0.2", "1.0.1", false),
        ("1.0", "2.0.0", false),
        ("0.19.9", "0.19.14", true),
        ("0.19.9", "0.19.8", false),
        ("0.12", "0.13.0", false),
        ("0.0.3", "0.0.4", false),
    ] {
        assert_eq!(admits(required, version), expected, "{required} {version}");
    }
}

/// The libraries in a table of Cargo.toml, and the version that each must have.
fn required(kind: &str) -> Vec<(String, String)> {
    let manifest = read("Cargo.toml");
    let libraries = manifest[kind].as_table().expect("a table").iter();
    let required = libraries.map(|(name, library)| {
        let version = library.get("version").unwrap_or(library).as_str();
        let version = version.unwrap_or_else(|| panic!("{name} has no version"));
        (name.clone(), version.to_string())
    });
    required.collect()
}

/// The packages in a Cargo.lock.
fn packages(lock: &Table) -> impl Iterator<Item = &Table> {
    let packages = lock["package"].as_array().expect("a list").iter();
    packages.filter_map(Value::as_table)
}

fn text<'a>(package: &'a Table, key: &str) -> &'a str {
    package[key].as_str().expect("a text")
}

#[test]
fn every_library_is_in_debian_13_at_a_version_that_its_requirement_admits() {
    for kind in ["dependencies", "dev-dependencies"] {
        for (name, required) in required(kind) {
            let known = DEBIAN_13.iter().find(|(known, _)| *known == name);
            let (_, version) = known.unwrap_or_else(|| panic!("{name} is not known"));
            assert!(admits(&required, version), "{name} is {version} there");
        }
    }
}

#[test]
fn the_fuzz_targets_are_built_with_the_libraries_that_are_required() {
    let lock = read("fuzz/Cargo.lock");
    let mut ours = packages(&lock).filter(|p| text(p, "name") == "session-file-server");
    let ours = ours.next().expect("our own")["dependencies"].as_array();
    // If a library is there in two versions, the version stands after the name.
    let mut built_with: Vec<(&str, Option<&str>)> = Vec::new();
    for library in ours.expect("a list") {
        let library = library.as_str().expect("a text");
        let (name, version) = library.split_once(' ').unzip();
        built_with.push((name.unwrap_or(library), version));
    }
    let required = required("dependencies");
    assert_eq!(
        built_with.len(),
        required.len(),
        "copy Cargo.lock to fuzz/, and run cargo update --workspace there"
    );
    for (name, required) in required {
        let found = built_with.iter().find(|(found, _)| *found == name);
        let (_, version) = found.unwrap_or_else(|| panic!("{name} is missing there"));
        let mut locked = packages(&lock).filter(|p| text(p, "name") == name);
        let version = version.unwrap_or_else(|| text(locked.next().expect("locked"), "version"));
        assert!(admits(&required, version), "{name} is {version} there");
    }
}

#[test]
fn every_library_comes_from_the_one_registry() {
    for lock in ["Cargo.lock", "fuzz/Cargo.lock"] {
        // The Debian package is built without `Cargo.lock`, with Debian's own libraries.
        if !path(lock).exists() {
            assert_eq!(lock, "Cargo.lock");
            continue;
        }
        let lock = read(lock);
        let mut sources = Vec::new();
        for package in packages(&lock) {
            match package.get("source").and_then(Value::as_str) {
                Some(source) => sources.push(source),
                None => {
                    let name = text(package, "name");
                    let is_ours = name.starts_with("session-file-server");
                    assert!(is_ours, "{name} is in no registry");
                }
            }
        }
        sources.dedup();
        assert_eq!(sources.len(), 1, "{sources:?}");
        assert!(sources[0].starts_with("registry+"), "{sources:?}");
    }
}
