//! The transfer of files: one thread lists and reads them, and a few write them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::SystemTime;

use super::progress::ProgressDisplay;
use super::report::{Refusal, Report, Skip};
use super::source::{Candidate, Content, FileSource};
use crate::commands::explain::explain;
use crate::config::Config;
use crate::db::import::{FileTimes, NewFile};
use crate::db::{self, Database};
use crate::lock::lock;

/// The most bytes in a batch, unless one file alone is larger. This is enough to keep the database
/// busy between two statements, and takes little memory.
const BATCH_BYTES: u64 = 2 * 1024 * 1024;
/// The number of threads that write. While one statement is committed, the next one runs.
const WRITERS: usize = 2;

/// A batch of files for a writer.
type Batch = Vec<(Candidate, Content)>;

/// Takes over all files of a source. Returns when all threads have ended.
///
/// # Errors
/// A sentence for the operator.
pub fn transfer(
    mut source: Box<dyn FileSource>,
    database: &Arc<Database>,
    config: &Config,
    report: &Arc<Report>,
) -> Result<(), String> {
    let (batches, waiting) = sync_channel(1);
    let waiting = Arc::new(Mutex::new(waiting));
    let progress = ProgressDisplay::start(source.count()?, report);
    let outcome = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| {
                let waiting = waiting.clone();
                scope.spawn(move || write(&waiting, database, report, config))
            })
            .collect();
        // The writers alone have it, so that it is gone when all of them have failed.
        drop(waiting);
        let read = read(source, database, &batches, report, config);
        drop(batches);
        let written = writers.into_iter().map(|writer| {
            let ended = writer.join();
            ended.unwrap_or_else(|_| Err("a thread that writes panicked".into()))
        });
        // Collected first, so that all writers have ended before this returns an error.
        let written: Vec<_> = written.collect();
        written.into_iter().collect::<Result<(), _>>().and(read)
    });
    progress.finish();
    outcome
}

/// Reads the files that the database lacks, and hands them to the writers.
fn read(
    mut source: Box<dyn FileSource>,
    database: &Arc<Database>,
    batches: &SyncSender<Batch>,
    report: &Report,
    config: &Config,
) -> Result<(), String> {
    let mut db = database.connection();
    while let Some(listed) = source.list(report)? {
        let listed = acceptable(listed, config.files.max_size as u64, report);
        let listed = merge_duplicates(listed, report);
        let ids: Vec<&str> = listed.iter().map(|file| file.id.as_str()).collect();
        let known = db.known_ids(&ids);
        let known = known.map_err(|error| target_failed(&error, config))?;
        let (blocked, listed): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .partition(|file| known.blocked.contains(file.id.as_str()));
        report.blocked(blocked.len() as u64);
        let (there, missing): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .partition(|file| known.stored.contains(file.id.as_str()));
        let times: Vec<_> = there
            .iter()
            .map(|file| FileTimes {
                id: &file.id,
                uploaded: file.uploaded,
                expires: file.expires,
            })
            .collect();
        let refreshed = db.refresh_files(&times);
        let refreshed = refreshed.map_err(|error| target_failed(&error, config))?;
        report.refreshed(refreshed);
        report.skipped(Skip::Stored, (there.len() as u64).saturating_sub(refreshed));
        for wanted in batches_of(missing) {
            let contents = source.read(&wanted)?;
            let mut batch = Batch::with_capacity(wanted.len());
            for (file, content) in wanted.into_iter().zip(contents) {
                match content {
                    Ok(content) => batch.push((file, content)),
                    Err(refusal) => report.refused(file.id.as_str(), &refusal),
                }
            }
            if batches.send(batch).is_err() {
                // The writers have ended, and return the reason.
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Removes files that have expired, are empty or too large.
fn acceptable(listed: Vec<Candidate>, max_size: u64, report: &Report) -> Vec<Candidate> {
    let now = SystemTime::now();
    let mut kept = Vec::with_capacity(listed.len());
    for file in listed {
        if file.expires <= now {
            report.skipped(Skip::Expired, 1);
        } else if let Some(refusal) = Refusal::of_size(file.size, max_size) {
            report.refused(file.id.as_str(), &refusal);
        } else {
            kept.push(file);
        }
    }
    kept
}

/// Splits a list into batches of [`BATCH_BYTES`] at most, or of a single file.
fn batches_of(files: Vec<Candidate>) -> impl Iterator<Item = Vec<Candidate>> {
    let mut files = files.into_iter().peekable();
    std::iter::from_fn(move || {
        let first = files.next()?;
        let mut bytes = first.size;
        let mut batch = vec![first];
        while let Some(next) = files.next_if(|next| bytes + next.size <= BATCH_BYTES) {
            bytes += next.size;
            batch.push(next);
        }
        Some(batch)
    })
}

/// Writes batches until there are no more.
fn write(
    waiting: &Mutex<Receiver<Batch>>,
    database: &Arc<Database>,
    report: &Report,
    config: &Config,
) -> Result<(), String> {
    let mut db = database.connection();
    loop {
        let next = lock(waiting).recv();
        let Ok(batch) = next else { return Ok(()) };
        let files: Vec<NewFile> = batch
            .iter()
            .map(|(file, content)| NewFile {
                id: &file.id,
                data: (**content).as_ref(),
                uploaded: file.uploaded,
                expires: file.expires,
            })
            .collect();
        let taken = db.take_files(&files);
        let taken = taken.map_err(|error| target_failed(&error, config))?;
        report.taken(taken.files, taken.bytes);
        // Another writer or client has stored these meanwhile.
        report.skipped(Skip::Stored, files.len() as u64 - taken.files);
    }
}

/// Merges files with the same id into one, with the later times. A damaged index of the older
/// server's database permits such duplicates.
fn merge_duplicates(listed: Vec<Candidate>, report: &Report) -> Vec<Candidate> {
    let mut places = HashMap::new();
    let mut joined: Vec<Candidate> = Vec::with_capacity(listed.len());
    for file in listed {
        match places.entry(file.id.clone()) {
            Entry::Vacant(place) => {
                place.insert(joined.len());
                joined.push(file);
            }
            Entry::Occupied(place) => {
                let first = &mut joined[*place.get()];
                first.uploaded = first.uploaded.max(file.uploaded);
                first.expires = first.expires.max(file.expires);
                report.skipped(Skip::Stored, 1);
            }
        }
    }
    joined
}

/// A sentence for the operator about an error of the database that takes the files.
pub fn target_failed(error: &db::Error, config: &Config) -> String {
    explain(error, config) + "; the import can be repeated, it goes on where it was"
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::protocol::file_id::FileId;

    #[test]
    fn a_batch_is_bounded_unless_one_file_alone_is_larger() {
        let file = |size| Candidate {
            id: FileId::parse("1").expect("an id"),
            path: PathBuf::new(),
            size,
            uploaded: SystemTime::UNIX_EPOCH,
            expires: SystemTime::UNIX_EPOCH,
        };
        let sizes = [BATCH_BYTES / 2, BATCH_BYTES / 2, 1, 3 * BATCH_BYTES, 5];
        let batches: Vec<Vec<u64>> = batches_of(sizes.map(file).to_vec())
            .map(|batch| batch.iter().map(|file| file.size).collect())
            .collect();
        let half = BATCH_BYTES / 2;
        assert_eq!(
            batches,
            [vec![half, half], vec![1], vec![3 * BATCH_BYTES], vec![5]]
        );
    }
}
