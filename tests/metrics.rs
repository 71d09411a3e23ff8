//! The metrics: what Prometheus gets, and what it costs to ask for them.

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::raw::{LIE, make_restart};
use common::{
    Cluster, Connection, Database, GitHub, Onion, Script, Server, bytes, config_folder, eventually,
    free_port, run,
};
use serde_json::{Value, json};
use session_file_server::exposition::{Sample, parse};

/// Settings of a server that serves its metrics on a free port.
const SETTINGS: &str = "listen = '127.0.0.1:0'\nmetrics.listen = '127.0.0.1:0'";

/// Where a server says that it serves its metrics.
fn metrics_address(server: &Server) -> String {
    let log = server.log();
    let after = log.split("metrics are served on ").nth(1);
    let address = after.and_then(|rest| rest.lines().next());
    address.unwrap_or_else(|| panic!("nowhere: {log}")).into()
}

fn scrape(server: &Server) -> String {
    let answer = Connection::open(&metrics_address(server)).request("GET", "/metrics", &[], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    let content_type = answer.header("Content-Type");
    assert_eq!(
        content_type,
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    assert_eq!(answer.header("Connection"), Some("close"));
    String::from_utf8(answer.body).expect("UTF-8")
}

/// The value of a metric with those labels, each `name=value`.
#[track_caller]
fn value(text: &str, name: &str, labels: &[&str]) -> f64 {
    let has = |sample: &Sample| {
        labels.iter().all(|label| {
            let (name, value) = label.split_once('=').expect("name=value");
            sample.label(name) == value
        })
    };
    let samples = parse(text).into_iter();
    let found: Vec<Sample> = samples.filter(|s| s.name == name && has(s)).collect();
    assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?} in {text}");
    found[0].value
}

fn requests(text: &str, endpoint: &str, way: &str, status: u16) -> f64 {
    let labels = [
        &format!("endpoint={endpoint}"),
        &format!("way={way}"),
        &format!("status={status}"),
    ];
    value(text, "requests_total", &labels.map(String::as_str))
}

/// What is wrong with a text as Prometheus's text format and by its conventions.
fn mistakes(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut types = BTreeMap::new();
    let mut samples = std::collections::BTreeSet::new();
    let mut family = String::new();
    for line in text.lines() {
        let mut complain = |what: &str| found.push(format!("{what}: {line}"));
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap_or((help, ""));
            family = name.to_string();
            if help.is_empty() || types.contains_key(name) {
                complain("no help, or a family twice");
            }
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap_or((kind, ""));
            types.insert(name.to_string(), kind.to_string());
            if name != family || (kind == "counter") != name.ends_with("_total") {
                complain("a type of another family, or a name without _total");
            }
        } else if !is_sample_of(line, &family, types.get(&family).map_or("", String::as_str)) {
            complain("no sample of its family");
        } else if !samples.insert(line.rsplit_once(' ').map(|(series, _)| series)) {
            complain("a series twice");
        }
    }
    if !text.ends_with('\n') || types.is_empty() {
        found.push("no families, or no line end".into());
    }
    found
}

/// Whether a line is a sample of a family of that type.
fn is_sample_of(line: &str, family: &str, kind: &str) -> bool {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let name = line.split(['{', ' ']).next().unwrap_or_default();
    let suffix = name.strip_prefix(family).unwrap_or("?");
    let fits = match kind {
        "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
        _ => suffix.is_empty(),
    };
    let samples = parse(line);
    fits && samples.len() == 1
        && samples[0].labels.iter().all(|(label, _)| is_name(label))
        && (samples[0].value >= 0.0 || kind == "gauge")
        && (samples[0].label("le").is_empty() != (suffix == "_bucket"))
}

/// Runs a program with a text as its input; `None` if the machine doesn't have it.
fn fed(program: &str, arguments: &[&str], input: &str) -> Option<(bool, String)> {
    let started = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = started.ok()?;
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("a child");
    let said = [output.stdout, output.stderr].concat();
    Some((
        output.status.success(),
        String::from_utf8_lossy(&said).into(),
    ))
}

#[test]
fn the_text_is_what_prometheus_reads_and_has_every_family() {
    let github = GitHub::start();
    let settings = github.settings(&format!(
        "{SETTINGS}\nfiles.max_total_size = 1000000\ndatabase.read_url = 'host=/nowhere'"
    ));
    let server = Server::with(&Database::new(), &settings);
    server.upload(b"a file");
    eventually("the timer thread has counted and asked", || {
        let text = scrape(&server);
        text.contains("\nsession_file_server_stored_files ")
            && text.contains("github_last_check_timestamp_seconds{")
    });
    let text = scrape(&server);
    assert_eq!(mistakes(&text), [""; 0], "{text}");
    match fed("promtool", &["check", "metrics"], &text) {
        Some((fine, said)) => assert!(fine && said.is_empty(), "{said}"),
        None => println!("promtool is not installed"),
    }
    for family in FAMILIES {
        let begin = format!("# HELP {family} ");
        assert!(text.contains(&begin), "{family} is missing: {text}");
    }
    let families = text
        .lines()
        .filter(|line| line.starts_with("# HELP "))
        .count();
    assert_eq!(
        families,
        FAMILIES.len(),
        "the list here knows all of them: {text}"
    );
    assert!(parse(&text).len() < 600, "too many series");
}

/// Every family, with its whole name.
const FAMILIES: &[&str] = &[
    "session_file_server_build_info",
    "process_start_time_seconds",
    "session_file_server_restarts_total",
    "session_file_server_requests_total",
    "session_file_server_request_duration_seconds",
    "session_file_server_received_bytes_total",
    "session_file_server_sent_bytes_total",
    "session_file_server_file_cache_requests_total",
    "session_file_server_uploaded_files_total",
    "session_file_server_expired_files_total",
    "session_file_server_stored_files",
    "session_file_server_stored_bytes",
    "session_file_server_stored_count_timestamp_seconds",
    "session_file_server_stored_limit_bytes",
    "session_file_server_file_cache_bytes",
    "session_file_server_file_cache_limit_bytes",
    "session_file_server_database_up",
    "session_file_server_database_outages_total",
    "session_file_server_replica_used",
    "session_file_server_replica_reads_total",
    "session_file_server_github_last_check_timestamp_seconds",
    "session_file_server_queue_length",
    "session_file_server_queue_limit",
    "session_file_server_workers",
    "session_file_server_workers_busy",
    "session_file_server_requests_in_flight",
    "session_file_server_connections",
    "session_file_server_connections_limit",
    "session_file_server_refusals_total",
    "session_file_server_connections_closed_total",
    "session_file_server_bytes_in_flight",
    "session_file_server_bytes_in_flight_limit",
    "process_resident_memory_bytes",
];

/// The check above would pass if it found nothing.
#[test]
fn a_text_that_is_wrong_is_found() {
    for wrong in [
        "",
        "a 1\n",
        "# HELP a A.\n# TYPE a gauge\na 1",
        "# HELP a A.\n# TYPE a counter\na 1\n",
        "# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n",
        "# HELP a A.\n# TYPE a gauge\nb 1\n",
        "# HELP a A.\n# TYPE a gauge\na x\n",
        "# HELP a A.\n# TYPE a gauge\na{B=\"c\"} 1\n",
        "# HELP a A.\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a A.\n# TYPE a histogram\na 1\n",
        "# HELP a A.\n# TYPE a histogram\na_bucket 1\n",
        "# HELP a A.\n# TYPE b gauge\nb 1\n",
    ] {
        assert!(!mistakes(wrong).is_empty(), "{wrong}");
    }
    assert_eq!(
        mistakes("# HELP a A.\n# TYPE a gauge\na{b=\"c\"} 1\n"),
        [""; 0]
    );
}

/// Sends requests of all kinds, one of them an upload, whose id it returns.
fn send_requests(onion: &Onion) -> String {
    let server = &onion.server;
    let id = server.upload(b"a file");
    let path = format!("/file/{id}");
    assert_eq!(server.get(&path).body, b"a file");
    for _ in 0..2 {
        assert_eq!(onion.v4_request("GET", &path, None).status, 200);
    }
    for unknown in ["/file/none", "/nothing"] {
        assert_eq!(onion.v4_request("GET", unknown, None).status, 404);
    }
    onion.v3(json!({ "method": "GET", "endpoint": "health" }));
    server.get("/file/none").assert_error(404);
    server.get("/nowhere").assert_error(404);
    server.post("/file", &bytes(1, 2001)).assert_error(413);
    server.post("/oxen/v4/lsrpc", b"nonsense").assert_error(400);
    let answer = server.connect().request("HEAD", &path, &[], b"");
    assert_eq!(answer.status, 200);
    id
}

#[test]
fn requests_are_counted_where_they_belong() {
    let settings = "files.cache_size = 1000000\nfiles.max_size = 2000";
    let onion = Onion::start(&format!("{SETTINGS}\n{settings}"));
    let id = send_requests(&onion);
    let text = scrape(&onion.server);
    for (endpoint, way, status, count) in [
        ("POST /file", "direct", 200, 1),
        ("POST /file", "direct", 413, 1),
        ("GET /file/{id}", "direct", 200, 2),
        ("GET /file/{id}", "direct", 404, 1),
        ("GET /file/{id}", "onion", 200, 2),
        ("GET /file/{id}", "onion", 404, 1),
        ("GET /health", "onion", 200, 1),
        ("GET /health", "direct", 200, 0),
        ("other", "direct", 404, 1),
        ("other", "onion", 404, 1),
        ("other", "onion", 400, 1),
    ] {
        let found = requests(&text, endpoint, way, status);
        assert_eq!(found, f64::from(count), "{endpoint} {way} {status}: {text}");
    }
    for (name, label, count) in [
        (
            "request_duration_seconds_count",
            "endpoint=GET /file/{id}",
            6.0,
        ),
        ("file_cache_requests_total", "result=hit", 3.0),
        ("file_cache_requests_total", "result=miss", 2.0),
        ("refusals_total", "cause=too_large", 1.0),
        ("refusals_total", "cause=malformed", 0.0),
    ] {
        assert_eq!(
            value(&text, name, &[label]),
            count,
            "{name} {label}: {text}"
        );
    }
    assert_eq!(value(&text, "uploaded_files_total", &[]), 1.0);
    assert!(value(&text, "received_bytes_total", &[]) > 6.0);
    assert!(value(&text, "sent_bytes_total", &[]) > 18.0);
    assert!(value(&text, "file_cache_bytes", &[]) > 6.0);
    // No line tells who asked, or for what.
    for secret in [id.as_str(), "127.0.0.1", "nowhere", "none"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}

#[test]
fn refusals_and_connections_are_counted_by_cause() {
    let settings = format!("{SETTINGS}\nfiles.cleanup_interval = '1 s'");
    let database = Database::new();
    let server = Server::with(&database, &settings);
    let mut idle = server.connect();
    assert_eq!(idle.request("GET", "/health", &[], b"").status, 200);
    server
        .connect()
        .request("POST", "/file", &[("Transfer-Encoding", "x")], b"");
    let mut slow = TcpStream::connect(&server.address).expect("it listens");
    slow.write_all(b"POST /file HTTP/1.1\r\nHost: x\r\nContent-Length: 3000\r\n\r\n")
        .expect("open");
    server.post_with("/file", &[("X-FS-TTL", "1")], b"short-lived");
    eventually("the connections are seen", || {
        let text = scrape(&server);
        let phase = |phase: &str| value(&text, "connections", &[&format!("phase={phase}")]);
        phase("body") == 1.0
            && phase("next_head") >= 1.0
            && phase("unix") == 0.0
            && value(&text, "requests_in_flight", &[]) == 1.0
    });
    eventually("the slow client is disconnected, the file expires", || {
        let text = scrape(&server);
        value(&text, "connections_closed_total", &["cause=slow_body"]) == 1.0
            && value(&text, "refusals_total", &["cause=broken_body"]) == 1.0
            && value(&text, "expired_files_total", &[]) == 1.0
    });
    let text = scrape(&server);
    assert_eq!(value(&text, "refusals_total", &["cause=malformed"]), 1.0);
    assert_eq!(requests(&text, "POST /file", "direct", 400), 2.0);
}

#[test]
fn an_outage_of_the_database_is_seen() {
    let mut cluster = Cluster::start();
    let database = cluster.database();
    let server = Server::with(
        &database,
        &format!("{SETTINGS}\nfiles.cleanup_interval = '1 s'"),
    );
    let text = scrape(&server);
    assert_eq!(value(&text, "database_up", &[]), 1.0);
    assert_eq!(value(&text, "database_outages_total", &[]), 0.0);
    cluster.stop();
    eventually("it is away", || {
        value(&scrape(&server), "database_up", &[]) == 0.0
    });
    server.get("/file/none").assert_error(503);
    let text = scrape(&server);
    assert_eq!(value(&text, "database_outages_total", &[]), 1.0);
    assert_eq!(requests(&text, "GET /file/{id}", "direct", 503), 1.0);
}

#[test]
fn a_check_of_github_has_its_time() {
    let github = GitHub::start();
    let tag = json!([{ "tag_name": "v1.2.3", "name": "x", "assets": [] }]);
    github.set("o/ios", Script::releases(&tag, "e"));
    let server = Server::with(&Database::new(), &github.settings(SETTINGS));
    let of = |text: &str, platform| {
        let labels = [&*format!("platform={platform}")];
        value(text, "github_last_check_timestamp_seconds", &labels)
    };
    eventually("a check is known", || {
        let text = scrape(&server);
        text.contains("github_last") && of(&text, "ios") > 1.7e9
    });
    assert_eq!(
        of(&scrape(&server), "android"),
        0.0,
        "GitHub has no answer for it"
    );
}

#[test]
fn status_tells_what_the_running_server_does() {
    let settings = format!(
        "listen = '127.0.0.1:0'\nmetrics.listen = '127.0.0.1:{}'",
        free_port()
    );
    let server = Server::with(&Database::new(), &settings);
    server.upload(b"a file");
    server.get("/file/none").assert_error(404);
    server.get("/file/none").assert_error(404);
    let status = |arguments: &[&str]| {
        let output = run(server.folder.path(), arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let shown = status(&["status"]);
    for line in [
        &format!("\nrunning      version {}, ", env!("CARGO_PKG_VERSION")),
        "\nrequests     GET /file/{id}: 2 direct, 0 onion, 2 with 4xx; half within ",
        "\nrequests     POST /file: 1 direct, 0 onion; half within ",
        "\nworkers      0 of 8 busy, 0 requests waiting of at most 512\n",
        "\nrefused      none\n",
        "\nreachable    the database is up, after 0 outages\n",
    ] {
        assert!(shown.contains(line), "{line:?} is not in {shown}");
    }
    let told: Value = serde_json::from_str(&status(&["status", "--json"])).expect("JSON");
    let running = &told["running"];
    assert_eq!(running["requests"][0]["endpoint"], "GET /file/{id}");
    assert_eq!(running["requests"][0]["status_4xx"], 2);
    assert!(running["requests"][0]["p99_seconds"].as_f64() > Some(0.0));
    assert_eq!(running["workers"], 8);
    assert_eq!(running["database_up"], true);
    server.signal("KILL");
    eventually("status tells that it is gone", || {
        let shown = status(&["status"]);
        shown.starts_with("files ") && shown.contains("\nrunning      no answer from 127.0.0.1:")
    });
    let told: Value = serde_json::from_str(&status(&["status", "--json"])).expect("JSON");
    assert_eq!(told["running"], Value::Null);
}

#[test]
fn other_paths_and_methods_get_nothing_and_the_public_port_has_no_metrics() {
    let server = Server::with(&Database::new(), SETTINGS);
    let address = metrics_address(&server);
    let ask = |method, path| Connection::open(&address).request(method, path, &[], b"");
    assert_eq!(ask("GET", "/").status, 404);
    assert_eq!(ask("GET", "/file/none").status, 404);
    let answer = ask("POST", "/metrics");
    assert_eq!(answer.status, 405);
    assert_eq!(answer.header("Allow"), Some("GET, HEAD"));
    let answer = ask("HEAD", "/metrics");
    assert!(answer.status == 200 && answer.body.is_empty());
    server.get("/metrics").assert_error(404);
    let mut raw = TcpStream::connect(&address).expect("it listens");
    let head = vec![b'x'; 100_000];
    let _ = raw.write_all(&head);
    let mut answer = Vec::new();
    let _ = raw.read_to_end(&mut answer);
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "),
        "{answer:?}"
    );
}

#[test]
fn slow_clients_delay_no_scrape_and_no_request() {
    let server = Server::with(&Database::new(), SETTINGS);
    let address = metrics_address(&server);
    let slow: Vec<TcpStream> = (0..40)
        .map(|number| {
            let mut stream = TcpStream::connect(&address).expect("it listens");
            let begun = &b"GET /metrics HTTP/1.1\r\n"[..number % 23];
            stream.write_all(begun).expect("open");
            stream
        })
        .collect();
    let began = Instant::now();
    let text = scrape(&server);
    assert_eq!(server.get("/health").status, 200);
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(value(&text, "requests_in_flight", &[]), 0.0);
    for mut stream in slow {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "it is closed");
    }
}

#[test]
fn metrics_are_served_again_after_the_server_has_restarted_itself() {
    let port = free_port();
    let settings = format!("listen = '127.0.0.1:0'\nmetrics.listen = '127.0.0.1:{port}'");
    let server = Server::with(&Database::new(), &settings);
    assert_eq!(value(&scrape(&server), "restarts_total", &[]), 0.0);
    make_restart(&server, LIE);
    let text = || {
        let connected = TcpStream::connect(("127.0.0.1", port));
        let mut stream = connected.ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    eventually("it serves them again", || {
        text().is_some_and(|text| text.contains("restarts_total 1\n"))
    });
}

#[test]
fn metrics_on_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("metrics.sock");
    let listen = format!(
        "listen = '127.0.0.1:0'\nmetrics.listen = 'unix:{}'",
        path.display()
    );
    let settings = format!("{listen}\nsocket_mode = '600'");
    let database = Database::new();
    let mut killed = Server::with(&database, &settings);
    killed.kill();
    assert!(path.exists(), "a killed server leaves its socket's file");
    let server = Server::with(&database, &settings);
    let mode = path.metadata().expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).expect("it listens");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\n\r\n")
        .expect("open");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    assert!(text.contains("session_file_server_workers 8\n"), "{text}");
    // While it runs, no other server takes the socket.
    let told = Server::try_with(&database.url, &settings)
        .err()
        .expect("it must not start");
    let expected =
        "a running server has that socket; stop it, or set another path in metrics.listen";
    assert!(told.contains(expected), "{told}");
    server.signal("TERM");
    assert_eq!(server.ended().0.code(), Some(0));
    assert!(!path.exists(), "a stopped server leaves nothing");
}

#[test]
fn a_port_that_is_taken_and_the_public_one_are_refused_with_a_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let database = Database::new();
    let settings = format!("listen = '127.0.0.1:0'\nmetrics.listen = '{address}'");
    let told = Server::try_with(&database.url, &settings)
        .err()
        .expect("it must not start");
    let expected = format!(
        "cannot listen on {address}: another program has that port; stop it, or set another port \
         in metrics.listen"
    );
    assert!(told.contains(&expected), "{told}");
    let same = "listen = '127.0.0.1:8000'\nmetrics.listen = 'localhost:8000'";
    let folder = config_folder(&database.url, same);
    let output = run(folder.path(), &["check-config"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && told.contains("is where clients connect"),
        "{told}"
    );
}

#[test]
fn the_rules_and_the_example_pass_promtool() {
    let monitoring = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/monitoring");
    let runs = |arguments: &[&str]| {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(&monitoring)
            .output();
        let Ok(output) = output else {
            return println!("promtool is not installed");
        };
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    runs(&["check", "rules", "alerts.yml"]);
    runs(&["test", "rules", "alerts-test.yml"]);
    runs(&["check", "config", "--syntax-only", "prometheus.yml"]);
}

#[test]
fn the_dashboard_and_the_rules_name_metrics_that_there_are() {
    let monitoring = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/monitoring");
    for file in ["dashboard.json", "alerts.yml"] {
        let text = std::fs::read_to_string(monitoring.join(file)).expect(file);
        let mut seen = 0;
        for rest in text.split("session_file_server_").skip(1) {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let name = format!("session_file_server_{}", &rest[..end.unwrap_or(rest.len())]);
            let family = name.trim_end_matches("_bucket").trim_end_matches("_count");
            assert!(FAMILIES.contains(&family), "{file}: there is no {name}");
            seen += 1;
        }
        assert!(seen > 5, "{file}: {seen}");
    }
}
