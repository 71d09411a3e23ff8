//! The interface between an import and the places from which it takes files.

use std::path::PathBuf;
use std::time::SystemTime;

use super::report::{Refusal, Report};
use crate::db::older_files::OlderFile;
use crate::protocol::file_id::FileId;

/// An older server's files. The import lists them in batches, and reads those that it needs.
pub trait FileSource: Send {
    /// The number of files, for the progress display.
    fn count(&mut self) -> Result<u64, String>;

    /// The names of further tables with files, which the older server may use.
    fn further_tables(&mut self) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }

    /// The next batch of files, some hundreds; `None` after the last. Files that can't be taken
    /// over are noted in the report instead.
    fn list(&mut self, report: &Report) -> Result<Option<Vec<Candidate>>, String>;

    /// The bytes of some files, in the same order.
    fn read(&mut self, wanted: &[Candidate]) -> Result<Vec<Result<Content, Refusal>>, String>;
}

/// The bytes of a file, in whatever buffer they were read into.
pub type Content = Box<dyn AsRef<[u8]> + Send>;

/// A file that may be taken over.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The file's id.
    pub id: FileId,
    /// The path of the file's bytes; empty if they are in a database.
    pub path: PathBuf,
    /// The number of the file's bytes.
    pub size: u64,
    /// When the file was uploaded.
    pub uploaded: SystemTime,
    /// When the file expires.
    pub expires: SystemTime,
}

/// The candidates for an older server's rows. Rows without a candidate are noted in the report.
/// `None` if there are no rows.
pub fn sort_rows(
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
