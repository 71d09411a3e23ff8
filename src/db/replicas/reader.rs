//! How a thread reads from replicas.

use std::sync::Arc;

use super::connection::{ReplicaConnection, Setback};
use super::shared::{Outcome, Replicas};
use crate::db::open::OpenConnection;

/// The connection of a thread to its own replica or, while that is left out, to another one.
pub(in crate::db) struct Reader {
    replicas: Arc<Replicas>,
    /// The number of the thread's own replica.
    own: usize,
    connection: Option<ReplicaConnection>,
}

impl Reader {
    /// For a new thread.
    pub(in crate::db) fn new(replicas: &Arc<Replicas>) -> Reader {
        Reader {
            own: replicas.first_of_next_reader(),
            replicas: replicas.clone(),
            connection: None,
        }
    }

    /// The replicas.
    pub(super) fn replicas(&self) -> &Arc<Replicas> {
        &self.replicas
    }

    /// Runs `work`, which only reads, on a replica in use. If that fails, the replica is left out
    /// for a while, and no other one is tried, so that a request waits for one replica at the
    /// most.
    ///
    /// # Errors
    /// The outcome, if the replica has answered nothing.
    pub(super) fn ask<T>(
        &mut self,
        work: &impl Fn(&mut OpenConnection) -> Result<T, postgres::Error>,
    ) -> Result<T, Outcome> {
        let Some(number) = self.replicas.choose(self.own) else {
            return Err(Outcome::NoneUsed);
        };
        let same = self.connection.take().filter(|open| open.number == number);
        let connection = self
            .connection
            .insert(same.unwrap_or_else(|| ReplicaConnection::new(self.replicas.clone(), number)));
        connection.run(work).map_err(|setback| match setback {
            Setback::Conflict => Outcome::Conflict,
            Setback::Failed(error) => {
                self.replicas.failed(number, &error);
                Outcome::Failed
            }
        })
    }
}
