//! Failures of the database in background work.

use crate::db;

/// Logs that the work `what` failed, for example "count the files". The work is tried again when
/// it is due next.
pub fn log_failure(what: &str, error: &db::Error) {
    match error {
        // The connection has logged the start of the outage.
        db::Error::Unavailable(_) => log::debug!("could not {what}: {error}"),
        _ => log::warn!("could not {what}: {error}"),
    }
}
