//! Failures of the database in work that nobody waits for.

use crate::db;

/// Logs that it could not `what`; the work is tried again when it is due next.
pub fn log_failure(what: &str, error: &db::Error) {
    match error {
        // The outage itself was logged when it began.
        db::Error::Unavailable(_) => log::debug!("could not {what}: {error}"),
        _ => log::warn!("could not {what}: {error}"),
    }
}
