//! Failovers by Patroni under load, with one server that reaches the primary through haproxy, and
//! one that has both nodes as its hosts.
//!
//! `scripts/test-patroni` starts what this needs, and runs it.

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::acknowledged::{Site, Stored, client};
use common::{Server, eventually, processes_in, signal, under_load, within};

/// The number of clients.
const CLIENTS: u64 = 6;
/// Each byte of the servers' key.
const KEY: u8 = 5;
/// The ways to the primary, one for each server.
const WAYS: [&str; 2] = ["haproxy", "two hosts"];
/// The time before a fault, in which there is load alone.
const CALM: Duration = Duration::from_secs(3);
/// How long a node may take to follow again: Patroni looks every five seconds, and has several
/// steps to do.
const REJOIN: Duration = Duration::from_secs(180);
/// How long a frozen node stays so beside the new primary.
const BESIDE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Switchover,
    Killed,
    Frozen,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Fault::Switchover => "handed over",
            Fault::Killed => "killed",
            Fault::Frozen => "frozen, and thawed later",
        }
    }
}

/// The two nodes, `a` and `b`.
struct Patroni {
    place: PathBuf,
}

impl Patroni {
    /// Runs `patronictl`, which must succeed.
    fn control(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("patronictl");
        command.arg("-c").arg(self.place.join("a/patroni.yml"));
        let output = command.args(arguments).output().expect("patronictl");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What Patroni tells of its nodes.
    fn members(&self) -> Vec<serde_json::Value> {
        let list = self.control(&["list", "files", "-f", "json"]);
        serde_json::from_str(&list).expect("JSON")
    }

    fn leader(&self) -> Option<String> {
        let members = self.members();
        let is_leader = |member: &&serde_json::Value| {
            member["Role"] == "Leader" && member["State"] == "running"
        };
        let leader = members.iter().find(is_leader)?;
        leader["Member"].as_str().map(ToString::to_string)
    }

    /// Waits until the other node follows the leader, synchronously if that is wanted.
    fn wait_until_whole(&self, is_synchronous: bool) {
        let role = if is_synchronous {
            "Sync Standby"
        } else {
            "Replica"
        };
        within(REJOIN, "both nodes are well", || {
            let members = self.members();
            let find = |role| members.iter().find(|member| member["Role"] == role);
            let (Some(leader), Some(other)) = (find("Leader"), find(role)) else {
                return false;
            };
            leader["TL"] == other["TL"]
                && (other["State"] == "streaming" || other["State"] == "running")
                && other["Lag in MB"] == 0
        });
    }

    /// Sends a signal to Patroni and PostgreSQL of a node.
    fn signal(&self, node: &str, name: &str) {
        for pid in processes_in(&self.place.join(node)) {
            signal(pid, name);
        }
    }

    /// Starts a node that was killed.
    fn start(&self, node: &str) {
        let script = format!("'{}' {node} &", self.place.join("start").display());
        let status = Command::new("sh").args(["-c", &script]).status();
        assert!(status.expect("sh").success());
    }

    /// Lets a fault happen to the leader, waits until the other node is the leader and every server
    /// takes uploads again, and cures the fault.
    fn suffer(&self, fault: Fault, site: &Site, servers: &[Server]) {
        let old = self.leader().expect("a leader");
        let new = if old == "a" { "b" } else { "a" };
        match fault {
            Fault::Switchover => {
                let arguments = ["switchover", "files", "--leader", &old, "--candidate", new];
                self.control(&[&arguments[..], &["--force"]].concat());
            }
            Fault::Killed => {
                while !processes_in(&self.place.join(&old)).is_empty() {
                    self.signal(&old, "KILL");
                }
            }
            Fault::Frozen => self.signal(&old, "STOP"),
        }
        eventually("another leader", || self.leader().as_deref() == Some(new));
        for server in servers {
            eventually("uploads are taken", || {
                server.post("/file", b"well").status == 200
            });
        }
        let acknowledged = || site.seen.lock().expect("no panic").stored.len();
        let before = acknowledged();
        eventually("the clients go on", || acknowledged() > before + 20);
        match fault {
            Fault::Switchover => {}
            Fault::Killed => self.start(&old),
            Fault::Frozen => {
                std::thread::sleep(BESIDE);
                self.signal(&old, "CONT");
            }
        }
    }
}

#[test]
#[ignore = "needs what scripts/test-patroni starts"]
fn nothing_that_was_acknowledged_is_lost_when_patroni_fails_over() {
    let variable = |name| std::env::var(name).expect("scripts/test-patroni sets it");
    let place = PathBuf::from(variable("PATRONI_PLACE"));
    let patroni = Patroni { place };
    patroni.wait_until_whole(false);
    let keys = tempfile::tempdir().expect("a folder");
    let key = keys.path().join("key");
    std::fs::write(&key, hex::encode([KEY; 32])).expect("writable");
    let settings = format!("keys.ed25519 = '{}'", key.display());
    let urls = ["PATRONI_HAPROXY_URL", "PATRONI_HOSTS_URL"].map(variable);
    let servers = urls.map(|url| Server::try_with(&url, &settings).expect("started"));
    let addresses = servers.iter().map(|server| server.address.clone());
    let site = Site::new(addresses.collect(), KEY);
    println!(
        "| replication | the primary is | way | s without uploads | s without reads | failed | acknowledged | lost |\n\
         | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"
    );
    let lost = under_load(
        CLIENTS,
        |number| client(number, &site),
        |_| {
            run(false, &patroni, &site, &servers);
            let mut lost = run(true, &patroni, &site, &servers);
            let number = site.seen.lock().expect("no panic").stored.len();
            lost.extend(site.forget_missing(0, 0, number));
            println!("at the end {number} files were looked for");
            lost
        },
    );
    let seen = site.seen.lock().expect("no panic");
    println!("files that were answered 404 once: {:?}", seen.missing);
    println!("statuses: {:?}", seen.statuses);
    for server in &servers {
        server.assert_no_500();
    }
    assert!(lost.is_empty(), "lost with a synchronous standby: {lost:?}");
}

/// Lets every fault happen, and looks after each for what was acknowledged. Returns what is missing.
fn run(
    is_synchronous: bool,
    patroni: &Patroni,
    site: &Site,
    servers: &[Server],
) -> Vec<(Stored, String)> {
    let mode = format!("synchronous_mode={is_synchronous}");
    patroni.control(&["edit-config", "files", "--force", "--quiet", "-s", &mode]);
    patroni.wait_until_whole(is_synchronous);
    let mut lost = Vec::new();
    for fault in [Fault::Switchover, Fault::Killed, Fault::Frozen] {
        let from = {
            let mut seen = site.seen.lock().expect("no panic");
            seen.begin();
            seen.stored.len()
        };
        std::thread::sleep(CALM);
        patroni.suffer(fault, site, servers);
        patroni.wait_until_whole(is_synchronous);
        let to = site.seen.lock().expect("no panic").stored.len();
        let gone = site.forget_missing(0, from, to);
        report(is_synchronous, fault, &gone, from, site);
        lost.extend(gone);
    }
    lost
}

/// Prints a line of the table for each server.
fn report(is_synchronous: bool, fault: Fault, gone: &[(Stored, String)], from: usize, site: &Site) {
    let seen = site.seen.lock().expect("no panic");
    for (number, service) in seen.service_of.iter().enumerate() {
        let lost = gone.iter().filter(|(stored, _)| stored.server == number);
        let lost = lost.count();
        let there = seen.stored[from..].iter();
        let there = there.filter(|stored| stored.server == number).count();
        println!(
            "| {} | {} | {} | {:.1} | {:.1} | {} of {} | {} | {lost} |",
            if is_synchronous {
                "synchronous"
            } else {
                "asynchronous"
            },
            fault.name(),
            WAYS[number],
            service.uploads.longest().as_secs_f64(),
            service.reads.longest().as_secs_f64(),
            service.failed,
            service.asked,
            there + lost,
        );
    }
}
