//! The web servers that the README recommends, each with Debian's own configuration and our
//! example, installed as the README says; all that they write lies in a folder of the test's.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::is_root;

/// The modules that the README and the example for apache enable, and what they need.
const APACHE_MODULES: [&str; 7] = [
    "headers.load",
    "proxy.load",
    "proxy.conf",
    "proxy_http.load",
    "slotmem_shm.load",
    "proxy_balancer.load",
    "lbmethod_byrequests.load",
];

/// A port that no program listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A program that passes requests on to our server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Web {
    Nginx,
    Apache,
    Haproxy,
}

/// What is particular to a test.
pub struct Setup<'a> {
    /// Where configuration, logs (in `log/`) and everything else lies; haproxy's chroot.
    pub folder: &'a Path,
    /// The names of the sockets of one or two of our servers, in that folder.
    pub sockets: &'a [&'a str],
    /// The port of our site.
    pub port: u16,
    /// The port of a site that isn't ours, and is logged as the distribution does it.
    pub other_port: u16,
    /// A last change of our example.
    pub edit: fn(String) -> String,
}

impl Setup<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn shown(&self) -> String {
        self.folder.display().to_string()
    }

    /// Our example, with each of `replacements`, which it must contain.
    fn example(&self, example: &str, replacements: &[(&str, String)]) -> String {
        let mut text = example.to_string();
        for (from, to) in replacements {
            assert!(text.contains(from), "the example has no {from:?}");
            text = text.replace(from, to);
        }
        (self.edit)(text)
    }
}

impl Web {
    /// Starts it, in the foreground.
    pub fn start(self, setup: &Setup) -> Child {
        for folder in ["etc", "log", "run", "tmp", "dev"] {
            fs::create_dir_all(setup.path(folder)).expect("a folder");
        }
        let mut command = match self {
            Web::Nginx => nginx(setup),
            Web::Apache => apache(setup),
            Web::Haproxy => haproxy(setup),
        };
        command.env("PATH", path_with_sbin());
        let log = fs::File::create(setup.path("log/stderr")).expect("writable");
        command.stdin(Stdio::null()).stderr(log);
        command.spawn().expect("it is installed")
    }
}

/// Copies a folder of /etc, and changes one of its files.
fn copy_etc(setup: &Setup, name: &str, file: &str, edit: impl Fn(String) -> String) {
    let copied = Command::new("cp")
        .args(["-a", &format!("/etc/{name}")])
        .arg(setup.path("etc"))
        .status();
    assert!(copied.expect("cp").success());
    let path = setup.path("etc").join(name).join(file);
    let text = fs::read_to_string(&path).expect("Debian's configuration");
    fs::write(&path, edit(text)).expect("writable");
}

fn nginx(setup: &Setup) -> Command {
    let (folder, port) = (setup.shown(), setup.port);
    copy_etc(setup, "nginx", "nginx.conf", |text| {
        let text = text
            .replace("/var/log/nginx", &format!("{folder}/log"))
            .replace("/etc/nginx", &format!("{folder}/etc/nginx"))
            .replace("/run/nginx.pid", &format!("{folder}/run/nginx.pid"));
        match is_root() {
            true => text,
            false => text.replace("user www-data;", ""),
        }
    });
    let sites = setup.path("etc/nginx");
    let others = format!("server {{ listen 127.0.0.1:{}; }}\n", setup.other_port);
    fs::remove_file(sites.join("sites-enabled/default")).expect("Debian's site");
    fs::write(sites.join("sites-enabled/other"), others).expect("writable");
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {folder}/tmp/{name};\n"))
        .concat();
    fs::write(sites.join("conf.d/paths.conf"), paths).expect("writable");

    let first = format!("unix:{folder}/{}", setup.sockets[0]);
    let mut replacements = vec![
        (
            "listen 80 default_server",
            format!("listen 127.0.0.1:{port} default_server"),
        ),
        ("    listen [::]:80 default_server;\n", String::new()),
        ("unix:/run/session-file-server/http.sock", first),
    ];
    if let Some(second) = setup.sockets.get(1) {
        let second = format!("server unix:{folder}/{second}");
        replacements.push(("#server 192.0.2.2:8000", second));
    }
    let example = include_str!("../../packaging/nginx/session-file-server");
    let site = setup.example(example, &replacements);
    fs::write(sites.join("sites-available/session-file-server"), site).expect("writable");
    let link = sites.join("sites-enabled/session-file-server");
    symlink("../sites-available/session-file-server", link).expect("a link");
    let mut nginx = Command::new("nginx");
    nginx.args([
        "-g",
        "daemon off;",
        "-e",
        &format!("{folder}/log/error.log"),
    ]);
    nginx.arg("-c").arg(sites.join("nginx.conf"));
    nginx
}

fn apache(setup: &Setup) -> Command {
    let (folder, port, other) = (setup.shown(), setup.port, setup.other_port);
    copy_etc(setup, "apache2", "ports.conf", |_| {
        format!("Listen 127.0.0.1:{port}\nListen 127.0.0.1:{other}\n")
    });
    let etc = setup.path("etc/apache2");
    apache_sites(setup, &etc);
    let mut apache = Command::new("apache2");
    apache
        .arg("-d")
        .arg(&etc)
        .arg("-f")
        .arg(etc.join("apache2.conf"));
    apache.args(["-D", "FOREGROUND"]);
    for (name, value) in [
        ("RUN_USER", "www-data".into()),
        ("RUN_GROUP", "www-data".into()),
        ("PID_FILE", format!("{folder}/run/apache2.pid")),
        ("RUN_DIR", format!("{folder}/run")),
        ("LOCK_DIR", format!("{folder}/run")),
        ("LOG_DIR", format!("{folder}/log")),
    ] {
        apache.env(format!("APACHE_{name}"), value);
    }
    apache
}

/// Our example as apache's site on one port, and Debian's default on the other.
fn apache_sites(setup: &Setup, etc: &Path) {
    let (folder, port, other) = (setup.shown(), setup.port, setup.other_port);
    for module in APACHE_MODULES {
        let link = etc.join("mods-enabled").join(module);
        // One test may have enabled it for the whole machine.
        let _ = fs::remove_file(&link);
        symlink(format!("../mods-available/{module}"), link).expect("a link");
    }
    let default = etc.join("sites-enabled/000-default.conf");
    let text = fs::read_to_string(&default).expect("Debian's site");
    fs::remove_file(&default).expect("ours");
    fs::write(
        &default,
        text.replace("*:80", &format!("127.0.0.1:{other}")),
    )
    .expect("writable");

    let socket = |name: &str| format!("unix:{folder}/{name}|");
    let first = socket(setup.sockets[0]);
    let mut replacements = vec![
        ("*:80", format!("127.0.0.1:{port}")),
        ("unix:/run/session-file-server/http.sock|", first),
    ];
    if let Some(second) = setup.sockets.get(1) {
        let second = format!("{}http://other", socket(second));
        replacements.extend([
            ("\n    ProxyPass / unix:", "\n    #ProxyPass / unix:".into()),
            ("#<Proxy", "<Proxy".into()),
            ("#    BalancerMember", "    BalancerMember".into()),
            ("#    ProxySet", "    ProxySet".into()),
            ("#</Proxy>", "</Proxy>".into()),
            ("#ProxyPass / balancer:", "ProxyPass / balancer:".into()),
            ("http://192.0.2.2:8000", second),
        ]);
    }
    let example = include_str!("../../packaging/apache/session-file-server.conf");
    let site = setup.example(example, &replacements);
    fs::write(etc.join("sites-enabled/session-file-server.conf"), site).expect("writable");
}

fn haproxy(setup: &Setup) -> Command {
    let (folder, port) = (setup.shown(), setup.port);
    // Only root can change its root and its user.
    let chroot = if is_root() { "" } else { &*folder };
    let socket = |name: &str| format!("unix@{chroot}/{name}");
    let second = setup.sockets.get(1);
    let mut replacements = vec![
        ("bind :80", format!("bind 127.0.0.1:{port}")),
        ("    bind [::]:80 v6only\n", String::new()),
        (
            "unix@/session-file-server/http.sock",
            socket(setup.sockets[0]),
        ),
    ];
    if let Some(second) = second {
        replacements.extend([
            ("\n    server first", "\n    #server alone".into()),
            ("#option httpchk", "option httpchk".into()),
            ("#server first", "server first".into()),
            (
                "#server second 192.0.2.2:8000",
                format!("server second {}", socket(second)),
            ),
        ]);
    }
    let example = include_str!("../../packaging/haproxy/session-file-server.cfg");
    let site = setup.example(example, &replacements);
    let other = setup.other_port;
    let others = format!(
        "\nfrontend other\n    bind 127.0.0.1:{other}\n    http-request return status 404\n"
    );
    copy_etc(setup, "haproxy", "haproxy.cfg", |text| {
        let mut text = text
            .replace("/var/lib/haproxy", &folder)
            .replace("/run/haproxy", &format!("{folder}/run"));
        if !is_root() {
            for line in ["chroot ", "user ", "group "] {
                text = text.replace(&format!("\t{line}"), &format!("\t#{line}"));
            }
            text = text.replace("/dev/log", &format!("{folder}/dev/log"));
        }
        text + &others + &site
    });
    let mut haproxy = Command::new("haproxy");
    haproxy
        .arg("-db")
        .arg("-f")
        .arg(setup.path("etc/haproxy/haproxy.cfg"));
    haproxy
}

/// Lets other users, as those of web servers, reach a folder and use a socket in it.
pub fn open_to_all(folder: &Path, socket: &str) {
    for (path, mode) in [(folder.to_path_buf(), 0o755), (folder.join(socket), 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    }
}

/// Not every user's path has the folder of servers.
fn path_with_sbin() -> String {
    format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default())
}
