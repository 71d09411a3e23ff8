//! Looking for a newer primary than the one that is used.
//!
//! An old primary may have been frozen, or cut off from the others, while one of them was promoted.
//! What it takes from then on is lost. A new connection shows which one is new
//! ([`lineage`](super::lineage)); a server whose connections all last would learn nothing. So the
//! hosts are looked at every few seconds, and before anything is acknowledged that took long.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use super::database::Database;
use super::deadline::{Patience, Watched};
use super::settings::{Begin, NO_TIMELINE};

/// The pause between two looks at all hosts. Each is a new connection to each of them.
const PAUSE: Duration = Duration::from_secs(5);

impl Database {
    /// Starts the thread that looks at the hosts, if there are several. It runs as long as the
    /// program.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn watch_hosts(self: &Arc<Database>) -> io::Result<()> {
        if !self.settings.has_several_hosts() {
            return Ok(());
        }
        let database = self.clone();
        let watch = move || {
            loop {
                thread::sleep(PAUSE);
                let look = || database.look_at_hosts();
                if catch_unwind(AssertUnwindSafe(look)).is_err() {
                    log::error!("the thread that looks for a newer primary panicked; it goes on");
                }
            }
        };
        thread::Builder::new().name("hosts".into()).spawn(watch)?;
        Ok(())
    }

    /// Whether a primary was seen that has replaced the one of this timeline.
    pub(super) fn has_newer_primary(&self, timeline: i64) -> bool {
        timeline != NO_TIMELINE && self.lineage.has_passed(timeline)
    }

    /// Looks at all hosts for a newer primary. Returns when each has answered or failed, or has done
    /// neither for a while.
    pub(super) fn look_at_hosts(&self) {
        let now = Instant::now();
        if !self.lineage.may_look(now) {
            return;
        }
        let look = || {
            let begin = Begin {
                session: &[],
                with_second: Cell::new(false),
                watched: Arc::new(Watched::new(Patience::Unlimited)),
                deadlines: self.deadlines.clone(),
                notice: Arc::new(|_| ()),
                timeline: Cell::new(NO_TIMELINE),
            };
            if let Err(error) = self.settings.look_at_hosts(&begin, &self.lineage) {
                log::debug!("the hosts of the database can't be looked at: {error}");
            }
        };
        self.lineage.look_again(now, look);
    }
}
