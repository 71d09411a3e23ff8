//! A connection to one replica.

use std::sync::Arc;

use super::shared::Replicas;
use crate::db::deadline::{Overdue, Patience};
use crate::db::error::{Error, Remedy};
use crate::db::open::OpenConnection;

/// Why work on a replica came to nothing.
pub(super) enum Setback {
    /// The replica has cancelled it, or ended its connection, because it kept replication waiting.
    Conflict,
    /// The replica failed.
    Failed(Error),
}

/// A connection of one thread to one replica. It opens itself when first needed.
pub(super) struct ReplicaConnection {
    replicas: Arc<Replicas>,
    /// The number of the replica.
    pub(super) number: usize,
    open: Option<OpenConnection>,
}

impl ReplicaConnection {
    /// To the replica of that number. It isn't connected yet.
    pub(super) fn new(replicas: Arc<Replicas>, number: usize) -> ReplicaConnection {
        ReplicaConnection {
            replicas,
            number,
            open: None,
        }
    }

    /// Closes the connection, which opens itself again when it is needed.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Runs `work`, which only reads. It is repeated once if the connection was idle and has ended,
    /// or its prepared statements have become invalid.
    pub(super) fn run<T>(
        &mut self,
        work: &impl Fn(&mut OpenConnection) -> Result<T, postgres::Error>,
    ) -> Result<T, Setback> {
        let mut may_repeat = self.open.is_some();
        loop {
            let open = match &mut self.open {
                Some(open) => open,
                None => {
                    let new = self.replicas.connect(self.number);
                    self.open.insert(new.map_err(Setback::Failed)?)
                }
            };
            let (result, overdue) = open.run(work, Patience::Replica, None);
            let error = match (result, overdue) {
                (Ok(result), Overdue::No) => return Ok(result),
                (Err(error), Overdue::No) => error,
                (_, Overdue::Cancelled | Overdue::Closed) => {
                    // A cancellation that comes late must not meet the next statement.
                    self.open = None;
                    return Err(Setback::Failed(no_answer()));
                }
            };
            let remedy = open.remedy(&error);
            open.forget_statements();
            if remedy == Remedy::Reconnect || open.has_ended() {
                self.open = None;
            }
            // "canceling statement due to conflict with recovery", or its connection was ended.
            if matches!(
                error.code().map(|code| code.code()),
                Some("40001" | "40P01")
            ) {
                return Err(Setback::Conflict);
            }
            let is_curable = matches!(remedy, Remedy::Reconnect | Remedy::PrepareAgain);
            if !is_curable || !std::mem::take(&mut may_repeat) {
                self.open = None;
                return Err(Setback::Failed(Error::of_statement(&error)));
            }
        }
    }
}

fn no_answer() -> Error {
    Error::Unavailable("it gave no answer in time".into())
}
