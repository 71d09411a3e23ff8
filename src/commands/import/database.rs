//! The import of files from another PostgreSQL database, or from another table.

use std::time::SystemTime;

use super::report::{Refusal, Report};
use super::source::{Candidate, Content, FileSource, sort_rows, source_failed};
use crate::db::Settings;
use crate::db::older_files::{OlderFile, OlderFiles, Place};
use crate::protocol::file_id::FileId;

/// An older server's table that holds its files.
pub struct OlderDatabase {
    settings: Settings,
    files: OlderFiles,
}

impl OlderDatabase {
    /// Opens a table of that database, as it is now.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn open(settings: &Settings, table: &str) -> Result<OlderDatabase, String> {
        let files = OlderFiles::with_bytes(settings, table);
        Ok(OlderDatabase {
            files: files.map_err(|error| source_failed(&error, settings))?,
            settings: settings.clone(),
        })
    }
}

impl FileSource for OlderDatabase {
    fn count(&mut self) -> Result<u64, String> {
        let count = self.files.count();
        count.map_err(|error| source_failed(&error, &self.settings))
    }

    fn further_tables(&mut self) -> Result<Vec<String>, String> {
        let tables = self.files.further_tables();
        tables.map_err(|error| source_failed(&error, &self.settings))
    }

    fn list(&mut self, report: &Report) -> Result<Option<Vec<Candidate>>, String> {
        let files = self.files.fetch();
        let files = files.map_err(|error| source_failed(&error, &self.settings))?;
        Ok(sort_rows(&files, report, candidate))
    }

    fn read(&mut self, wanted: &[Candidate]) -> Result<Vec<Result<Content, Refusal>>, String> {
        read_rows(&mut self.files, wanted).map_err(|error| source_failed(&error, &self.settings))
    }
}

/// Reads the bytes of files whose rows hold them.
pub fn read_rows(
    files: &mut OlderFiles,
    wanted: &[Candidate],
) -> Result<Vec<Result<Content, Refusal>>, crate::db::Error> {
    let ids: Vec<&str> = wanted.iter().map(|file| file.id.as_str()).collect();
    let mut found = files.bytes(&ids)?;
    let content = |id: &str| match found.remove(id) {
        Some(bytes) => Ok(Box::new(bytes) as Content),
        None => Err(Refusal::Missing),
    };
    Ok(ids.into_iter().map(content).collect())
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
