//! A small machine: everything but the clients in one core and 512 MB, which a control group
//! bounds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::common::{Cluster, Database, Server, bytes};
use crate::door::Door;
use crate::table::DEFAULT_CACHE;
use crate::work::{Transport, id_of, open_loop, stamp};
use crate::{mix, process, web};

/// The memory of the machine, bytes.
const MACHINE: u64 = 512 * 1024 * 1024;
/// The settings of PostgreSQL that the package has for such a machine.
const SMALL_POSTGRESQL: &str = include_str!("../../packaging/postgresql/session-file-server.conf");
/// PostgreSQL's defaults, where the cluster of the tests has others.
const DEFAULT_POSTGRESQL: &str = "shared_buffers = 128MB\nmax_connections = 100\n";
/// The memory of a server on a large machine, bytes.
const LARGE_MEMORY: &str = "memory = 242_500_000";
/// The `OOMScoreAdjust=` of the unit.
const OOM_SCORE: &str = "500";
/// The size of a large file, bytes.
const LARGE: usize = 10_000_000;
/// How long a refused client waits before it asks again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the memory is looked at.
const SAMPLING: Duration = Duration::from_millis(100);

/// What is measured: its name, PostgreSQL's settings, and the server's.
const SETUPS: [(&str, &str, &str); 3] = [
    ("as the package has it", SMALL_POSTGRESQL, ""),
    ("PostgreSQL's defaults", DEFAULT_POSTGRESQL, ""),
    (
        "and `memory` of a large machine",
        DEFAULT_POSTGRESQL,
        LARGE_MEMORY,
    ),
];

/// Measures all, and returns a table.
///
/// # Errors
/// If control groups can't be made: who measures must be root.
pub fn run(seconds: f64) -> io::Result<String> {
    let mut table = "| setup | work | server, MB | PostgreSQL, MB | nginx, MB | all, MB | kills | \
                     answered | 503 | failed |\n| --- | --- | ---: | ---: | ---: | ---: | ---: | \
                     ---: | ---: | ---: |\n"
        .to_string();
    for (name, postgresql, settings) in SETUPS {
        for work in [
            Work::Idle,
            Work::Mix,
            Work::LargeFiles(16),
            Work::LargeFiles(40),
        ] {
            let row = measure(postgresql, settings, work, seconds)?;
            let row = format!("| {name} | {} | {row} |\n", work.name());
            eprint!("{row}");
            table += &row;
        }
    }
    Ok(table)
}

/// What the clients do.
#[derive(Clone, Copy)]
enum Work {
    Idle,
    /// 20 requests in a second of mixed sizes.
    Mix,
    /// So many clients, each of which uploads a large file and fetches it, again and again.
    LargeFiles(usize),
}

impl Work {
    fn name(self) -> String {
        match self {
            Work::Idle => "idle".into(),
            Work::Mix => "20 requests in a second, mixed".into(),
            Work::LargeFiles(clients) => format!("{clients} clients with 10 MB each"),
        }
    }
}

/// The machine: a control group, and one below it for each program.
struct Machine {
    group: PathBuf,
    /// Whether control groups have version 2.
    is_v2: bool,
    /// The groups below.
    programs: [PathBuf; 3],
}

impl Machine {
    fn new() -> io::Result<Machine> {
        let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let root = if is_v2 {
            "/sys/fs/cgroup"
        } else {
            "/sys/fs/cgroup/memory"
        };
        let group = Path::new(root).join(format!("small-machine-{}", std::process::id()));
        let programs = ["server", "postgresql", "nginx"].map(|name| group.join(name));
        let machine = Machine {
            group,
            is_v2,
            programs,
        };
        fs::create_dir(&machine.group)?;
        if is_v2 {
            fs::write(machine.group.join("cgroup.subtree_control"), "+memory")?;
            fs::write(machine.group.join("memory.swap.max"), "0")?;
        }
        machine.limit(&machine.group, MACHINE)?;
        for program in &machine.programs {
            fs::create_dir(program)?;
        }
        // The unit's MemoryMax=50%.
        machine.limit(&machine.programs[0], MACHINE / 2)?;
        Ok(machine)
    }

    fn limit(&self, group: &Path, bytes: u64) -> io::Result<()> {
        let name = if self.is_v2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        fs::write(group.join(name), bytes.to_string())
    }

    /// Runs `start` in one of the groups and on one core, which are inherited by what it starts.
    fn within<T>(&self, program: usize, start: impl FnOnce() -> T) -> io::Result<T> {
        let me = std::process::id().to_string();
        let before = fs::read_to_string("/proc/self/cgroup")?;
        let controller = if self.is_v2 { "0::" } else { ":memory:" };
        let before = before
            .lines()
            .find_map(|line| Some(line.split_once(controller)?.1.to_string()));
        let before = before.ok_or_else(|| io::Error::other("no control group"))?;
        fs::write(self.programs[program].join("cgroup.procs"), &me)?;
        run_on("0")?;
        let started = start();
        run_on("0-1023")?;
        let root = self.group.parent().unwrap_or(Path::new("/"));
        let before = root.join(before.trim_start_matches('/'));
        fs::write(before.join("cgroup.procs"), &me)?;
        Ok(started)
    }

    /// Proportional memory of the programs, bytes.
    fn memory(&self) -> [u64; 3] {
        self.programs.each_ref().map(|program| {
            let pids = fs::read_to_string(program.join("cgroup.procs")).unwrap_or_default();
            pids.lines().map(proportional).sum()
        })
    }

    /// The number of processes that were ended for want of memory.
    fn kills(&self) -> u64 {
        let name = if self.is_v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let groups = self.programs.iter().chain([&self.group]);
        let kills = groups.map(|group| {
            let text = fs::read_to_string(group.join(name)).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            line.and_then(|line| line.parse().ok()).unwrap_or(0)
        });
        // In version 2 a group counts those of the groups below, too.
        if self.is_v2 {
            kills.max().unwrap_or(0)
        } else {
            kills.sum()
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for group in self.programs.iter().chain([&self.group]) {
            // Processes that end take a moment.
            for _ in 0..100 {
                if fs::remove_dir(group).is_ok() {
                    break;
                }
                std::thread::sleep(SAMPLING);
            }
        }
    }
}

/// Lets all threads of this process run on these cores.
fn run_on(cores: &str) -> io::Result<()> {
    let me = std::process::id().to_string();
    let set = Command::new("taskset")
        .args(["--all-tasks", "--pid", "--cpu-list", cores, &me])
        .stdout(std::process::Stdio::null())
        .status()?;
    if set.success() {
        Ok(())
    } else {
        Err(io::Error::other("taskset has failed"))
    }
}

/// A process's memory, with its part of what it shares with others, bytes.
fn proportional(pid: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0) * 1024
}

/// What clients were answered.
#[derive(Default)]
struct Answers {
    good: AtomicUsize,
    unavailable: AtomicUsize,
    other: AtomicUsize,
}

impl Answers {
    /// Counts an answer.
    fn count<T>(&self, answer: &io::Result<T>) {
        let counter = match answer {
            Ok(_) => &self.good,
            Err(error) if error.to_string() == "status 503" => &self.unavailable,
            Err(error) => {
                eprintln!("failed: {error}");
                &self.other
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts everything, lets the clients work, and returns a row of the table.
fn measure(postgresql: &str, settings: &str, work: Work, seconds: f64) -> io::Result<String> {
    let machine = Machine::new()?;
    let lines = postgresql
        .lines()
        .filter(|line| line.contains(" = ") && !line.starts_with('#'));
    let lines: Vec<String> = lines.map(|line| line.replace(" = ", "=")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut cluster = machine.within(1, || Cluster::with(true, &lines))?;
    let database = cluster.database();
    let server = machine.within(0, || start(&database, settings))?;
    fs::write(format!("/proc/{}/oom_score_adj", server.pid()), OOM_SCORE)?;
    let nginx = machine.within(2, || web::Nginx::before(&server))?;
    let key = Transport::Onion(process::x25519_key(&server));
    let (answers, is_over) = (Answers::default(), AtomicBool::new(false));
    let most = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| sample(&machine, &is_over));
        clients(work, &nginx.address, &key, seconds, &answers);
        is_over.store(true, Ordering::Relaxed);
        sampler.join().expect("no panic")
    });
    let kills = machine.kills();
    let [of_server, of_postgresql, of_nginx] = most.map(|bytes| bytes / 1_000_000);
    let row = format!(
        "{of_server} | {of_postgresql} | {of_nginx} | {} | {kills} | {} | {} | {}",
        most.iter().sum::<u64>() / 1_000_000,
        answers.good.into_inner(),
        answers.unavailable.into_inner(),
        answers.other.into_inner(),
    );
    drop((nginx, server));
    cluster.stop();
    drop(cluster);
    Ok(row)
}

fn start(database: &Database, settings: &str) -> Server {
    let door = Door::Nginx.settings();
    Server::with(database, &format!("{DEFAULT_CACHE}\n{door}\n{settings}"))
}

/// The memory of the programs at the moment when their sum was largest, bytes, until `is_over`.
fn sample(machine: &Machine, is_over: &AtomicBool) -> [u64; 3] {
    let mut most = [0; 3];
    while !is_over.load(Ordering::Relaxed) {
        let now = machine.memory();
        if now.iter().sum::<u64>() > most.iter().sum() {
            most = now;
        }
        std::thread::sleep(SAMPLING);
    }
    most
}

fn clients(work: Work, address: &str, key: &Transport, seconds: f64, answers: &Answers) {
    match work {
        Work::Idle => std::thread::sleep(Duration::from_secs_f64(seconds / 4.0)),
        Work::Mix => {
            let wanted = Mutex::new(Vec::new());
            open_loop(16, seconds, 20.0, |number| {
                let mut step = mix::step(Client::new(address, false), key, &wanted, number);
                Box::new(move || {
                    let answer = step();
                    answers.count(&answer);
                    answer
                })
            });
        }
        Work::LargeFiles(clients) => std::thread::scope(|scope| {
            for number in 0..clients {
                scope.spawn(move || large_files(number, address, key, seconds, answers));
            }
        }),
    }
}

/// Uploads a large file and fetches it, again and again.
fn large_files(number: usize, address: &str, key: &Transport, seconds: f64, answers: &Answers) {
    let mut client = Client::new(address, false);
    let mut content = bytes(number as u64 + 1, LARGE);
    let (start, mut count, mut stored) = (Instant::now(), 0u32, None);
    while start.elapsed().as_secs_f64() < seconds {
        let request = match &stored {
            Some(id) => key.get(&format!("/file/{id}")),
            None => {
                count += 1;
                stamp(&mut content, number, count);
                key.post(&content)
            }
        };
        let answer = request.fetch(&mut client);
        answers.count(&answer);
        match answer {
            Ok(answer) if stored.is_none() => stored = Some(id_of(&answer)),
            Ok(_) => stored = None,
            Err(_) => {
                client = Client::new(address, false);
                std::thread::sleep(PAUSE);
            }
        }
    }
}
