//! An older server's table of files, with errors as sentences for the operator.

use super::report::Refusal;
use super::source::{Candidate, Content};
use crate::db::older_files::{OlderFile, OlderFiles};
use crate::db::{Error, Settings};

/// An older server's table, as it was when the import began.
pub struct OlderTable {
    settings: Settings,
    files: OlderFiles,
}

impl OlderTable {
    /// Opens the table by one of the functions of [`OlderFiles`].
    ///
    /// # Errors
    /// A sentence for the operator, as from all functions here.
    pub fn open(
        settings: &Settings,
        table: &str,
        open: impl FnOnce(&Settings, &str) -> Result<OlderFiles, Error>,
    ) -> Result<OlderTable, String> {
        let files = open(settings, table);
        Ok(OlderTable {
            files: files.map_err(|error| explain(&error, settings))?,
            settings: settings.clone(),
        })
    }

    /// The number of its rows.
    pub fn count(&mut self) -> Result<u64, String> {
        self.try_to(OlderFiles::count)
    }

    /// The names of further tables with files.
    pub fn further_tables(&mut self) -> Result<Vec<String>, String> {
        self.try_to(OlderFiles::further_tables)
    }

    /// The next rows; none after the last.
    pub fn rows(&mut self) -> Result<Vec<OlderFile>, String> {
        self.try_to(OlderFiles::fetch)
    }

    /// The bytes of files whose rows hold them, in the same order.
    pub fn bytes(&mut self, wanted: &[Candidate]) -> Result<Vec<Result<Content, Refusal>>, String> {
        let ids: Vec<&str> = wanted.iter().map(|file| file.id.as_str()).collect();
        let mut found = self.try_to(|files| files.bytes(&ids))?;
        let content = |id: &str| match found.remove(id) {
            Some(bytes) => Ok(Box::new(bytes) as Content),
            None => Err(Refusal::Missing),
        };
        Ok(ids.into_iter().map(content).collect())
    }

    fn try_to<T>(
        &mut self,
        ask: impl FnOnce(&mut OlderFiles) -> Result<T, Error>,
    ) -> Result<T, String> {
        ask(&mut self.files).map_err(|error| explain(&error, &self.settings))
    }
}

fn explain(error: &Error, settings: &Settings) -> String {
    let name = settings.database_name();
    format!("the older server's database {name} can't be read: {error}; check --from and --table")
}
