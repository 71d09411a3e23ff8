//! The faults, drawn at random.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::acknowledged::Site;
use crate::common::{Server, signal};
use crate::group::{Group, NAMES};
use crate::takes_uploads;

/// How long an old primary is writable beside the new one, or frozen beside it.
const BESIDE: Duration = Duration::from_secs(5);
/// How long standbys are away: longer than an upload waits for them.
const AWAY: Duration = Duration::from_secs(12);
/// How long the sender to a standby stalls before the primary is killed.
const STALLED: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Killed,
    StoppedImmediately,
    StoppedInOrder,
    Frozen,
    FrozenAndBack,
    KilledWithOneBehind,
    KilledWithAllBehind,
    StandbyAway,
    StandbysAway,
    ServerKilled,
    ServerRestarted,
}

impl Fault {
    /// Those that are drawn, the more often the oftener they are here.
    const ALL: [Fault; 14] = [
        Fault::Killed,
        Fault::Killed,
        Fault::StoppedImmediately,
        Fault::StoppedInOrder,
        Fault::Frozen,
        Fault::FrozenAndBack,
        Fault::FrozenAndBack,
        Fault::KilledWithOneBehind,
        Fault::KilledWithOneBehind,
        Fault::KilledWithAllBehind,
        Fault::StandbyAway,
        Fault::StandbysAway,
        Fault::ServerKilled,
        Fault::ServerRestarted,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fault::Killed => "primary killed",
            Fault::StoppedImmediately => "primary stopped, immediate",
            Fault::StoppedInOrder => "primary stopped in order",
            Fault::Frozen => "primary frozen",
            Fault::FrozenAndBack => "primary frozen, and back as a primary",
            Fault::KilledWithOneBehind => "primary killed, one standby behind",
            Fault::KilledWithAllBehind => "primary killed, all standbys behind",
            Fault::StandbyAway => "one standby frozen",
            Fault::StandbysAway => "all standbys frozen",
            Fault::ServerKilled => "server killed",
            Fault::ServerRestarted => "server restarted",
        }
    }
}

/// What the faults happen to.
pub struct Soak {
    group: Group,
    pub servers: Vec<Server>,
    addresses: Vec<String>,
    key: PathBuf,
    random: u64,
    pub failovers: usize,
    /// The files that the servers stored on old primaries.
    pub misled: i64,
    /// Each fault, with the time without uploads and without reads.
    pub noted: Vec<(Fault, Duration, Duration)>,
}

impl Soak {
    pub fn new(group: Group, site: &Site, folder: &Path, seed: u64) -> Soak {
        let mut soak = Soak {
            group,
            servers: Vec::new(),
            addresses: site.addresses.clone(),
            key: folder.join("key"),
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            failovers: 0,
            misled: 0,
            noted: Vec::new(),
        };
        let servers = (0..soak.addresses.len()).map(|number| soak.server(number));
        soak.servers = servers.collect();
        soak
    }

    fn server(&self, number: usize) -> Server {
        let settings = format!(
            "listen = '{}'\nkeys.ed25519 = '{}'",
            self.addresses[number],
            self.key.display()
        );
        let server = Server::try_with(&self.group.url(), &settings);
        server.unwrap_or_else(|log| panic!("the server did not start: {log}"))
    }

    /// A number below `bound` (xorshift, Marsaglia 2003).
    fn number(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) as usize % bound
    }

    pub fn draw(&mut self) -> Fault {
        Fault::ALL[self.number(Fault::ALL.len())]
    }

    pub fn note(&mut self, fault: Fault, uploads: Duration, reads: Duration) {
        self.noted.push((fault, uploads, reads));
    }

    /// Lets a fault happen and cures it. Returns what was done, in words.
    pub fn suffer(&mut self, fault: Fault) -> String {
        let primary = self.group.primary;
        match fault {
            Fault::Killed => self.group.nodes[primary].kill(),
            Fault::StoppedImmediately => self.group.nodes[primary].crash(),
            Fault::StoppedInOrder => self.group.nodes[primary].stop(),
            Fault::Frozen | Fault::FrozenAndBack => self.group.primary().signal("STOP"),
            Fault::KilledWithOneBehind | Fault::KilledWithAllBehind => {
                let count = if fault == Fault::KilledWithOneBehind {
                    1
                } else {
                    2
                };
                self.stall_senders(count);
                std::thread::sleep(STALLED);
                self.group.nodes[primary].kill();
            }
            Fault::StandbyAway => return self.freeze_standbys(1),
            Fault::StandbysAway => return self.freeze_standbys(2),
            Fault::ServerKilled | Fault::ServerRestarted => return self.end_server(fault),
        }
        self.fail_over(fault)
    }

    /// Waits until the standbys follow and both servers take uploads.
    pub fn wait_until_well(&self) {
        self.group.wait_until_followed();
        for server in &self.servers {
            takes_uploads(server, b"well");
        }
    }

    fn fail_over(&mut self, fault: Fault) -> String {
        let old = self.group.promote();
        self.failovers += 1;
        let mut told = vec![format!("{old} gave way to {}", self.group.primary)];
        let is_frozen = matches!(fault, Fault::Frozen | Fault::FrozenAndBack);
        if is_frozen {
            std::thread::sleep(BESIDE);
        }
        if fault == Fault::FrozenAndBack {
            self.group.nodes[old].signal("CONT");
            told.push(self.stay_beside(old, false));
        } else if !is_frozen && self.number(2) == 0 {
            self.group.nodes[old].resume_with(&["synchronous_standby_names="]);
            told.push(self.stay_beside(old, true));
        }
        if is_frozen {
            self.group.nodes[old].kill();
        }
        let by_rewind = self.number(4) > 0;
        told.push(self.group.bring_back(old, by_rewind).to_string());
        told.join(", ")
    }

    /// Lets an old primary run beside the new one for some seconds, and counts what is stored on
    /// it. If it was started anew, it is ended, and must not have got anything.
    fn stay_beside(&mut self, old: usize, was_started: bool) -> String {
        let before = self.group.files(old);
        if was_started {
            // The servers make new connections, and one of them knows nothing of the past.
            self.group.disconnect();
            let number = self.number(self.servers.len());
            self.restart(number, "KILL");
        }
        std::thread::sleep(BESIDE);
        let more = self.group.files(old) - before;
        self.misled += more;
        if was_started {
            assert_eq!(more, 0, "files were stored on an old primary");
            self.group.nodes[old].crash();
        }
        format!("the old one was writable and took {more} files")
    }

    /// That many of the standbys.
    fn some_standbys(&mut self, count: usize) -> Vec<usize> {
        let mut standbys = self.group.standbys();
        let first = self.number(standbys.len());
        standbys.rotate_left(first);
        standbys.truncate(count);
        standbys
    }

    /// Freezes the processes that send to so many standbys.
    fn stall_senders(&mut self, count: usize) {
        for number in self.some_standbys(count) {
            let name = NAMES[number];
            let select = format!(
                "SELECT pid::int8 FROM pg_stat_replication WHERE application_name = '{name}'"
            );
            let pid = self.group.primary().number(&select);
            signal(pid as u32, "STOP");
        }
    }

    fn freeze_standbys(&mut self, count: usize) -> String {
        let standbys = self.some_standbys(count);
        for number in &standbys {
            self.group.nodes[*number].signal("STOP");
        }
        std::thread::sleep(AWAY);
        for number in &standbys {
            self.group.nodes[*number].signal("CONT");
        }
        format!("{standbys:?} came back")
    }

    fn end_server(&mut self, fault: Fault) -> String {
        let number = self.number(self.servers.len());
        let name = if fault == Fault::ServerKilled {
            "KILL"
        } else {
            "TERM"
        };
        self.restart(number, name);
        format!("server {number}")
    }

    fn restart(&mut self, number: usize, name: &str) {
        self.servers[number].signal(name);
        // Only one may have the address.
        self.servers[number].wait();
        self.servers[number] = self.server(number);
    }
}
