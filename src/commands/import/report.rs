//! The report of an import: what became of the files, counted while they are taken over.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::lock::lock;
use crate::quantity;

/// The number of files that are named in the log for each reason. Further ones are counted.
const MAX_NAMED: u64 = 20;

/// Why a file was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// A file with this id is stored already.
    Stored,
    /// The file has expired.
    Expired,
}

impl Skip {
    fn reason(self) -> &'static str {
        match self {
            Skip::Stored => "there already",
            Skip::Expired => "expired already",
        }
    }
}

/// Why a file can't be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The file's name is no file id, or not of the expected kind.
    Name(&'static str),
    /// The file is larger than `files.max_size`.
    TooLarge,
    /// The file is empty.
    Empty,
    /// The file has a row but no bytes.
    Missing,
    /// The file's row is incomplete.
    Row(&'static str),
    /// The system can't read the file, for this reason.
    Unreadable(String),
}

impl Refusal {
    /// The refusal of a file for its size; `None` if the size is acceptable.
    pub fn of_size(size: u64, max_size: u64) -> Option<Refusal> {
        match size {
            0 => Some(Refusal::Empty),
            size if size > max_size => Some(Refusal::TooLarge),
            _ => None,
        }
    }

    fn reason(&self) -> &str {
        match self {
            Refusal::Name(reason) | Refusal::Row(reason) => reason,
            Refusal::TooLarge => "larger than files.max_size",
            Refusal::Empty => "empty",
            Refusal::Missing => "known to the database, but not in the folder",
            Refusal::Unreadable(_) => "could not be read",
        }
    }
}

/// The counts of an import, shared by its threads.
#[derive(Default)]
pub struct Report {
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    /// Files that were stored.
    files: u64,
    /// Bytes of the files that were stored.
    bytes: u64,
    /// Files that were stored already and have later times now.
    refreshed: u64,
    /// Files whose ids are blocked.
    blocked: u64,
    skipped: BTreeMap<Skip, u64>,
    refused: BTreeMap<String, u64>,
}

impl Report {
    /// Counts files that were stored.
    pub fn taken(&self, files: u64, bytes: u64) {
        let mut tally = lock(&self.tally);
        tally.files += files;
        tally.bytes += bytes;
    }

    /// Counts files that were stored already and have later times now.
    pub fn refreshed(&self, files: u64) {
        lock(&self.tally).refreshed += files;
    }

    /// Counts files whose ids are blocked. The operator wanted them gone, so that leaving them out
    /// is no failure of the import.
    pub fn blocked(&self, files: u64) {
        lock(&self.tally).blocked += files;
    }

    /// Counts files that were skipped.
    pub fn skipped(&self, skip: Skip, files: u64) {
        if files > 0 {
            *lock(&self.tally).skipped.entry(skip).or_default() += files;
        }
    }

    /// Counts and logs a file that can't be taken over.
    pub fn refused(&self, name: &str, refusal: &Refusal) {
        let mut tally = lock(&self.tally);
        let reason = refusal.reason();
        let count = tally.refused.entry(reason.into()).or_default();
        *count += 1;
        let detail = match refusal {
            Refusal::Unreadable(detail) => format!(": {detail}"),
            _ => String::new(),
        };
        match *count {
            ..=MAX_NAMED => log::warn!("{name:?} was not taken: {reason}{detail}"),
            count if count == MAX_NAMED + 1 => {
                log::warn!("further files that are {reason:?} are counted, but not named");
            }
            _ => {}
        }
    }

    /// The number of files that are done, whatever became of them, and the bytes that were stored.
    pub fn progress(&self) -> (u64, u64) {
        let tally = lock(&self.tally);
        let passed: u64 = tally.skipped.values().chain(tally.refused.values()).sum();
        let files = tally.files + tally.refreshed + tally.blocked;
        (files + passed, tally.bytes)
    }

    /// The number of files that can't be taken over.
    pub fn refusals(&self) -> u64 {
        lock(&self.tally).refused.values().sum()
    }

    /// The summary for the operator, a line for each outcome.
    pub fn summary(&self) -> String {
        let tally = lock(&self.tally);
        let files = quantity::count(tally.files, "file");
        let bytes = quantity::bytes(tally.bytes);
        let mut text = format!("taken:     {files}, {bytes}\n");
        if tally.refreshed > 0 {
            let files = quantity::count(tally.refreshed, "file");
            text +=
                &format!("refreshed: {files}: there already, extended or uploaded again since\n");
        }
        for (skip, count) in &tally.skipped {
            let files = quantity::count(*count, "file");
            text += &format!("skipped:   {files}: {}\n", skip.reason());
        }
        if tally.blocked > 0 {
            let files = quantity::count(tally.blocked, "file");
            text +=
                &format!("blocked:   {files}: not taken, see session-file-server files blocked\n");
        }
        for (reason, count) in &tally.refused {
            let files = quantity::count(*count, "file");
            text += &format!("refused:   {files}: {reason}\n");
        }
        text
    }
}
