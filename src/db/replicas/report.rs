//! What a command says of the replicas. It asks them itself, without the threads of a server.

use std::sync::Arc;
use std::time::Instant;

use super::connection::{ReplicaConnection, Setback};
use super::lag::{Facts, Primary};
use super::standing::{PROMOTED, Verdict};
use crate::db::connection::Connection;
use crate::quantity;

/// What was found out about a replica.
#[derive(Clone, Debug)]
pub struct ReplicaReport {
    /// Its host and port.
    pub name: String,
    /// Whether files can be read from it.
    pub state: ReplicaState,
}

/// Whether files can be read from a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// They can, if it isn't too far behind: it lacks so many bytes of write-ahead log.
    Behind(u64),
    /// It is the primary, and left out as a replica.
    IsPrimary,
    /// They can't, for this reason.
    Unusable(String),
}

impl ReplicaState {
    /// The state as a sentence without its end.
    pub fn describe(&self) -> String {
        match self {
            ReplicaState::Behind(0) => "as far as the primary".into(),
            ReplicaState::Behind(lacking) => {
                format!("{} behind the primary", quantity::bytes(*lacking))
            }
            ReplicaState::IsPrimary => "the primary itself, left out".into(),
            ReplicaState::Unusable(reason) => format!("left out: {reason}"),
        }
    }
}

impl Connection {
    /// Asks the primary, and then each replica.
    pub fn report_on_replicas(&mut self) -> Vec<ReplicaReport> {
        let Some(replicas) = self.database.replicas.clone() else {
            return Vec::new();
        };
        let primary = self.repeatable(Facts::of);
        let primary = primary.map_err(|error| format!("the primary can't be asked: {error}"));
        let names: Vec<String> = replicas.states().map(|(name, _)| name.into()).collect();
        let report = |(number, name)| {
            let mut replica = ReplicaConnection::new(Arc::clone(&replicas), number);
            let facts = replica.run(&Facts::of).map_err(|setback| match setback {
                Setback::Conflict => "replication keeps it busy".to_string(),
                Setback::Failed(error) => error.to_string(),
            });
            let state = facts.and_then(|replica| Ok(compare(&replica, primary.clone()?)));
            let state = state.unwrap_or_else(ReplicaState::Unusable);
            ReplicaReport { name, state }
        };
        names.into_iter().enumerate().map(report).collect()
    }
}

fn compare(replica: &Facts, primary: Facts) -> ReplicaState {
    let (mut known, now) = (Primary::default(), Instant::now());
    known.told(primary, now);
    match known.judge(replica, now) {
        Verdict::Promoted { .. } => ReplicaState::Unusable(PROMOTED.into()),
        Verdict::Unfit(reason) => ReplicaState::Unusable(reason.into()),
        Verdict::IsPrimary => ReplicaState::IsPrimary,
        _ => ReplicaState::Behind(replica.bytes_behind(&primary)),
    }
}
