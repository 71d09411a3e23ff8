//! The deletion of expired files and of old version checks.

use super::failures::log_failure;
use super::removals::RemovalWatch;
use crate::db::Connection;
use crate::statistics::Statistics;
use crate::stop::Stop;

/// Deletes expired files, until there are none left or `stop` is requested. This may take minutes,
/// so that the list of removed files is read in between.
pub fn delete_expired(
    db: &mut Connection,
    statistics: &Statistics,
    removals: &mut RemovalWatch,
    stop: &Stop,
) {
    let mut deleted = 0;
    let outcome = db.delete_expired(
        || stop.is_requested(),
        |db, files, bytes| {
            deleted += files;
            statistics.expired(files);
            statistics.stored_bytes.deleted(bytes);
            removals.tick(db);
        },
    );
    if deleted > 0 {
        log::debug!("{deleted} expired files deleted");
    }
    if let Err(error) = outcome {
        log_failure("delete expired files", &error);
    }
}

/// Deletes the records of old version checks.
pub fn delete_old_version_checks(db: &mut Connection) {
    match db.delete_old_version_checks() {
        Ok(0) => {}
        Ok(deleted) => log::debug!("{deleted} old version checks deleted"),
        Err(error) => log_failure("delete old version checks", &error),
    }
}
