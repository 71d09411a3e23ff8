//! Where the configuration and the key come from: pipes, files that change, and places where
//! the server may not look.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use common::raw::{LIE, make_restart};
use common::{BINARY, Database, Server, config_folder, is_root};

/// Ways to start the server with `config.toml`. In some of them it can be read only once.
const WAYS: [(&str, &str); 6] = [
    ("a file", r#"exec "$0" --config config.toml "$@""#),
    (
        "process substitution",
        r#"exec "$0" --config <(cat config.toml) "$@""#,
    ),
    (
        "a pipe",
        r#"exec "$0" --config /dev/stdin "$@" < <(cat config.toml)"#,
    ),
    (
        "a file as input",
        r#"exec "$0" --config /dev/stdin "$@" < config.toml"#,
    ),
    (
        "a descriptor",
        r#"exec "$0" --config /proc/self/fd/9 "$@" 9< config.toml"#,
    ),
    (
        "a named pipe",
        r#"mkdir sub; mkfifo sub/pipe; cat config.toml > sub/pipe & exec "$0" --config sub/pipe "$@""#,
    ),
];

fn ed25519(log: &str) -> Vec<&str> {
    let lines = log
        .lines()
        .filter(|line| line.contains("Ed25519 public key"));
    lines.filter_map(|line| line.rsplit(' ').next()).collect()
}

#[test]
fn a_configuration_that_can_be_read_only_once_serves_with_its_key_where_it_was_started() {
    let database = Database::new();
    for (way, script) in WAYS {
        let server = Server::by_script(&database, script);
        assert_eq!(server.get("/health").status, 200, "{way}");
        assert!(server.folder.path().join("key_ed25519").exists(), "{way}");
        for elsewhere in ["/dev/key_ed25519", "/dev/fd/key_ed25519"] {
            assert!(!Path::new(elsewhere).exists(), "{way}: {elsewhere}");
        }
        assert!(
            !server.folder.path().join("sub/key_ed25519").exists(),
            "{way}"
        );
        // Nobody can see what it holds.
        let process = format!("/proc/{}", server.pid());
        for file in ["environ", "cmdline"] {
            let seen = std::fs::read(format!("{process}/{file}")).expect("it runs");
            assert!(!String::from_utf8_lossy(&seen).contains("dbname="), "{way}");
        }
    }
}

#[test]
fn a_server_that_restarts_itself_keeps_its_configuration_whatever_has_become_of_the_file() {
    let database = Database::new();
    std::thread::scope(|scope| {
        for (way, script) in WAYS {
            for broken in [false, true] {
                let server = Server::by_script(&database, script);
                scope.spawn(move || restarts(way, broken, &server));
            }
        }
    });
}

fn restarts(way: &str, broken: bool, server: &Server) {
    let config = server.folder.path().join("config.toml");
    match broken {
        true => {
            std::fs::write(&config, "listen = \"127.0.0.1:1\"\nworkers = 0\n").expect("writable")
        }
        false => std::fs::remove_file(&config).expect("there"),
    }
    make_restart(server, LIE);
    assert_eq!(server.get("/health").status, 200, "{way}");
    let log = server.log();
    let keys = ed25519(&log);
    assert!(keys.len() == 2 && keys[0] == keys[1], "{way}: {log}");
    assert!(!log.contains("dbname="), "{way}: {log}");
}

#[test]
fn a_configuration_without_end_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = common::run(folder.path(), &["--config", "/dev/zero", "check-config"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("/dev/zero: cannot be read: it has more than 65536 bytes"),
        "{said}"
    );
}

/// Runs a command that may not read what belongs to others, even as root.
fn unprivileged(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    if is_root() {
        command = Command::new("setpriv");
        command.args(["--bounding-set=-dac_override,-dac_read_search", BINARY]);
    }
    command.args(arguments).current_dir(folder);
    command.output().expect("it runs")
}

/// Makes a file or a folder that only others can read.
fn lock(path: &Path) {
    if is_root() {
        std::os::unix::fs::chown(path, Some(1), Some(1)).expect("root");
    }
    let mode = if is_root() { 0o700 } else { 0 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
}

#[test]
fn where_the_server_may_not_look_it_says_so_and_makes_nothing() {
    // What is locked, and the settings that lead there.
    for (locked, settings) in [
        ("folder", "keys.ed25519 = 'folder/key'"),
        ("folder/key", "keys.ed25519 = 'folder/key'"),
        (
            "folder",
            "keys.ed25519 = 'mine'\nkeys.x25519 = 'folder/old'",
        ),
        ("config.toml", ""),
    ] {
        let work = config_folder("host=/nowhere dbname=x", settings);
        std::fs::create_dir(work.path().join("folder")).expect("writable");
        for key in ["folder/key", "mine", "folder/old"] {
            std::fs::write(work.path().join(key), "07".repeat(32)).expect("writable");
        }
        lock(&work.path().join(locked));
        for arguments in [&["keys"][..], &["--allow-root"]] {
            let output = unprivileged(work.path(), arguments);
            assert_eq!(
                output.status.code(),
                Some(1),
                "{locked} {arguments:?}: {output:?}"
            );
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                said.contains("Permission denied")
                    && !said.contains("yet")
                    && !said.contains("made"),
                "{locked} {arguments:?}: {said}"
            );
        }
        assert!(!work.path().join("key_ed25519").exists(), "{locked}");
    }
    let nothing = config_folder("host=/nowhere dbname=x", "");
    let output = unprivileged(nothing.path(), &["keys"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("key_ed25519 yet; serve makes it"), "{said}");
}
