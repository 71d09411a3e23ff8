//! The threads that watch the replicas. One asks the primary every second how far its WAL goes and
//! which files were removed; one for each replica asks that replica, so that none waits for
//! another.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::connection::{ReplicaConnection, Setback};
use super::lag::Facts;
use super::shared::Replicas;
use crate::db::blocked::Removed;
use crate::db::connection::Connection;
use crate::db::database::Database;
use crate::db::deadline::Patience;
use crate::db::error::Error;

/// How often the primary and each replica are asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How far back it is read which files were removed: much longer than a replica in use may be
/// behind, and than the primary may keep us waiting.
const REMOVED_WITHIN: Duration = Duration::from_secs(90);
/// The failures of a question, one after the other, of which the operator is told. A new database
/// has no tables for a moment.
const UNUSUAL: u32 = 5;
/// The pause before a thread goes on after a panic.
const PAUSE_AFTER_PANIC: Duration = Duration::from_secs(10);

impl Database {
    /// Starts the threads that watch the replicas, if there are any. They run as long as the
    /// program. Until they have found a replica fit it isn't used.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn watch_replicas(self: &Arc<Database>) -> io::Result<()> {
        let Some(replicas) = &self.replicas else {
            return Ok(());
        };
        let (database, all) = (self.clone(), replicas.clone());
        let connect = move || PrimaryWatch {
            connection: database.patient_connection(Patience::Probe),
            failures: 0,
        };
        let builder = thread::Builder::new().name("replicas".into());
        builder.spawn(move || repeat(connect, |primary| ask_primary(primary, &all)))?;
        for number in 1..=replicas.number() {
            let (one, all) = (replicas.clone(), replicas.clone());
            let connect = move || ReplicaConnection::new(one.clone(), number - 1);
            let builder = thread::Builder::new().name(format!("replica-{number}"));
            builder.spawn(move || repeat(connect, |replica| check(&all, replica)))?;
        }
        Ok(())
    }
}

/// Does `work` every second for ever, on a connection that is made anew after a panic.
fn repeat<C>(connect: impl Fn() -> C, work: impl Fn(&mut C)) {
    let run = || {
        let mut connection = connect();
        loop {
            work(&mut connection);
            thread::sleep(INTERVAL);
        }
    };
    loop {
        if catch_unwind(AssertUnwindSafe(&run)).is_err() {
            log::error!("a thread that watches the replicas panicked; it goes on");
        }
        thread::sleep(PAUSE_AFTER_PANIC);
    }
}

/// What asks the primary.
struct PrimaryWatch {
    connection: Connection,
    /// The questions without an answer since the last answer.
    failures: u32,
}

fn ask_primary(primary: &mut PrimaryWatch, replicas: &Replicas) {
    let asked = Instant::now();
    let removed = primary.connection.removed_files(REMOVED_WITHIN);
    let told = removed.and_then(|removed| Ok((removed, primary.connection.repeatable(Facts::of)?)));
    primary.failures += 1;
    match told {
        Ok((removed, facts)) => {
            let removed = match removed {
                Removed::Files(ids) => Some(ids),
                Removed::Many => None,
            };
            replicas.primary_told(facts, removed, asked);
            primary.failures = 0;
        }
        // That it is away is logged already.
        Err(error) if primary.failures != UNUSUAL || matches!(error, Error::Unavailable(_)) => {
            log::debug!("the primary doesn't tell how far its WAL goes: {error}");
        }
        Err(error) => log::warn!(
            "no replica can be used, because the database of database.url doesn't tell how far its \
             write-ahead log goes and which files were removed: {error}"
        ),
    }
}

/// Asks a replica how it is. The connection stays open for the next time.
fn check(replicas: &Replicas, replica: &mut ReplicaConnection) {
    if !replicas.is_due(replica.number) {
        replica.close();
        return;
    }
    match replica.run(&Facts::of) {
        Ok(facts) => replicas.told(replica.number, &facts),
        Err(Setback::Conflict) => {}
        Err(Setback::Failed(error)) => replicas.failed(replica.number, &error),
    }
}
