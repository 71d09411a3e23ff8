//! A primary and its standbys, and what an operator does when the primary is lost.

use crate::common::{Cluster, eventually};

/// The names of the nodes, under which standbys are known to their primary.
pub const NAMES: [&str; 3] = ["a", "b", "c"];
/// The value of `synchronous_standby_names`. The primary itself is never among its standbys.
const ANY: &str = "ANY 1 (a, b, c)";

/// Clusters of which one is the primary, and the others follow it.
pub struct Group {
    pub nodes: Vec<Cluster>,
    pub primary: usize,
    /// The name of the database.
    pub database: String,
}

/// Settings that all nodes inherit from the first. They stand in the configuration, because
/// pg_rewind starts a server by it alone: that one must keep the WAL since the nodes parted, and
/// `wal_log_hints` is needed, or checksums.
const SETTINGS: [&str; 3] = [
    "wal_log_hints = on",
    "wal_keep_size = '1GB'",
    "wal_retrieve_retry_interval = '500ms'",
];

/// The lines of each node's log that are shown if the test fails.
const LOG_LINES: usize = 40;

impl Drop for Group {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.logs());
        }
    }
}

impl Group {
    /// A primary and two standbys.
    pub fn start(is_synchronous: bool) -> Group {
        let name = |number: usize| format!("cluster_name={}", NAMES[number]);
        let mut first = Cluster::with(true, &[&name(0)]);
        for setting in SETTINGS {
            first.alter_system(setting);
        }
        first.stop();
        first.resume();
        let database = first.database().name;
        let standbys = (1..NAMES.len()).map(|number| first.standby_with(true, &[&name(number)]));
        let standbys: Vec<Cluster> = standbys.collect();
        let nodes: Vec<Cluster> = std::iter::once(first).chain(standbys).collect();
        let group = Group {
            nodes,
            primary: 0,
            database,
        };
        group.wait_until_followed();
        for node in group.nodes.iter().filter(|_| is_synchronous) {
            node.alter_system(&format!("synchronous_standby_names = '{ANY}'"));
        }
        group
    }

    /// The end of each node's log.
    fn logs(&self) -> String {
        let log = |node: &Cluster| {
            let log = std::fs::read_to_string(node.folder().join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
        };
        let logs: Vec<String> = self.nodes.iter().map(log).collect();
        logs.join("\n\n")
    }

    /// The `database.url` that names all nodes.
    pub fn url(&self) -> String {
        let folders = self.nodes.iter().map(|node| node.folder().display());
        let folders: Vec<String> = folders.map(|folder| folder.to_string()).collect();
        format!(
            "host={} user=tester dbname={} connect_timeout=2",
            folders.join(","),
            self.database
        )
    }

    pub fn primary(&self) -> &Cluster {
        &self.nodes[self.primary]
    }

    /// The numbers of the nodes that aren't the primary.
    pub fn standbys(&self) -> Vec<usize> {
        let all = 0..self.nodes.len();
        all.filter(|number| *number != self.primary).collect()
    }

    /// Waits until both standbys have all that the primary has written by now.
    pub fn wait_until_followed(&self) {
        let now = self
            .primary()
            .number("SELECT (pg_current_wal_lsn() - '0/0')::int8");
        let number = self.nodes.len() as i64 - 1;
        let follow = format!(
            "SELECT count(*) FROM pg_stat_replication \
             WHERE state = 'streaming' AND replay_lsn - '0/0' >= {now}"
        );
        eventually("the standbys follow", || {
            self.primary().number(&follow) == number
        });
    }

    /// Makes the most advanced standby the primary. The old one must not be a primary that others
    /// follow any more, so that none of them receives anything when they are compared: what it
    /// commits from then on has no standby. Returns the number of the old one.
    pub fn promote(&mut self) -> usize {
        let (old, standbys) = (self.primary, self.standbys());
        for number in &standbys {
            self.nodes[*number].follow(None);
        }
        let receive = "SELECT count(*) FROM pg_stat_wal_receiver";
        for number in &standbys {
            eventually("nothing is received", || {
                self.nodes[*number].number(receive) == 0
            });
        }
        let advanced = standbys.iter().copied();
        let advanced = advanced.max_by_key(|number| self.nodes[*number].received());
        self.primary = advanced.expect("there are some");
        self.primary().promote();
        // pg_rewind reads the timeline from the last checkpoint.
        let checkpoint = self.primary().superuser().batch_execute("CHECKPOINT");
        checkpoint.expect("allowed");
        for number in standbys.into_iter().filter(|it| *it != self.primary) {
            self.nodes[number].follow(Some(self.primary()));
        }
        old
    }

    /// Makes an old primary that has ended a standby: by `pg_rewind` if wanted, else by a copy.
    /// Returns the way.
    pub fn bring_back(&mut self, old: usize, by_rewind: bool) -> &'static str {
        let is_rewound = by_rewind && self.nodes[old].rewind(self.primary());
        if !is_rewound {
            self.nodes[old].copy_anew(self.primary());
        }
        self.nodes[old].resume();
        match (by_rewind, is_rewound) {
            (true, true) => "rewound",
            (true, false) => "copied, because it couldn't be rewound",
            (false, _) => "copied",
        }
    }

    /// Ends all connections of the servers to the primary, so that they make new ones.
    pub fn disconnect(&self) {
        self.primary().number(&format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{}'",
            self.database
        ));
    }

    /// The files that a node has.
    pub fn files(&self, number: usize) -> i64 {
        let url = self.nodes[number].url(&self.database);
        let mut client = postgres::Client::connect(&url, postgres::NoTls).expect("it runs");
        let row = client.query_one("SELECT count(*) FROM files", &[]);
        row.expect("a row").get(0)
    }
}
