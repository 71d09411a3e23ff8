//! A PostgreSQL cluster that lives in a temporary folder and ends with its test program,
//! even if that is killed.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use postgres::{Client, NoTls};

use super::{eventually, free_port, signal};

/// A shell script that runs its arguments until a line or the end of standard input comes. The line
/// `crash` ends them as a crash would, any other in order. The line `end`, or the end of standard
/// input, also removes the folder $0. The script prints "ended" at the end.
const KEEPER: &str = r#"
    "$@" >>"$0/log" 2>&1 </dev/null & pid=$!
    word=end; read -r word || word=end
    case $word in crash) kill -QUIT $pid 2>/dev/null ;; *) kill -INT $pid ;; esac
    wait $pid
    [ "$word" = end ] && rm -rf "$0"
    echo ended
"#;

pub struct Cluster {
    folder: PathBuf,
    keeper: Option<Child>,
    /// Whether commits wait for the disk, as they do outside of tests.
    durable: bool,
    /// Its port on this machine's own address, if it listens there.
    port: Option<u16>,
    /// Further settings, each as `name=value`.
    settings: Vec<String>,
}

impl Cluster {
    /// The cluster that all tests of this program share.
    pub fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Cluster::start)
    }

    /// A cluster for a test that stops it.
    pub fn start() -> Cluster {
        Cluster::make(false)
    }

    /// The same, but what it has committed survives a crash.
    pub fn durable() -> Cluster {
        Cluster::make(true)
    }

    /// The same, which listens on `127.0.0.1` as well, after `prepare` has changed the files in
    /// its folder.
    pub fn on_tcp(prepare: impl FnOnce(&Path)) -> Cluster {
        let mut cluster = Cluster::initialised();
        prepare(&cluster.data());
        if is_root() {
            succeed(
                Command::new("chown")
                    .args(["-R", "postgres:"])
                    .arg(&cluster.folder),
            );
        }
        cluster.port = Some(free_port());
        cluster.resume();
        cluster
    }

    /// A cluster with settings of its own, each as `name=value`.
    pub fn with(durable: bool, settings: &[&str]) -> Cluster {
        let mut cluster = Cluster::initialised();
        cluster.durable = durable;
        cluster.settings = settings.iter().map(ToString::to_string).collect();
        cluster.resume();
        cluster
    }

    fn make(durable: bool) -> Cluster {
        Cluster::with(durable, &[])
    }

    fn initialised() -> Cluster {
        let cluster = Cluster::in_new_folder();
        let mut initdb = as_owner(&tool("initdb"));
        initdb.args([
            "--no-sync",
            "--auth=trust",
            "--username=tester",
            "--encoding=UTF8",
        ]);
        initdb.args(["--locale=C", "--pgdata"]).arg(cluster.data());
        succeed(&mut initdb);
        cluster
    }

    /// A cluster that follows this one, read-only until it is promoted.
    pub fn standby(&self) -> Cluster {
        self.standby_with(false, &[])
    }

    /// The same with settings of its own, each as `name=value`.
    pub fn standby_with(&self, durable: bool, settings: &[&str]) -> Cluster {
        let mut cluster = Cluster::in_new_folder();
        cluster.durable = durable;
        cluster.settings = settings.iter().map(ToString::to_string).collect();
        cluster.copy(self);
        cluster.resume();
        cluster
    }

    /// Copies another cluster as a standby of it into this one's folder, which has no data.
    pub(super) fn copy(&self, primary: &Cluster) {
        let mut copy = as_owner(&tool("pg_basebackup"));
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]);
        copy.args(["--username=tester", "--host"])
            .arg(&primary.folder);
        copy.arg("--pgdata").arg(self.data());
        succeed(&mut copy);
    }

    /// Promotes a standby, so that it takes writes.
    pub fn promote(&self) {
        let mut promote = as_owner(&tool("pg_ctl"));
        promote.args(["promote", "--pgdata"]).arg(self.data());
        succeed(&mut promote);
    }

    fn in_new_folder() -> Cluster {
        let made = tempfile::Builder::new().prefix("sfs-pg-").tempdir();
        let made = made.expect("a folder");
        let folder = made.path().to_path_buf();
        // The keeper removes the folder, not the test program.
        std::mem::forget(made);
        if is_root() {
            succeed(Command::new("chown").arg("postgres:").arg(&folder));
        }
        Cluster {
            folder,
            keeper: None,
            durable: false,
            port: None,
            settings: Vec::new(),
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(5432)
    }

    /// The folder with the sockets, and with the data in a folder below.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Starts the server of this cluster.
    pub fn resume(&mut self) {
        self.resume_with(&[]);
    }

    /// The same with settings, each as `name=value`, that hold until it ends.
    pub fn resume_with(&mut self, settings: &[&str]) {
        let postgres = as_owner(&tool("postgres"));
        let sockets = format!("unix_socket_directories={}", self.folder.display());
        let (address, port) = (self.port.map_or("", |_| "127.0.0.1"), self.port());
        let (addresses, port) = (
            format!("listen_addresses={address}"),
            format!("port={port}"),
        );
        let mut keeper = Command::new("sh");
        keeper.arg("-c").arg(KEEPER).arg(&self.folder);
        keeper.arg(postgres.get_program()).args(postgres.get_args());
        keeper.arg("-D").arg(self.data());
        for setting in [
            sockets.as_str(),
            &addresses,
            &port,
            if self.durable {
                "fsync=on"
            } else {
                "fsync=off"
            },
            "max_connections=300",
            "shared_buffers=64MB",
        ] {
            keeper.args(["-c", setting]);
        }
        let own = self.settings.iter().map(String::as_str);
        for setting in own.chain(settings.iter().copied()) {
            keeper.args(["-c", setting]);
        }
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped());
        self.keeper = Some(keeper.spawn().expect("sh"));
        eventually("PostgreSQL accepts connections", || {
            Client::connect(&self.url("postgres"), NoTls).is_ok()
        });
    }

    /// Stops the server in order: open connections are told.
    pub fn stop(&mut self) {
        self.tell("stop");
    }

    /// Ends the server as a crash would: nothing is told or written.
    pub fn crash(&mut self) {
        self.tell("crash");
    }

    /// The server's first process, of which all others are children.
    pub fn pid(&self) -> u32 {
        let file = std::fs::read_to_string(self.folder.join("data/postmaster.pid"));
        let file = file.expect("it runs");
        let pid = file.lines().next().and_then(|pid| pid.parse().ok());
        pid.expect("a pid")
    }

    /// Sends a signal to the server and all of its processes.
    pub fn signal(&self, name: &str) {
        let pid = self.pid();
        for process in children(pid).into_iter().chain([pid]) {
            signal(process, name);
        }
    }

    /// What `database.url` is for a database of this cluster.
    pub fn url(&self, name: &str) -> String {
        let (folder, port) = (self.folder.display(), self.port());
        format!("host={folder} port={port} user=tester dbname={name}")
    }

    /// A new, empty database.
    pub fn database(&self) -> Database {
        self.database_with("")
    }

    /// A new, empty database, made with options of `CREATE DATABASE`.
    pub fn database_with(&self, options: &str) -> Database {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut client = Client::connect(&self.url("postgres"), NoTls).expect("PostgreSQL runs");
        client
            .batch_execute(&format!("CREATE DATABASE {name} {options}"))
            .expect("a new database");
        Database {
            url: self.url(&name),
            host: self.folder.clone(),
            name,
        }
    }

    fn tell(&mut self, word: &str) {
        let mut keeper = self.keeper.take().expect("it runs");
        let mut input = keeper.stdin.take().expect("a pipe");
        writeln!(input, "{word}").expect("the keeper listens");
        let output = keeper.stdout.take().expect("a pipe");
        BufReader::new(output)
            .read_line(&mut String::new())
            .expect("the keeper answers");
        keeper.wait().expect("the keeper ends");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.keeper.is_some() {
            // A test that fails may have left it stopped, or may fail because it has ended.
            if self.data().join("postmaster.pid").exists() {
                self.signal("CONT");
            }
            self.tell("end");
        } else {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// A database of one test.
pub struct Database {
    pub name: String,
    /// The folder of its cluster's socket.
    pub host: PathBuf,
    pub url: String,
}

impl Database {
    /// A new, empty one in the shared cluster.
    pub fn new() -> Database {
        Cluster::shared().database()
    }

    /// A connection of the test's own.
    pub fn client(&self) -> Client {
        Client::connect(&self.url, NoTls).expect("PostgreSQL runs")
    }

    /// Locks the table of files for everybody else, until the lock is released or dropped.
    pub fn lock_files(&self) -> Lock {
        let mut client = self.client();
        let locked = client.batch_execute("BEGIN; LOCK TABLE files");
        locked.expect("a lock");
        Lock(client)
    }

    /// How many connections wait for a lock.
    pub fn waiting_for_locks(&self) -> i64 {
        self.number(
            "SELECT count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
    }

    /// The one number that `sql` selects.
    pub fn number(&self, sql: &str) -> i64 {
        self.client().query_one(sql, &[]).expect("a row").get(0)
    }

    pub fn execute(&self, sql: &str) {
        self.client().batch_execute(sql).expect("valid SQL");
    }
}

/// A lock on the table of files.
pub struct Lock(Client);

impl Lock {
    pub fn release(mut self) {
        self.0.batch_execute("ROLLBACK").expect("unlocked");
    }
}

/// A program of PostgreSQL's, wherever Debian keeps it; the newest if there are several.
pub fn tool(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let newest = versions
        .filter_map(|version| version.file_name().to_str()?.parse::<u32>().ok())
        .max();
    match newest {
        Some(version) => format!("/usr/lib/postgresql/{version}/bin/{name}").into(),
        None => name.into(),
    }
}

/// A command that runs `program`, as the user `postgres` if we are root, because PostgreSQL refuses
/// root.
pub(super) fn as_owner(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "--",
        ])
        .arg(program);
    command.current_dir("/");
    command
}

fn children(parent: u32) -> Vec<u32> {
    let expected = format!("PPid:\t{parent}");
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        status.is_ok_and(|status| status.lines().any(|line| line == expected))
    };
    pids.filter(is_child).collect()
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").expect("Linux").uid() == 0
}

/// Runs a command that must succeed.
pub fn succeed(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}
