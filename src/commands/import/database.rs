//! The import of files from another PostgreSQL database, or from another table.

use std::time::SystemTime;

use super::older_table::OlderTable;
use super::report::{Refusal, Report};
use super::source::{Candidate, Content, FileSource, sort_rows};
use crate::db::Settings;
use crate::db::older_files::{OlderFile, OlderFiles, Place};
use crate::protocol::file_id::FileId;

/// An older server's table that holds its files.
pub struct OlderDatabase {
    table: OlderTable,
}

impl OlderDatabase {
    /// Opens a table of that database, as it is now.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn open(settings: &Settings, table: &str) -> Result<OlderDatabase, String> {
        let table = OlderTable::open(settings, table, OlderFiles::with_bytes)?;
        Ok(OlderDatabase { table })
    }
}

impl FileSource for OlderDatabase {
    fn count(&mut self) -> Result<u64, String> {
        self.table.count()
    }

    fn further_tables(&mut self) -> Result<Vec<String>, String> {
        self.table.further_tables()
    }

    fn list(&mut self, report: &Report) -> Result<Option<Vec<Candidate>>, String> {
        Ok(sort_rows(&self.table.rows()?, report, candidate))
    }

    fn read(&mut self, wanted: &[Candidate]) -> Result<Vec<Result<Content, Refusal>>, String> {
        self.table.bytes(wanted)
    }
}

/// The candidate for a row.
fn candidate(file: &OlderFile) -> Result<Candidate, Refusal> {
    let id = FileId::parse(&file.id).ok_or(Refusal::Name("no file id"))?;
    let (Some(uploaded), Some(expires)) = (file.uploaded, file.expires) else {
        return Err(Refusal::Row("without a time of upload or expiry"));
    };
    let size = match file.place {
        Place::Row(size) => size,
        _ if expires <= SystemTime::now() => 0,
        _ => {
            return Err(Refusal::Row(
                "without bytes, which lie in the older server's folder: use import pools",
            ));
        }
    };
    Ok(Candidate {
        id,
        path: Default::default(),
        size,
        uploaded,
        expires,
    })
}
