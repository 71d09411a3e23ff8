//! `import`: taking over the files of an older server.
//!
//! A [`FileSource`] lists files and reads them; one thread reads what the database lacks, and
//! a few write it, so that neither waits for the other. No bytes that are there are
//! overwritten or read again, only the times of their upload and expiry become the later ones:
//! an import that was interrupted, or has become old, is repeated.

mod database;
mod directory;
mod pools;
mod progress;
mod report;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::SystemTime;

use super::explain::explain;
use crate::config::Config;
use crate::db::import::{NewFile, OlderFile};
use crate::db::{self, Database, Settings};
use crate::lock::lock;
use crate::protocol::file_id::FileId;
use crate::{output, quantity};
use progress::ProgressDisplay;
use report::{Refusal, Report, Skip};

/// Bytes that are read together, unless one file alone is larger: enough for the
/// database not to wait for us between statements, and little memory.
const BATCH_BYTES: u64 = 2 * 1024 * 1024;
/// Threads that write: while one statement is committed the next is under way.
const WRITERS: usize = 2;

/// Where the files come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// The oldest server's folder.
    Directory(PathBuf),
    /// The storage pools of the newest Python server: the folder of the pools, and the
    /// table that knows the files in them.
    Pools(PathBuf, OlderTable),
    /// A table that holds the files.
    Database(OlderTable),
}

/// A table of files in a database.
#[derive(Clone, Debug, Default)]
pub struct OlderTable {
    /// The database; without one that of the configuration.
    pub database: Option<Settings>,
    /// The table's name, as SQL has it; without one `files`.
    pub name: Option<String>,
}

impl Origin {
    /// The words that take over another table from the same place.
    fn command(&self) -> String {
        let (words, table) = match self {
            Origin::Directory(_) => return String::new(),
            Origin::Pools(folder, table) => (format!("pools {}", folder.display()), table),
            Origin::Database(table) => ("database".into(), table),
        };
        match table.database {
            Some(_) => format!("import {words} --from DATABASE_URL"),
            None => format!("import {words}"),
        }
    }
}

impl OlderTable {
    fn settings<'a>(&'a self, config: &'a Config) -> &'a Settings {
        self.database.as_ref().unwrap_or(&config.database)
    }

    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("files")
    }
}

/// Takes over files until there are none left, and prints what was taken, skipped and
/// refused.
///
/// # Errors
/// A sentence for the operator: the import ended early, or some files were refused. It can be
/// repeated.
pub fn run(from: Origin, config: &Config) -> Result<(), String> {
    let database = Database::for_import(config.database.clone());
    let prepared = database.connection().prepare_schema();
    prepared.map_err(|error| explain(&error, config))?;
    let command = from.command();
    let mut source: Box<dyn FileSource> = match from {
        Origin::Directory(folder) => {
            Box::new(directory::Directory::open(&folder, config.files.expiry)?)
        }
        Origin::Pools(folder, table) => {
            let settings = table.settings(config);
            Box::new(pools::Pools::open(folder, settings, table.name())?)
        }
        Origin::Database(table) => {
            let settings = table.settings(config);
            Box::new(database::OlderDatabase::open(settings, table.name())?)
        }
    };
    let further_tables = describe_tables(&source.further_tables()?, &command);
    let report = Arc::new(Report::default());
    let outcome = transfer(source, &database, config, &report);
    let flushed = database.connection().wait_for_disk();
    output::mention(&output::printable(&report.summary()));
    output::mention(&output::printable(&further_tables));
    outcome?;
    flushed.map_err(|error| target_failed(&error, config))?;
    match report.refusals() {
        0 => Ok(()),
        count => Err(format!(
            "{} not taken, for the reasons above; put right what can be, and repeat the import",
            if count == 1 {
                "1 file was".into()
            } else {
                quantity::number(count) + " files were"
            }
        )),
    }
}

/// A hint for each further table of files, as SQL names them, and the `command` that takes
/// them over.
pub fn describe_tables(tables: &[String], command: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.".contains(c);
    let hint = |table: &String| {
        let word = match table.chars().all(plain) {
            true => table.clone(),
            false => format!("'{}'", table.replace('\'', "'\\''")),
        };
        format!(
            "the table {table} holds files too; if it is the older server's BACKUP_TABLE, take \
             them over with\n  session-file-server {command} --table {word}\n"
        )
    };
    tables.iter().map(hint).collect()
}

/// Lists files, some at a time, and reads those that are wanted.
trait FileSource: Send {
    /// How many files there are, for the progress shown.
    fn count(&mut self) -> Result<u64, String>;

    /// Tables with further files, which the older server may use.
    fn further_tables(&mut self) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }

    /// The next files, in batches of hundreds; none when all were listed. What can't be
    /// taken is noted in the report instead.
    fn list(&mut self, report: &Report) -> Result<Option<Vec<Candidate>>, String>;

    /// The bytes of some files, for each of them.
    fn read(&mut self, wanted: &[Candidate]) -> Result<Vec<Result<Content, Refusal>>, String>;
}

/// The bytes of a file, wherever they were read into.
type Content = Box<dyn AsRef<[u8]> + Send>;

/// A file that may be taken over.
#[derive(Clone, Debug)]
struct Candidate {
    id: FileId,
    /// Where its bytes lie; empty if that is in a database.
    path: PathBuf,
    /// Their number.
    size: u64,
    uploaded: SystemTime,
    expires: SystemTime,
}

/// Those of an older server's rows that may be taken over, the others noted in the report;
/// `None` if there are no rows any more.
fn sort_rows(
    rows: &[OlderFile],
    report: &Report,
    candidate: impl Fn(&OlderFile) -> Result<Candidate, Refusal>,
) -> Option<Vec<Candidate>> {
    let mut listed = Vec::with_capacity(rows.len());
    for row in rows {
        match candidate(row) {
            Ok(candidate) => listed.push(candidate),
            Err(refusal) => report.refused(&row.id, &refusal),
        }
    }
    (!rows.is_empty()).then_some(listed)
}

/// Each file once, with the later times, although its row is there twice: as a damaged index of
/// the older server's database lets it be.
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

/// Files on their way to a writer.
type Batch = Vec<(Candidate, Content)>;

fn transfer(
    mut source: Box<dyn FileSource>,
    database: &Arc<Database>,
    config: &Config,
    report: &Arc<Report>,
) -> Result<(), String> {
    let (batches, waiting) = sync_channel(1);
    let waiting = Mutex::new(waiting);
    let progress = ProgressDisplay::start(source.count()?, report);
    let outcome = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| scope.spawn(|| write(&waiting, database, report, config)))
            .collect();
        let read = read(source, database, &batches, report, config);
        drop(batches);
        let written = writers.into_iter().map(|writer| {
            let ended = writer.join();
            ended.unwrap_or_else(|_| Err("a thread that writes panicked".into()))
        });
        // All must have ended before any of their errors counts.
        let written: Vec<_> = written.collect();
        written.into_iter().collect::<Result<(), _>>().and(read)
    });
    progress.finish();
    outcome
}

/// Reads what the database lacks, and hands it to the writers.
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
        let there = db.stored_ids(&ids);
        let there = there.map_err(|error| target_failed(&error, config))?;
        let (there, missing): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .partition(|file| there.contains(file.id.as_str()));
        let times: Vec<_> = there
            .iter()
            .map(|file| (&file.id, file.uploaded, file.expires))
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
                // The writers have ended, and say why.
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Leaves away what has expired, and what is too large or empty.
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

/// Cuts a list into pieces of [`BATCH_BYTES`] at most, or of one file.
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
        // Somebody was faster.
        report.skipped(Skip::Stored, files.len() as u64 - taken.files);
    }
}

fn target_failed(error: &db::Error, config: &Config) -> String {
    explain(error, config) + "; the import can be repeated, it goes on where it was"
}

fn source_failed(error: &db::Error, settings: &Settings) -> String {
    let name = settings.database_name();
    format!("the older server's database {name} can't be read: {error}; check --from and --table")
}

#[cfg(test)]
mod tests {
    use super::*;

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
