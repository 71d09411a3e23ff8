//! What an operator does to clusters that follow each other when the primary is lost.

use std::path::Path;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use super::cluster::{as_owner, tool};
use super::{Cluster, signal, succeed};

impl Cluster {
    /// A connection to its own database `postgres`, of a superuser whose commits wait for no
    /// standby.
    pub fn superuser(&self) -> Client {
        let mut client = Client::connect(&self.url("postgres"), NoTls).expect("it runs");
        let local = client.batch_execute("SET synchronous_commit = local");
        local.expect("allowed");
        client
    }

    /// The number that `sql` selects.
    pub fn number(&self, sql: &str) -> i64 {
        let row = self.superuser().query_one(sql, &[]);
        row.expect("a row").get(0)
    }

    /// Ends all of its processes at once, even if they are frozen, and waits until they are gone.
    pub fn kill(&mut self) {
        let (pid, data) = (self.pid(), self.data());
        signal(pid, "KILL");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let left = processes_in(&data);
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "{left:?} don't end");
            left.iter().for_each(|pid| signal(*pid, "KILL"));
        }
        self.crash();
    }

    /// Lets a standby follow `primary`, or nobody, from now on.
    pub fn follow(&self, primary: Option<&Cluster>) {
        let from = primary.map_or(String::new(), |primary| {
            format!("host={} user=tester", primary.folder().display())
        });
        self.alter_system(&format!("primary_conninfo = '{from}'"));
    }

    /// Writes a setting, given as `name = value`, into its configuration. A setting that can be
    /// changed while the server runs holds from now on.
    pub fn alter_system(&self, setting: &str) {
        let mut client = self.superuser();
        // They can't be sent together, because the first may not stand in a transaction.
        for statement in [
            &*format!("ALTER SYSTEM SET {setting}"),
            "SELECT pg_reload_conf()",
        ] {
            client.batch_execute(statement).expect("allowed");
        }
    }

    /// The end of the WAL that a standby has, as a number of bytes. What was received is counted
    /// from the beginning of a segment after a restart, so that it may be less than what was
    /// replayed.
    pub fn received(&self) -> i64 {
        self.number(
            "SELECT (greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0')::int8",
        )
    }

    /// Makes a stopped old primary a standby of `primary` by `pg_rewind`. Returns whether that was
    /// possible. It isn't started.
    pub fn rewind(&self, primary: &Cluster) -> bool {
        let mut rewind = as_owner(&tool("pg_rewind"));
        let source = primary.url("postgres");
        rewind.args(["--write-recovery-conf", "--no-sync", "--source-server"]);
        rewind.arg(source).arg("--target-pgdata").arg(self.data());
        let output = rewind.output().expect("pg_rewind");
        let told = String::from_utf8_lossy(&output.stderr);
        for line in told.lines().filter(|line| line.contains(" error: ")) {
            println!("{line}");
        }
        output.status.success()
    }

    /// Makes a stopped cluster a standby of `primary` by copying everything. It isn't started.
    pub fn copy_anew(&self, primary: &Cluster) {
        succeed(as_owner(Path::new("rm")).arg("-rf").arg(self.data()));
        self.copy(primary);
    }
}

/// The processes whose working directory is that folder or below it.
pub fn processes_in(folder: &Path) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_there = |pid: &u32| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|place| place.starts_with(folder))
    };
    pids.filter(is_there).collect()
}
