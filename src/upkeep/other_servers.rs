//! What other servers on the same database store, for `files.max_total_size`. Each server counts
//! all files only once a minute, so that without this exchange several servers could together store
//! several times the bound.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::failures::log_failure;
use crate::db::Connection;
use crate::statistics::StoredBytes;

/// The age at which a server writes its row again, even if nothing has changed. Rows that are a day
/// old are deleted, and the other servers would take a row that comes back for new bytes.
const NOTE_AGAIN: Duration = Duration::from_secs(3600);

/// The exchange with the other servers.
pub struct OtherServers {
    /// The random name of this process. `None` if the system has no random numbers: then nothing is
    /// exchanged.
    name: Option<String>,
    /// What this server had stored before the exchange began, bytes. The others have counted it.
    before: u64,
    /// What it has stored since, bytes, as it last wrote it.
    noted: u64,
    /// When it last wrote that.
    at: Option<Instant>,
    observed: Observed,
}

impl OtherServers {
    /// An exchange in which nothing is known of other servers yet.
    pub fn new(stored: &StoredBytes) -> OtherServers {
        let mut random = [0; 16];
        let name = getrandom::getrandom(&mut random);
        OtherServers {
            name: name.ok().map(|()| hex::encode(random)),
            before: stored.added_since_start(),
            noted: 0,
            at: None,
            observed: Observed::default(),
        }
    }

    /// Writes what this server has stored since the last time, and adds what the others have. To be
    /// called about once a second.
    pub fn tick(&mut self, db: &mut Connection, stored: &StoredBytes) {
        let Some(name) = &self.name else { return };
        let own = stored.added_since_start() - self.before;
        let is_old = self.at.is_some_and(|at| at.elapsed() > NOTE_AGAIN);
        if own != self.noted || is_old {
            match db.note_stored_bytes(name, own) {
                Ok(()) => (self.noted, self.at) = (own, Some(Instant::now())),
                Err(error) => return log_failure("note how many bytes were stored", &error),
            }
        }
        match db.bytes_stored_by_others(name) {
            Ok(others) => stored.added_by_others(self.observed.added(others)),
            Err(error) => log_failure("read what other servers have stored", &error),
        }
    }
}

/// What was last seen of each server.
#[derive(Default)]
struct Observed {
    /// The bytes that each had stored; `None` before the first look.
    bytes: Option<HashMap<String, u64>>,
}

impl Observed {
    /// How many bytes the others have stored since the last look. The first look adds nothing,
    /// because the first count of all files has those bytes.
    fn added(&mut self, others: Vec<(String, u64)>) -> u64 {
        let before = self.bytes.take();
        let added = others.iter().map(|(name, bytes)| match &before {
            Some(before) => bytes.saturating_sub(before.get(name).copied().unwrap_or(0)),
            None => 0,
        });
        let added = added.sum();
        self.bytes = Some(others.into_iter().collect());
        added
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_stored_since_the_last_look_is_added() {
        let look = |observed: &mut Observed, others: &[(&str, u64)]| {
            let others = others
                .iter()
                .map(|(name, bytes)| (name.to_string(), *bytes));
            observed.added(others.collect())
        };
        let mut observed = Observed::default();
        assert_eq!(look(&mut observed, &[("a", 100)]), 0, "it is counted");
        assert_eq!(look(&mut observed, &[("a", 130)]), 30);
        assert_eq!(look(&mut observed, &[("a", 130), ("new", 7)]), 7);
        assert_eq!(look(&mut observed, &[("new", 9)]), 2);
        assert_eq!(look(&mut observed, &[]), 0);
    }
}
