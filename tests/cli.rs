//! The command line and the configuration file, as an operator meets them.

mod common;

use std::path::Path;
use std::process::Output;

use common::{Cluster, Database, Server, eventually, run};

fn check(folder: &Path, config: &str) -> Output {
    std::fs::write(folder.join("config.toml"), config).expect("writable");
    run(folder, &["check-config"])
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn check_config_accepts_the_sample_and_no_file_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(run(folder.path(), &["check-config"]).status.code(), Some(0));
    let sample = include_str!("../config.sample.toml");
    assert_eq!(check(folder.path(), sample).status.code(), Some(0));
}

#[test]
fn check_config_warns_of_what_loses_files_and_does_not_fail() {
    let folder = tempfile::tempdir().expect("a folder");
    for (config, expected) in [
        (
            "[files]\nexpiry = \"13 days\"",
            "session-file-server: warning: files.expiry: ",
        ),
        (
            "[files]\nmax_ttl = \"1 week\"",
            "session-file-server: warning: files.max_ttl: ",
        ),
        (
            "[files]\nnumeric_ids = true",
            "session-file-server: warning: files.numeric_ids: ",
        ),
    ] {
        let output = check(folder.path(), config);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(output.stdout, b"the configuration is fine\n");
        let warnings = errors(&output);
        assert!(warnings.contains(expected), "{warnings}");
        assert_eq!(warnings.lines().count(), 1, "{warnings}");
    }
    let output = check(folder.path(), "[files]\nexpiry = \"14 days\"");
    assert_eq!(errors(&output), "");
}

#[test]
fn check_config_reports_every_mistake_with_file_and_line_and_exits_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = "workers = \"many\"\n\n[files]\nexpiry = \"3 fortnights\"\nmaxsize = 5\n";
    let output = check(folder.path(), config);
    assert_eq!(output.status.code(), Some(1));
    let errors = errors(&output);
    for expected in [
        "config.toml:1: workers: \"many\" is not a whole number",
        "config.toml:4: files.expiry: \"3 fortnights\" is not a duration",
        "config.toml:5: files.maxsize: unknown key",
    ] {
        assert!(errors.contains(expected), "{expected} is not in {errors}");
    }
}

#[test]
fn check_config_refuses_a_database_that_can_never_be_reached_and_warns_of_doubts() {
    let folder = tempfile::tempdir().expect("a folder");
    let check = |url: &str| check(folder.path(), &format!("database.url = \"{url}\""));
    for (url, reason) in [
        ("", "it is empty"),
        ("host=a port=0 dbname=x", "port 0"),
        ("host=a,b port=1,2,3", "as many as hosts"),
        ("postgresql://:5433/x", "a host is empty"),
        ("host=run/postgresql dbname=x", "neither a name"),
    ] {
        let output = check(url);
        assert_eq!(output.status.code(), Some(1), "{url}");
        let errors = errors(&output);
        assert!(
            errors.contains("config.toml:1: database.url: ") && errors.contains(reason),
            "{url}: {errors}"
        );
    }
    for url in [
        "dbname=x",
        "postgresql:///x",
        "host=127.0.0.1 dbname=x",
        "host=/no/folder",
    ] {
        let output = check(url);
        assert_eq!(output.status.code(), Some(0), "{url}: {output:?}");
        let socket = match url {
            "host=127.0.0.1 dbname=x" => None,
            "host=/no/folder" => Some("/no/folder"),
            _ => Some("/run/postgresql"),
        };
        let is_missing = socket.is_some_and(|folder| !Path::new(folder).exists());
        assert_eq!(errors(&output).contains("warning: "), is_missing, "{url}");
    }
}

#[test]
fn check_config_with_system_tells_what_does_not_fit_and_exits_1() {
    let cluster = Cluster::with(false, &["max_connections=10"]);
    let database = cluster.database();
    let check = |settings: &str| {
        let url = database.url.clone();
        let config = format!("database.url = \"{url}\"\n{settings}\n");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("config.toml"), config).expect("writable");
        run(folder.path(), &["check-config", "--system"])
    };
    let output = check("workers = 8");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        errors(&output).contains(
            "8 workers and 3 others need 11, but PostgreSQL has 7 for this user \
             (max_connections = 10, of which 3 are reserved); set workers to 4"
        ),
        "{output:?}"
    );
    // What else is checked depends on the machine.
    let output = check("workers = 4");
    assert!(!errors(&output).contains("connections:"), "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("connections: 4 workers"), "{told}");
    let output = check("workers = 4\nfiles.max_total_size = 1_000_000_000_000_000_000");
    assert!(errors(&output).contains("make room"), "{output:?}");
    let wrong = run(Path::new("."), &["status", "--system"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let away = check("database.url = 'host=/nowhere dbname=x'").status;
    assert_eq!(away.code(), Some(1));
}

#[test]
fn serve_refuses_a_config_with_mistakes_and_a_missing_one() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config.toml"), "workers = 0").expect("writable");
    let output = run(folder.path(), &["--allow-root"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("workers"));
    let output = run(folder.path(), &["--config", "missing.toml", "check-config"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("missing.toml: cannot be read"));
}

#[test]
fn wrong_usage_exits_2_and_help_lists_the_commands() {
    let folder = tempfile::tempdir().expect("a folder");
    for wrong in [
        &["destroy"][..],
        &["--colour"],
        &["--config"],
        &["serve", "twice"],
        &["files"],
        &["files", "hide"],
        &["files", "show"],
        &["files", "delete", "--json", "12"],
        &["files", "show", "--reason", "spam", "12"],
        &["files", "blocked", "12"],
    ] {
        let output = run(folder.path(), wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(errors(&output).contains("see --help"));
    }
    let output = run(folder.path(), &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    // The man page has the same commands and options, and no others.
    let words = |text: &str| -> std::collections::BTreeSet<String> {
        let commands = [
            "serve",
            "init-db",
            "check-config",
            "keys",
            "health",
            "status",
            "import directory",
            "import pools",
            "import database",
            "files show",
            "files delete",
            "files block ",
            "files unblock",
            "files blocked",
        ];
        let options = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        let options = options.filter(|word| word.starts_with("--") && word.len() > 2);
        let commands = commands
            .into_iter()
            .filter(|command| text.contains(command));
        commands.chain(options).map(str::to_string).collect()
    };
    let man = include_str!("../packaging/session-file-server.1").replace("\\-", "-");
    assert_eq!(words(&help).len(), 14 + 10, "{:?}", words(&help));
    assert_eq!(words(&man), words(&help));
}

/// The words of `--help` that a command line begins with: commands, what `import` takes over, and
/// long options.
fn commands_and_options() -> Vec<String> {
    let mut words = Vec::new();
    let help = session_file_server::commands::arguments::HELP_TEXT;
    for line in help.lines().filter(|line| line.starts_with("  ")) {
        // Continued descriptions are further to the right.
        let Some(line) = line.strip_prefix("  ").filter(|l| !l.starts_with(' ')) else {
            continue;
        };
        let line = line.split("  ").next().unwrap_or_default();
        let names = line.split([' ', ',']).filter(|word| {
            word.starts_with("--") || word.starts_with(|c: char| c.is_ascii_lowercase())
        });
        words.extend(names.map(str::to_string));
    }
    words.sort();
    words.dedup();
    words
}

#[test]
fn the_completions_have_every_command_and_option_of_help() {
    let words = commands_and_options();
    assert_eq!(words.len(), 8 + 8 + 10, "{words:?}");
    let bash = include_str!("../packaging/completions/bash/session-file-server");
    let fish = include_str!("../packaging/completions/fish/session-file-server.fish");
    let is_part = |c: char| !(c.is_ascii_alphanumeric() || c == '-');
    for word in words {
        assert!(bash.split(is_part).any(|found| found == word), "{word}");
        let option = word.strip_prefix("--").map(|name| format!("-l {name} "));
        let in_fish = match option {
            Some(option) => fish.contains(&option),
            None => fish.split(is_part).any(|found| found == word),
        };
        assert!(in_fish, "{word} is not in fish's completion");
    }
}

#[test]
fn health_exits_0_for_a_server_that_is_well_and_1_with_a_sentence_otherwise() {
    let database = Database::new();
    for listen in ["127.0.0.1:0", "unix:http.sock"] {
        let server = Server::with(&database, &format!("listen = \"{listen}\""));
        let ask = || {
            let folder = tempfile::tempdir().expect("a folder");
            let config = format!("listen = \"{}\"", server.address);
            std::fs::write(folder.path().join("config.toml"), config).expect("writable");
            run(folder.path(), &["health"])
        };
        let output = ask();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(output.stdout, b"the server is well\n");
        server.signal("KILL");
        eventually("nobody listens", || ask().status.code() == Some(1));
        assert!(errors(&ask()).contains("no server answers on "));
    }
}

#[test]
fn health_exits_1_if_the_database_is_away() {
    let server = Server::try_with("host=/nowhere dbname=x", "");
    let server = server.unwrap_or_else(|log| panic!("{log}"));
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!("listen = \"{}\"", server.address);
    std::fs::write(folder.path().join("config.toml"), config).expect("writable");
    let output = run(folder.path(), &["health"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("answers 503"), "{output:?}");
}

/// The texts of the manual pages.
const MAN_PAGES: [&str; 2] = [
    include_str!("../packaging/session-file-server.1"),
    include_str!("../packaging/session-file-server.toml.5"),
];

#[test]
fn the_man_pages_are_of_this_version() {
    let version = format!("\"session-file-server {}\"", env!("CARGO_PKG_VERSION"));
    for page in MAN_PAGES {
        let title = page.lines().next().expect("a title");
        assert!(title.contains(&version), "{title}");
    }
}

/// The settings of the sample, as `files.expiry = "3 weeks"`. A setting without a default has an
/// example there, after `# ` with a space: only its key is returned.
fn settings_of_sample() -> Vec<String> {
    let mut section = String::new();
    let mut settings = Vec::new();
    for line in include_str!("../config.sample.toml").lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = format!("{name}.");
        }
        let is_example = line.starts_with("# ");
        let setting = line.trim_start_matches(['#', ' ']);
        let Some((key, _)) = setting.split_once(" = ") else {
            continue;
        };
        if !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let shown = if is_example { key } else { setting };
        settings.push(format!("{section}{shown}"));
    }
    settings
}

/// The settings that session-file-server.toml(5) describes, written in the same way.
fn settings_of_man_page() -> Vec<String> {
    let mut section = String::new();
    let mut settings = Vec::new();
    for line in MAN_PAGES[1].lines() {
        let line = line.replace("\\(dq", "\u{1}").replace("\\-", "-");
        if let Some(heading) = line.strip_prefix(".SH SECTION [") {
            section = format!("{}.", heading.trim_end_matches(']'));
        }
        let Some(setting) = line.strip_prefix(".BR ") else {
            continue;
        };
        if let Some((key, default)) = setting.split_once(" \" = \" ") {
            let default = default.trim_matches('"').replace('\u{1}', "\"");
            settings.push(format!("{section}{key} = {default}"));
        } else if let Some(key) = setting.strip_suffix(" \" (no default)\"") {
            settings.push(format!("{section}{key}"));
        }
    }
    settings
}

#[test]
fn the_man_page_describes_every_setting_of_the_sample_with_its_default() {
    let sample = settings_of_sample();
    assert_eq!(settings_of_man_page(), sample);
    for known in [
        "files.max_total_size",
        "versions.refresh_interval = \"30 min\"",
    ] {
        assert!(sample.iter().any(|setting| setting == known), "{sample:?}");
    }
}
