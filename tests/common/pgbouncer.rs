//! The real PgBouncer in front of a cluster, if this machine has one.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use postgres::{Client, NoTls};

use super::cluster::{as_owner, is_root};
use super::{Database, eventually, signal, succeed};

/// A shell script that runs its arguments until the end of standard input, which also comes when the
/// test program is killed.
const KEEPER: &str = r#""$@" </dev/null & pid=$!; read -r end; kill -KILL $pid; wait $pid"#;

/// The user and the password file with which the fixture's clusters let everybody in.
const USERS: &str = "\"tester\" \"\"\n";

/// A pooler, which ends when it is dropped.
pub struct PgBouncer {
    folder: tempfile::TempDir,
    /// The folder of the cluster's socket.
    cluster: PathBuf,
    keeper: Child,
}

impl PgBouncer {
    /// The version that this machine has, as major and minor number. `None` without one, which is
    /// said.
    pub fn version() -> Option<(u32, u32)> {
        let Some(program) = program() else {
            println!("skipped: this machine has no pgbouncer");
            return None;
        };
        let output = Command::new(program).arg("--version").output();
        let text = String::from_utf8(output.expect("it runs").stdout).expect("UTF-8");
        let number = text.split_whitespace().nth(1).expect("a version");
        let mut parts = number
            .split('.')
            .map(|part| part.parse().expect("a number"));
        Some((parts.next().expect("major"), parts.next().expect("minor")))
    }

    /// Whether it keeps track of prepared statements. `None` without one, which is said.
    pub fn keeps_statements() -> Option<bool> {
        PgBouncer::version().map(|version| version >= (1, 21))
    }

    /// Starts one in front of the database's cluster, with these settings, each as `name = value`.
    pub fn start(database: &Database, settings: &[&str]) -> PgBouncer {
        let folder = tempfile::Builder::new().prefix("sfs-pb-").tempdir();
        let folder = folder.expect("a folder");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("settable");
        std::fs::write(folder.path().join("users"), USERS).expect("writable");
        write_settings(folder.path(), &database.host, settings);
        if is_root() {
            succeed(
                Command::new("chown")
                    .arg("-R")
                    .arg("postgres:")
                    .arg(folder.path()),
            );
        }
        let pooler = as_owner(&program().expect("a pgbouncer"));
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "sh"]).arg(pooler.get_program());
        keeper
            .args(pooler.get_args())
            .arg("--quiet")
            .arg(folder.path().join("ini"));
        keeper
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let keeper = keeper.spawn().expect("sh");
        let started = PgBouncer {
            folder,
            cluster: database.host.clone(),
            keeper,
        };
        eventually("PgBouncer accepts connections", || {
            Client::connect(&started.url(&database.name), NoTls).is_ok()
        });
        started
    }

    /// What `database.url` is for a database behind it.
    pub fn url(&self, name: &str) -> String {
        let folder = self.folder.path().display();
        format!("host={folder} port=6432 user=tester dbname={name}")
    }

    /// Gives it other settings while it runs.
    pub fn reload(&self, settings: &[&str]) {
        write_settings(self.folder.path(), &self.cluster, settings);
        let pid = std::fs::read_to_string(self.folder.path().join("pid")).expect("it runs");
        signal(pid.trim().parse().expect("a pid"), "HUP");
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn write_settings(folder: &Path, cluster: &Path, settings: &[&str]) {
    let (at, cluster) = (folder.display(), cluster.display());
    let (own, database): (Vec<&str>, Vec<&str>) = settings
        .iter()
        .partition(|setting| !setting.starts_with("connect_query"));
    let text = format!(
        "[databases]\n* = host={cluster} {}\n[pgbouncer]\nlisten_addr =\nlisten_port = 6432\n\
         unix_socket_dir = {at}\nauth_type = trust\nauth_file = {at}/users\nlogfile = {at}/log\n\
         pidfile = {at}/pid\n{}\n",
        database.join(" "),
        own.join("\n"),
    );
    std::fs::write(folder.join("ini"), text).expect("writable");
}

/// Its program: the first on the PATH, or Debian's.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.is_file())
}
