//! TLS with the database, and passwords that don't stand in its URL.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

use common::{BINARY, Cluster, Database, Server, bytes, config_folder, succeed};

/// Certificates, and a database that lets nobody in without TLS.
struct Secured {
    folder: tempfile::TempDir,
    cluster: Cluster,
}

/// The rules in `pg_hba.conf`, which say how each user may connect.
const RULES: &str = "local all all trust\n\
     hostssl all certified all cert\n\
     hostssl all secret all scram-sha-256\n\
     hostssl all tester all trust\n";

impl Secured {
    fn start(server: &str) -> Secured {
        let folder = tempfile::tempdir().expect("a folder");
        let made = folder.path();
        authority(made, "ca");
        authority(made, "other-ca");
        certificate(
            made,
            "server",
            "/CN=server",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
        );
        certificate(
            made,
            "elsewhere",
            "/CN=elsewhere",
            "subjectAltName=DNS:db.example",
        );
        certificate(made, "client", "/CN=certified", "subjectAltName=DNS:client");
        own_authority(made, "own");
        let cluster = Cluster::on_tcp(|data| {
            for (from, to) in [
                (format!("{server}.pem"), "server.crt"),
                (format!("{server}.key"), "server.key"),
                ("ca.pem".into(), "root.crt"),
            ] {
                fs::copy(made.join(from), data.join(to)).expect("a copy");
            }
            let settings = "ssl = on\nssl_ca_file = 'root.crt'\n";
            fs::write(data.join("postgresql.auto.conf"), settings).expect("writable");
            fs::write(data.join("pg_hba.conf"), RULES).expect("writable");
        });
        let secured = Secured { folder, cluster };
        let database = secured.cluster.database();
        database.execute(
            "CREATE ROLE certified SUPERUSER LOGIN; \
             CREATE ROLE secret SUPERUSER LOGIN PASSWORD 'open sesame'",
        );
        secured
    }

    /// The cluster whose certificate is signed by the authority, for `localhost`.
    fn shared() -> &'static Secured {
        static SHARED: OnceLock<Secured> = OnceLock::new();
        SHARED.get_or_init(|| Secured::start("server"))
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// What `database.url` is, over TCP; `{name.pem}` in `more` stands for a file's path.
    fn url(&self, host: &str, database: &Database, more: &str) -> String {
        let (port, name) = (self.cluster.port(), &database.name);
        let mut url = format!("host={host} port={port} dbname={name} {more}");
        for file in [
            "ca.pem",
            "other-ca.pem",
            "own.pem",
            "client.pem",
            "client.key",
        ] {
            url = url.replace(&format!("{{{file}}}"), &self.file(file));
        }
        if url.contains("user=") {
            url
        } else {
            url + " user=tester"
        }
    }
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let fixed = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ];
    let mut openssl = Command::new("openssl");
    openssl
        .args(fixed)
        .args(["-nodes", "-days", "2"])
        .args(arguments);
    succeed(openssl.current_dir(folder));
}

fn authority(folder: &Path, name: &str) {
    let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
    let subject = format!("/CN={name}");
    openssl(
        folder,
        &["-subj", &subject, "-keyout", &key, "-out", &certificate],
    );
}

fn certificate(folder: &Path, name: &str, subject: &str, names: &str) {
    let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
    let no_authority = "basicConstraints=critical,CA:FALSE";
    let signer = ["-CA", "ca.pem", "-CAkey", "ca.key"];
    let extensions = ["-addext", no_authority, "-addext", names];
    let files = ["-subj", subject, "-keyout", &key, "-out", &certificate];
    openssl(folder, &[&signer[..], &extensions, &files].concat());
}

/// A certificate as PostgreSQL's manual makes one: it has signed itself, and may sign others.
fn own_authority(folder: &Path, name: &str) {
    let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
    let names = ["-addext", "subjectAltName=DNS:localhost"];
    let files = [
        "-subj",
        "/CN=localhost",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    openssl(folder, &[&names[..], &files].concat());
}

/// What `init-db` says of that URL.
fn init_db(url: &str, environment: &[(&str, &str)]) -> Output {
    let folder = config_folder(url, "");
    let mut command = Command::new(BINARY);
    command.arg("init-db").current_dir(folder.path());
    for unset in ["PGPASSWORD", "PGPASSFILE"] {
        command.env_remove(unset);
    }
    command
        .env("HOME", folder.path())
        .envs(environment.iter().copied());
    command.output().expect("the binary runs")
}

fn assert_outcome(url: &str, environment: &[(&str, &str)], refusal: Option<&str>) {
    let output = init_db(url, environment);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.success(), refusal.is_none(), "{url}: {said}");
    // Versions of rustls name an error as a word or describe it: NotValidForName, "not valid for
    // name".
    let plain = |text: &str| text.replace(' ', "").to_ascii_lowercase();
    let refusal = plain(refusal.unwrap_or_default());
    assert!(plain(&said).contains(&refusal), "{url}: {said}");
    assert!(!said.contains("sesame"), "{url}: {said}");
}

/// The host and the settings of a URL, and what is said if they are refused.
const ASKED: [(&str, &str, Option<&str>); 13] = [
    ("localhost", "", None),
    ("localhost", "sslmode=prefer", None),
    ("localhost", "sslmode=require", None),
    ("127.0.0.1", "sslmode=verify-ca sslrootcert={ca.pem}", None),
    (
        "localhost",
        "sslmode=verify-full sslrootcert={ca.pem}",
        None,
    ),
    (
        "127.0.0.1",
        "sslmode=verify-full sslrootcert={ca.pem}",
        None,
    ),
    (
        "localhost",
        "sslmode=require channel_binding=require",
        Some("channel binding"),
    ),
    ("localhost", "sslmode=disable", Some("no encryption")),
    (
        "localhost",
        "sslmode=verify-ca sslrootcert={other-ca.pem}",
        Some("UnknownIssuer"),
    ),
    (
        "localhost",
        "sslmode=require sslrootcert={other-ca.pem}",
        Some("UnknownIssuer"),
    ),
    ("localhost", "sslmode=verify-full", Some("UnknownIssuer")),
    (
        "localhost",
        "sslmode=verify-full sslrootcert=/none.pem",
        Some("/none.pem"),
    ),
    (
        "localhost",
        "sslmode=verify-full sslrootcert={client.key}",
        Some("no certificate"),
    ),
];

#[test]
fn what_the_url_asks_of_tls_is_done_or_refused() {
    let secured = Secured::shared();
    let database = secured.cluster.database();
    for (host, more, refusal) in ASKED {
        let url = secured.url(host, &database, more);
        assert_outcome(&url, &[], refusal);
    }
    let address = secured.url("x", &database, "sslmode=verify-full sslrootcert={ca.pem}");
    assert_outcome(&address.replace("host=x", "hostaddr=127.0.0.1"), &[], None);
}

#[test]
fn a_certificate_for_another_name_is_refused_where_the_name_matters() {
    let secured = Secured::start("elsewhere");
    let database = secured.cluster.database();
    for (more, refusal) in [
        ("sslmode=verify-ca sslrootcert={ca.pem}", None),
        (
            "sslmode=verify-full sslrootcert={ca.pem}",
            Some("not valid for name"),
        ),
    ] {
        let url = secured.url("localhost", &database, more);
        assert_outcome(&url, &[], refusal);
    }
}

#[test]
fn a_certificate_that_has_signed_itself_is_trusted_by_its_file_alone() {
    let secured = Secured::start("own");
    let database = secured.cluster.database();
    for (host, more, refusal) in [
        ("localhost", "sslmode=verify-ca sslrootcert={own.pem}", None),
        (
            "localhost",
            "sslmode=verify-full sslrootcert={own.pem}",
            None,
        ),
        (
            "127.0.0.1",
            "sslmode=verify-full sslrootcert={own.pem}",
            Some("not valid for name"),
        ),
        (
            "localhost",
            "sslmode=verify-full sslrootcert={ca.pem}",
            Some("invalid peer certificate"),
        ),
    ] {
        let url = secured.url(host, &database, more);
        assert_outcome(&url, &[], refusal);
    }
}

#[test]
fn a_database_without_tls_is_refused_where_tls_is_asked_for() {
    let cluster = Cluster::on_tcp(|_| {});
    let database = cluster.database();
    let url = |more| {
        let (port, name) = (cluster.port(), &database.name);
        format!("host=127.0.0.1 port={port} user=tester dbname={name} {more}")
    };
    assert_outcome(&url(""), &[], None);
    assert_outcome(&url("sslmode=require"), &[], Some("does not support TLS"));
    // Nobody can listen in on a Unix socket, so that TLS isn't required there, as in libpq.
    assert_outcome(&format!("{} sslmode=require", database.url), &[], None);
}

#[test]
fn a_client_certificate_lets_its_user_in() {
    let secured = Secured::shared();
    let database = secured.cluster.database();
    let own = "user=certified sslmode=verify-full sslrootcert={ca.pem}";
    let with = format!("{own} sslcert={{client.pem}} sslkey={{client.key}}");
    assert_outcome(&secured.url("localhost", &database, &with), &[], None);
    let without = secured.url("localhost", &database, own);
    assert_outcome(&without, &[], Some("certificate"));
}

#[test]
fn a_password_need_not_stand_in_the_url_and_is_bound_to_the_channel() {
    let secured = Secured::shared();
    let database = secured.cluster.database();
    let url = secured.url(
        "localhost",
        &database,
        "user=secret sslmode=verify-full sslrootcert={ca.pem} channel_binding=require",
    );
    assert_outcome(&url, &[("PGPASSWORD", "open sesame")], None);
    assert_outcome(&url, &[("PGPASSWORD", "sesame")], Some("password"));
    assert_outcome(&url, &[], Some("password"));
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join(".pgpass");
    let line = format!(
        "localhost:{}:*:secret:open sesame\n",
        secured.cluster.port()
    );
    fs::write(&file, line).expect("writable");
    let (home, shown) = (
        home.path().display().to_string(),
        file.display().to_string(),
    );
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("ours");
    let named = format!("{url} passfile={shown}");
    mode(0o600);
    assert_outcome(&url, &[("HOME", &home)], None);
    assert_outcome(&url, &[("PGPASSFILE", &shown)], None);
    assert_outcome(&named, &[], None);
    mode(0o640);
    assert_outcome(&url, &[("HOME", &home)], Some("chmod 600"));
    assert_outcome(&url, &[("PGPASSFILE", &shown)], Some("chmod 600"));
    assert_outcome(&named, &[], Some("chmod 600"));
    assert_outcome(&format!("{url} passfile=/none"), &[], Some("/none"));
}

#[test]
fn files_are_served_and_imported_over_tls() {
    let secured = Secured::shared();
    let (older, database) = (secured.cluster.database(), secured.cluster.database());
    let more = "sslmode=verify-full sslrootcert={ca.pem}";
    let url = secured.url("localhost", &older, more);
    let file = bytes(1, 3_000_000);
    let id = {
        let server = Server::try_with(&url, "workers = 2").expect("it starts");
        let id = server.upload(&file);
        assert_eq!(server.get(&format!("/file/{id}")).body, file);
        let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE datname = current_database() AND client_addr IS NOT NULL AND NOT ssl";
        let secured = plain.replace("AND NOT ssl", "AND ssl");
        assert_eq!(older.number(plain), 0);
        assert!(older.number(&secured) > 0);
        id
    };
    let folder = config_folder(&secured.url("localhost", &database, more), "");
    let import = common::run(folder.path(), &["import", "database", "--from", &url]);
    assert!(import.status.success(), "{import:?}");
    let stored = format!("SELECT length(data) FROM files WHERE id = '{id}'");
    assert_eq!(
        database
            .client()
            .query_one(&stored, &[])
            .expect("a row")
            .get::<_, i32>(0),
        3_000_000
    );
}
