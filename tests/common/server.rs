//! The real binary, with a configuration of its own.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Connection, Database, Response, eventually, sandbox};

/// The path of the program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_session-file-server");

/// A folder with a `config.toml` for that database, and further settings.
pub fn config_folder(url: &str, settings: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    // No test needs the default port, which another program may have.
    let listen = if settings.contains("listen =") {
        ""
    } else {
        "listen = '127.0.0.1:0'"
    };
    let config = format!("database.url = \"{url}\"\n{listen}\n{settings}\n");
    std::fs::write(folder.path().join("config.toml"), config).expect("writable");
    folder
}

/// Runs a command of the binary to its end, in `folder`.
pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the binary runs")
}

/// Sends a signal to a process, which may have ended: by the shell's own kill, because not
/// every machine has a program for it.
pub fn signal(pid: u32, name: &str) {
    let kill = format!("kill -s {name} {pid} 2>/dev/null || true");
    let status = Command::new("sh").args(["-c", &kill]).status();
    assert!(status.expect("sh").success());
}

pub struct Server {
    child: Child,
    pub address: String,
    log: Arc<Mutex<String>>,
    pub folder: tempfile::TempDir,
}

impl Server {
    /// A server on `database` that listens on a free port.
    pub fn start(database: &Database) -> Server {
        Server::with(database, "")
    }

    /// The same with more settings, as lines of TOML with dotted keys.
    pub fn with(database: &Database, settings: &str) -> Server {
        let server = Server::try_with(&database.url, settings);
        server.unwrap_or_else(|log| panic!("the server did not start: {log}"))
    }

    /// The same, by the URL of a database. Returns what the server logged if it ends instead of
    /// listening.
    pub fn try_with(url: &str, settings: &str) -> Result<Server, String> {
        Server::launch(url, settings, &[])
    }

    /// The same with more environment.
    pub fn launch(
        url: &str,
        settings: &str,
        environment: &[(&str, &str)],
    ) -> Result<Server, String> {
        let mut command = Command::new(BINARY);
        command.envs(environment.iter().copied());
        Server::run(command, url, settings)
    }

    /// A server as systemd starts it: with what it says to its services, and up to two listening
    /// sockets that are passed in.
    pub fn under_systemd(
        database: &Database,
        listeners: impl IntoIterator<Item = OwnedFd>,
        environment: &[(&str, &str)],
    ) -> Result<Server, String> {
        let mut script = "export WATCHDOG_PID=$$; ".to_string();
        let mut command = Command::new("sh");
        let mut listeners = listeners.into_iter();
        if let Some(listener) = listeners.next() {
            script += "export LISTEN_FDS=1 LISTEN_PID=$$; exec 3<&0 </dev/null; ";
            command.stdin(listener);
        }
        if let Some(listener) = listeners.next() {
            script += "export LISTEN_FDS=2; exec 4>&1 >/dev/null; ";
            command.stdout(listener);
        }
        command.args(["-c", &(script + "exec \"$0\" \"$@\""), BINARY]);
        command.envs(environment.iter().copied());
        Server::run(command, &database.url, "")
    }

    /// A server that a script of bash starts in its own place: `"$0"` is the program, `"$@"` its
    /// arguments, the working directory has `config.toml`.
    pub fn by_script(database: &Database, script: &str) -> Server {
        let mut command = Command::new("bash");
        command.args(["-c", script, BINARY]);
        let server = Server::run(command, &database.url, "");
        server.unwrap_or_else(|log| panic!("the server did not start: {log}"))
    }

    /// A server that may have no more than `limit` descriptors.
    pub fn with_descriptors(database: &Database, limit: u32) -> Server {
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        let server = Server::within(database, "workers = 4", &["sh", "-c", &script]);
        server.unwrap_or_else(|log| panic!("the server did not start: {log}"))
    }

    /// A server that another program starts: `wrapper` is that program and its arguments, which the
    /// server's own command line follows.
    pub fn within(database: &Database, settings: &str, wrapper: &[&str]) -> Result<Server, String> {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(BINARY);
        Server::run(command, &database.url, settings)
    }

    /// A server to which the system refuses some calls, with that error.
    pub fn without_calls(
        database: &Database,
        settings: &str,
        calls: &[i64],
        error: i32,
    ) -> Result<Server, String> {
        let mut command = Command::new(BINARY);
        sandbox::refuse(&mut command, calls, error);
        Server::run(command, &database.url, settings)
    }

    fn run(mut command: Command, url: &str, settings: &str) -> Result<Server, String> {
        let mut all = settings.to_string();
        // No test asks the real GitHub, and what is read comes from the database, unless a test
        // wants it otherwise.
        for (key, value) in [
            ("listen", "'127.0.0.1:0'"),
            ("versions.enabled", "false"),
            ("files.cache_size", "0"),
        ] {
            if !settings.contains(&format!("{key} =")) {
                all += &format!("\n{key} = {value}");
            }
        }
        let folder = config_folder(url, &all);
        let mut child = command
            .arg("--allow-root")
            .current_dir(folder.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let log = Arc::new(Mutex::new(String::new()));
        let address = follow(child.stderr.take().expect("a pipe"), log.clone());
        match address.recv_timeout(Duration::from_secs(60)) {
            Ok(address) => Ok(Server {
                child,
                address,
                log,
                folder,
            }),
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(log.lock().expect("no panic").clone())
            }
        }
    }

    /// All that the server has logged until now.
    pub fn log(&self) -> String {
        self.log.lock().expect("no panic").clone()
    }

    /// Fails if a request was answered 500. A search for the number alone would find it in keys.
    pub fn assert_no_500(&self) {
        let log = self.log();
        assert!(!log.contains("answered 500"), "{log}");
    }

    /// Waits until the timer thread has deleted and counted what is there at the start. Later it
    /// does so at every `files.cleanup_interval`.
    pub fn wait_for_first_cleanup(&self) {
        eventually("the first statistics", || {
            self.log().contains("files stored")
        });
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether one of the server's threads has that name.
    pub fn has_thread(&self, name: &str) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        let mut names = tasks
            .flatten()
            .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.any(|found| found.trim() == name)
    }

    /// Open descriptors, but for those by which the server waits for others: of these each
    /// database connection has several, and a worker opens one when it first needs it.
    pub fn descriptors(&self) -> usize {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        let targets = entries.expect("it runs").flatten();
        let targets = targets.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        targets
            .filter(|target| !target.starts_with("anon_inode:[eventpoll]"))
            .filter(|target| !target.starts_with("anon_inode:[eventfd]"))
            .count()
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        let entries = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        entries.expect("it runs").count()
    }

    /// The machine's memory that the server has taken, bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kilobytes: u64 = kilobytes.expect("kB").trim().parse().expect("a number");
        kilobytes * 1024
    }

    pub fn connect(&self) -> Connection {
        Connection::open(&self.address)
    }

    pub fn get(&self, path: &str) -> Response {
        self.connect().request("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &[u8]) -> Response {
        self.connect().request("POST", path, &[], body)
    }

    pub fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.connect().request("POST", path, headers, body)
    }

    /// Uploads a file, which must succeed; its id.
    pub fn upload(&self, body: &[u8]) -> String {
        let answer = self.post("/file", body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["id"].as_str().expect("an id").to_string()
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits until the server has ended by itself.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let mut status = None;
        eventually("the server ends", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        (status.expect("ended"), self.log())
    }

    /// Waits until the server has ended after a signal.
    pub fn wait(&mut self) {
        self.child.wait().expect("a child");
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Gathers the log; tells the address when the server says where it listens.
fn follow(stderr: impl Read + Send + 'static, log: Arc<Mutex<String>>) -> Receiver<String> {
    let (found, address) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            {
                let mut log = log.lock().expect("no panic");
                log.push_str(&line);
                log.push('\n');
            }
            let after = line.split("listening on ").nth(1);
            if let Some((address, _)) = after.and_then(|rest| rest.split_once(", with")) {
                let _ = found.send(address.to_string());
            }
        }
    });
    address
}
