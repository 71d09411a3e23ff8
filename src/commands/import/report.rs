//! What became of the files: counted while they are taken over, told at the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::lock::lock;
use crate::quantity;

/// Names that are shown for each reason; more are only counted.
const MAX_NAMED: u64 = 20;

/// Why a file was not needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// A file of that id is stored already.
    Stored,
    /// Its time is over.
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

/// Why a file could not be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its name is no file id, or not one that lies there.
    Name(&'static str),
    /// It is larger than `files.max_size`.
    TooLarge,
    /// It has no bytes.
    Empty,
    /// Its row tells of a file that isn't there.
    Missing,
    /// Its row lacks something.
    Row(&'static str),
    /// The system's reason for not reading it.
    Unreadable(String),
}

impl Refusal {
    /// Why a file of that size is not taken.
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

/// The counts, shared by all threads of an import.
#[derive(Default)]
pub struct Report {
    files: AtomicU64,
    bytes: AtomicU64,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    refreshed: u64,
    skipped: BTreeMap<Skip, u64>,
    refused: BTreeMap<String, u64>,
}

impl Report {
    /// Counts files that were stored.
    pub fn taken(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts files that were there and have later times now.
    pub fn refreshed(&self, files: u64) {
        self.tally().refreshed += files;
    }

    /// Counts files that were not needed.
    pub fn skipped(&self, skip: Skip, files: u64) {
        if files > 0 {
            *self.tally().skipped.entry(skip).or_default() += files;
        }
    }

    /// Counts a file that could not be taken, and names it.
    pub fn refused(&self, name: &str, refusal: &Refusal) {
        let mut tally = self.tally();
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

    /// Files that were looked at, and the bytes that were stored.
    pub fn progress(&self) -> (u64, u64) {
        let tally = self.tally();
        let passed: u64 = tally.skipped.values().chain(tally.refused.values()).sum();
        let files = self.files.load(Ordering::Relaxed) + tally.refreshed;
        (files + passed, self.bytes.load(Ordering::Relaxed))
    }

    /// Files that could not be taken.
    pub fn refusals(&self) -> u64 {
        self.tally().refused.values().sum()
    }

    /// The result for the operator, a line for each outcome.
    pub fn summary(&self) -> String {
        let tally = self.tally();
        let files = quantity::count(self.files.load(Ordering::Relaxed), "file");
        let bytes = quantity::bytes(self.bytes.load(Ordering::Relaxed));
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
        for (reason, count) in &tally.refused {
            let files = quantity::count(*count, "file");
            text += &format!("refused:   {files}: {reason}\n");
        }
        text
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }
}
