//! `init-db --rebuild-ids`: rebuilds the index of the file ids so that they are sorted as bytes.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::explain::explain;
use crate::config::Config;
use crate::db::{Canceller, Connection, Database, Error, RebuildPlan};
use crate::output::{self, printable};
use crate::quantity;

/// How often PostgreSQL is asked for the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// The size of the new index on the disk per file, bytes (measured: 68 with a million content
/// ids).
const BYTES_PER_FILE: u64 = 70;
/// The number of files that are indexed per second, for the estimate. Three times as many were
/// measured with the table in memory; a disk may be slower.
const FILES_PER_SECOND: u64 = 100_000;

/// Prints an estimate of the cost, rebuilds the index while files are served, and shows the
/// progress.
///
/// # Errors
/// A sentence for the operator. Nothing was changed then.
pub fn run(config: &Config) -> Result<(), String> {
    let database = Database::for_rebuild(config.database.clone());
    let mut db = database.connection();
    let failed = |error: Error| explain(&error, config);
    db.check_schema().map_err(failed)?;
    let order = db.id_order().map_err(failed)?;
    if order.is_bytewise() {
        output::mention("the ids are sorted as bytes already; nothing is to be done\n");
        return Ok(());
    }
    let plan = db.plan_rebuild().map_err(failed)?;
    output::mention(&describe_cost(&plan));
    let started = Instant::now();
    let removed = build(&database, db, &plan).map_err(|error| {
        format!(
            "{}; nothing was changed, and this can be repeated",
            failed(error)
        )
    })?;
    let took = quantity::number(started.elapsed().as_secs());
    output::mention(&format!(
        "the ids are sorted as bytes now, after {took} s\n"
    ));
    if removed > 0 {
        let files = quantity::count(removed, "file");
        output::mention(&format!(
            "{files} that the old index didn't find had been stored a second time; one of each is \
             kept\n"
        ));
    }
    let mut db = database.connection();
    db.finish_rebuild(&plan).map_err(|error| {
        format!("what follows is not done ({error}); session-file-server init-db --rebuild-ids needs no repeating for it")
    })?;
    if order.warning().is_some() {
        output::mention(&printable(&format!(
            "PostgreSQL goes on warning until it is told, when the indexes of all other programs \
             in this database were made anew too (REINDEX DATABASE):\n  ALTER DATABASE \"{}\" \
             REFRESH COLLATION VERSION;\n",
            config.database.database_name()
        )));
    }
    Ok(())
}

/// The estimate of time and disk space.
fn describe_cost(plan: &RebuildPlan) -> String {
    let files = plan.files;
    let seconds = files.div_ceil(FILES_PER_SECOND).max(1);
    let bytes = (files * BYTES_PER_FILE).max(16 * 1024);
    format!(
        "a new index for about {} is built beside the old one: {} of disk, about {} s and the \
         time that transactions last which run now; files are served meanwhile\n",
        quantity::count(files, "file"),
        quantity::bytes(bytes),
        quantity::number(seconds)
    )
}

/// Rebuilds the index in a thread of its own, while this one shows the progress and handles
/// interruptions. Returns how many duplicate rows were removed.
fn build(database: &Arc<Database>, mut db: Connection, plan: &RebuildPlan) -> Result<u64, Error> {
    let interrupted = Arc::<AtomicBool>::default();
    let is_built = Arc::<AtomicBool>::default();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // After the rebuild the signals end the program at once.
        let _ = signal_hook::flag::register_conditional_default(signal, is_built.clone());
        // If registering fails, an interrupted build leaves an index, which the next one removes.
        let _ = signal_hook::flag::register(signal, interrupted.clone());
    }
    let canceller = Canceller::default();
    let mut watching = database.connection();
    let mut line = ProgressLine::default();
    thread::scope(|scope| {
        let work = scope.spawn(|| db.rebuild_ids(plan, &canceller));
        while !work.is_finished() {
            thread::sleep(PROGRESS_INTERVAL);
            if interrupted.swap(false, Ordering::SeqCst) {
                line.end();
                canceller.cancel();
                output::complain(
                    "interrupted: the unfinished index is removed as soon as the transactions \
                     that run now have ended; a second interruption leaves it to the next \
                     --rebuild-ids",
                );
            }
            if let Ok(Some((phase, percent))) = watching.rebuild_progress() {
                line.show(&phase, percent);
            }
        }
        line.end();
        is_built.store(true, Ordering::SeqCst);
        let panicked = |_| Err(Error::Failed("the thread that rebuilds panicked".into()));
        work.join().unwrap_or_else(panicked)
    })
}

/// The progress on standard error: on a terminal a line that is overwritten, elsewhere a line for
/// each phase.
#[derive(Default)]
struct ProgressLine {
    shown: String,
}

impl ProgressLine {
    fn show(&mut self, phase: &str, percent: Option<i32>) {
        let is_terminal = std::io::stderr().is_terminal();
        let line = match percent {
            Some(percent) if is_terminal => format!("{phase}: {percent} %"),
            _ => phase.to_string(),
        };
        if line == self.shown {
            return;
        }
        let mut out = std::io::stderr();
        // The rebuild doesn't depend on the progress being shown.
        let _ = if is_terminal {
            write!(out, "\r\x1b[K{line}").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
        self.shown = line;
    }

    fn end(&self) {
        if std::io::stderr().is_terminal() && !self.shown.is_empty() {
            let _ = writeln!(std::io::stderr());
        }
    }
}
