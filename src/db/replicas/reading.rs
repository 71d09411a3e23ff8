//! Reading files: on a replica if there is one, and on the primary if the replica doesn't have
//! them.

use super::ids::Route;
use super::shared::Outcome;
use crate::db::connection::{Connection, OpenConnection};
use crate::db::error::Error;
use crate::protocol::file_id::FileId;

impl Connection {
    /// Runs `work`, which reads the file `id` and nothing else. What `is_absent` on a replica is
    /// looked for on the primary, because the replica may be behind.
    ///
    /// # Errors
    /// Those of the primary, if it had to be asked.
    pub(in crate::db) fn reading<T>(
        &mut self,
        id: &FileId,
        work: impl Fn(&mut OpenConnection) -> Result<T, postgres::Error>,
        is_absent: impl Fn(&T) -> bool,
    ) -> Result<T, Error> {
        let Some(replicas) = self.reader.as_ref().map(|reader| reader.replicas().clone()) else {
            return self.repeatable(work);
        };
        match replicas.route(id) {
            Route::Replica => {
                let found = self.read_on_replica(&work, &is_absent);
                found.map_or_else(|| self.repeatable(&work), Ok)
            }
            Route::PrimaryFirst => {
                replicas.count(Outcome::NotTried);
                let read = self.repeatable(&work);
                let Err(Error::Unavailable(reason)) = read else {
                    return read;
                };
                let found = self.read_on_replica(&work, &is_absent);
                found.ok_or(Error::Unavailable(reason))
            }
            Route::Primary => {
                replicas.count(Outcome::NotTried);
                self.repeatable(work)
            }
        }
    }

    /// What a replica has. `None` if it has nothing, or can't be asked.
    fn read_on_replica<T>(
        &mut self,
        work: &impl Fn(&mut OpenConnection) -> Result<T, postgres::Error>,
        is_absent: &impl Fn(&T) -> bool,
    ) -> Option<T> {
        let reader = self.reader.as_mut()?;
        let (found, outcome) = match reader.ask(work) {
            Ok(found) if is_absent(&found) => (None, Outcome::Absent),
            Ok(found) => (Some(found), Outcome::Found),
            Err(outcome) => (None, outcome),
        };
        reader.replicas().count(outcome);
        found
    }

    /// Notes that a file is about to be written, so that its next readers see it as it is then.
    pub(in crate::db) fn note_write(&self, id: &FileId) {
        if let Some(replicas) = &self.database.replicas {
            replicas.written(id);
        }
    }
}
