//! The newest Python server's files: rows in a database, bytes in the folders of storage
//! pools, `DIR/<pool name>/<prefix>/<id>`.

use std::path::{Path, PathBuf};

use super::directory::{read_file, unreadable};
use super::report::{Refusal, Report};
use super::{Candidate, Content, Source, sort_rows, source_failed};
use crate::db::Settings;
use crate::db::import::{OlderFile, OlderFiles};
use crate::file_id::FileId;

/// Storage pools with the database that knows what is in them.
pub struct Pools {
    folder: PathBuf,
    settings: Settings,
    files: OlderFiles,
}

impl Pools {
    /// The files of the pools in `folder`.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn open(folder: PathBuf, settings: &Settings) -> Result<Pools, String> {
        if !folder.is_dir() {
            return Err(format!(
                "there is no folder {}; name the folder in which the storage pools are",
                folder.display()
            ));
        }
        let files = OlderFiles::in_pools(settings);
        Ok(Pools {
            folder,
            files: files.map_err(|error| source_failed(&error, settings))?,
            settings: settings.clone(),
        })
    }

    fn candidate(&self, file: &OlderFile) -> Result<Candidate, Refusal> {
        let id = FileId::parse(&file.id).ok_or(Refusal::Name("no file id"))?;
        let pool = file.pool.as_deref();
        let pool = pool.ok_or(Refusal::Row("of a storage pool that is unknown"))?;
        let place = place(pool, &id)?;
        let path = self.folder.join(place);
        let metadata = std::fs::metadata(&path).map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(Refusal::Name("no plain file"));
        }
        let (Some(uploaded), Some(expires)) = (file.uploaded, file.expires) else {
            return Err(Refusal::Row("without a time of upload or expiry"));
        };
        Ok(Candidate {
            id,
            path,
            size: metadata.len(),
            uploaded,
            expires,
        })
    }
}

impl Source for Pools {
    fn count(&mut self) -> Result<u64, String> {
        let count = self.files.count();
        count.map_err(|error| source_failed(&error, &self.settings))
    }

    fn list(&mut self, report: &Report) -> Result<Option<Vec<Candidate>>, String> {
        let files = self.files.fetch();
        let files = files.map_err(|error| source_failed(&error, &self.settings))?;
        Ok(sort_rows(&files, report, |row| self.candidate(row)))
    }

    fn read(&mut self, wanted: &[Candidate]) -> Result<Vec<Result<Content, Refusal>>, String> {
        Ok(wanted.iter().map(read_file).collect())
    }
}

/// Where a file lies: below its pool, under the last three decimal digits of a numeric id
/// or the first two characters of a content id.
fn place(pool: &str, id: &FileId) -> Result<PathBuf, Refusal> {
    // A name in a database must not lead out of the folder.
    if pool.is_empty() || pool.contains('/') || pool == "." || pool == ".." {
        return Err(Refusal::Row("of a storage pool whose name is no folder's"));
    }
    let text = id.as_str();
    let prefix = if id.is_content_id() {
        text[..2].to_string()
    } else if text.bytes().all(|digit| digit.is_ascii_digit()) {
        format!("{:0>3}", &text[text.len().saturating_sub(3)..])
    } else {
        return Err(Refusal::Name("neither a decimal id nor a content id"));
    };
    Ok(Path::new(pool).join(prefix).join(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lies_below_the_prefix_of_its_id() {
        let at = |id: &str| place("main", &FileId::parse(id).expect("an id"));
        let content_id = format!("Ab-{}", "x".repeat(41));
        for (id, path) in [
            ("7", "main/007/7"),
            ("42", "main/042/42"),
            ("1234567", "main/567/1234567"),
            (&content_id, &format!("main/Ab/{content_id}")),
        ] {
            assert_eq!(at(id), Ok(PathBuf::from(path)));
        }
        assert!(at("abc").is_err());
    }

    #[test]
    fn a_pools_name_leads_nowhere_else() {
        let id = FileId::parse("7").expect("an id");
        for pool in ["", ".", "..", "../x", "/etc", "a/b"] {
            assert!(place(pool, &id).is_err(), "{pool:?}");
        }
    }
}
