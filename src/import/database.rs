//! Files in another PostgreSQL database.

use super::report::{Refusal, Report};
use super::{Candidate, Content, Source, sort_rows, source_failed};
use crate::db::Settings;
use crate::db::import::{OlderFile, OlderFiles};
use crate::file_id::FileId;

/// A database with a table of files.
pub struct OlderDatabase {
    settings: Settings,
    files: OlderFiles,
}

impl OlderDatabase {
    /// The files of that database, as they are now.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn open(settings: &Settings) -> Result<OlderDatabase, String> {
        let files = OlderFiles::with_bytes(settings);
        Ok(OlderDatabase {
            files: files.map_err(|error| source_failed(&error, settings))?,
            settings: settings.clone(),
        })
    }
}

impl Source for OlderDatabase {
    fn count(&mut self) -> Result<u64, String> {
        let count = self.files.count();
        count.map_err(|error| source_failed(&error, &self.settings))
    }

    fn list(&mut self, report: &Report) -> Result<Option<Vec<Candidate>>, String> {
        let files = self.files.fetch();
        let files = files.map_err(|error| source_failed(&error, &self.settings))?;
        Ok(sort_rows(&files, report, candidate))
    }

    fn read(&mut self, wanted: &[Candidate]) -> Result<Vec<Result<Content, Refusal>>, String> {
        let ids: Vec<&str> = wanted.iter().map(|file| file.id.as_str()).collect();
        let found = self.files.bytes(&ids);
        let mut found = found.map_err(|error| source_failed(&error, &self.settings))?;
        let content = |id: &str| match found.remove(id) {
            Some(bytes) => Ok(Box::new(bytes) as Content),
            None => Err(Refusal::Missing),
        };
        Ok(ids.into_iter().map(content).collect())
    }
}

fn candidate(file: &OlderFile) -> Result<Candidate, Refusal> {
    let id = FileId::parse(&file.id).ok_or(Refusal::Name("no file id"))?;
    let (Some(size), Some(uploaded), Some(expires)) = (file.size, file.uploaded, file.expires)
    else {
        return Err(Refusal::Row("without bytes, or a time of upload or expiry"));
    };
    Ok(Candidate {
        id,
        path: Default::default(),
        size,
        uploaded,
        expires,
    })
}
