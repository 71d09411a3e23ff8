//! The timer thread: deletes expired files and logs statistics.

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::db::{self, Connection};
use crate::server::Stop;

/// How often the number of files and their bytes are logged.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(3600);

/// Runs until `stop` is requested. Errors of the database are logged, and the work is
/// tried again when it is due next.
pub fn run(config: &Config, mut db: Connection, stop: &Stop) {
    let mut statistics_due = Instant::now();
    loop {
        delete_expired(&mut db, stop);
        if Instant::now() >= statistics_due {
            log_statistics(&mut db);
            statistics_due = Instant::now() + STATISTICS_INTERVAL;
        }
        if stop.wait(config.files.cleanup_interval) {
            return;
        }
    }
}

fn delete_expired(db: &mut Connection, stop: &Stop) {
    match db.delete_expired(|| stop.is_requested()) {
        Ok(0) => {}
        Ok(deleted) => log::debug!("{deleted} expired files deleted"),
        Err(error) => log_failure("delete expired files", &error),
    }
}

fn log_statistics(db: &mut Connection) {
    match db.totals() {
        Ok(db::Totals { files, bytes }) => {
            log::info!("{files} files stored, {} in all", human_bytes(bytes));
        }
        Err(error) => log_failure("count the files", &error),
    }
}

fn log_failure(what: &str, error: &db::Error) {
    match error {
        // The outage itself was logged when it began.
        db::Error::Unavailable(_) => log::debug!("could not {what}: {error}"),
        _ => log::warn!("could not {what}: {error}"),
    }
}

/// A number of bytes as people read it: three digits and a decimal unit.
pub fn human_bytes(bytes: u64) -> String {
    let mut amount = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // What would be rounded to 1000 is 1.00 of the next unit.
    while amount >= 999.5 {
        let Some(next) = units.next() else { break };
        amount /= 1000.0;
        unit = next;
    }
    match amount {
        _ if unit == "B" => format!("{amount} B"),
        amount if amount < 9.995 => format!("{amount:.2} {unit}"),
        amount if amount < 99.95 => format!("{amount:.1} {unit}"),
        amount => format!("{amount:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_with_three_digits() {
        for (bytes, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (123_456, "123 kB"),
            (999_600, "1.00 MB"),
            (10_223_616, "10.2 MB"),
            (1_500_000_000_000, "1.50 TB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(human_bytes(bytes), shown);
        }
    }
}
