//! The import of the newest Python server's files. Their rows are in a database, and their bytes
//! in the folders of storage pools, `DIR/<pool name>/<prefix>/<id>`. That server's layout of 2025
//! is transitional: newer files are in one folder without pools, `DIR/<prefix>/<id>`, and the
//! bytes of older files are still in the database.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::directory::{read_file, unreadable};
use super::older_table::OlderTable;
use super::report::{Refusal, Report};
use super::source::{Candidate, Content, FileSource, sort_rows};
use crate::db::Settings;
use crate::db::older_files::{OlderFile, OlderFiles, Place};
use crate::protocol::file_id::FileId;

/// The storage pools, and the table with the rows of the files in them.
pub struct Pools {
    folder: PathBuf,
    table: OlderTable,
}

impl Pools {
    /// Opens the pools in `folder`, and the table with their files' rows.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn open(folder: PathBuf, settings: &Settings, table: &str) -> Result<Pools, String> {
        check_folder(&folder)?;
        let table = OlderTable::open(settings, table, OlderFiles::in_pools)?;
        Ok(Pools { folder, table })
    }

    fn candidate(&self, file: &OlderFile) -> Result<Candidate, Refusal> {
        let id = FileId::parse(&file.id).ok_or(Refusal::Name("no file id"))?;
        let (Some(uploaded), Some(expires)) = (file.uploaded, file.expires) else {
            return Err(Refusal::Row("without a time of upload or expiry"));
        };
        let mut candidate = Candidate {
            id,
            path: PathBuf::new(),
            size: 0,
            uploaded,
            expires,
        };
        // An expired file may be gone from the folder. It is listed, and skipped as expired.
        if expires > SystemTime::now() {
            (candidate.path, candidate.size) = self.find(&file.place, &candidate.id)?;
        }
        Ok(candidate)
    }

    /// The path of a file, empty if its row holds its bytes; and its size, bytes.
    fn find(&self, place: &Place, id: &FileId) -> Result<(PathBuf, u64), Refusal> {
        let pool = match place {
            Place::Row(size) => return Ok((PathBuf::new(), *size)),
            Place::Pool(name) => pool_folder(name)?,
            Place::Folder => Path::new(""),
            Place::Unknown => return Err(Refusal::Row("of a storage pool that is unknown")),
        };
        let path = self.folder.join(pool).join(path_in_pool(id)?);
        let metadata = std::fs::metadata(&path).map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(Refusal::Name("no plain file"));
        }
        Ok((path, metadata.len()))
    }
}

impl FileSource for Pools {
    fn count(&mut self) -> Result<u64, String> {
        self.table.count()
    }

    fn further_tables(&mut self) -> Result<Vec<String>, String> {
        self.table.further_tables()
    }

    fn list(&mut self, report: &Report) -> Result<Option<Vec<Candidate>>, String> {
        let rows = self.table.rows()?;
        Ok(sort_rows(&rows, report, |row| self.candidate(row)))
    }

    fn read(&mut self, wanted: &[Candidate]) -> Result<Vec<Result<Content, Refusal>>, String> {
        let is_row = |file: &&Candidate| file.path.as_os_str().is_empty();
        let rows: Vec<Candidate> = wanted.iter().filter(is_row).cloned().collect();
        let mut in_rows = Vec::new();
        if !rows.is_empty() {
            in_rows = self.table.bytes(&rows)?;
        }
        let mut in_rows = in_rows.into_iter();
        let content = |file: &Candidate| {
            if is_row(&file) {
                in_rows.next().unwrap_or(Err(Refusal::Missing))
            } else {
                read_file(file)
            }
        };
        Ok(wanted.iter().map(content).collect())
    }
}

fn check_folder(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    match std::fs::read_dir(folder) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(format!(
            "the folder {shown} can't be read: {error}; let this user read it, for example with \
             setfacl"
        )),
        Err(error) => Err(format!(
            "there is no folder {shown} ({error}); name the folder in which the storage pools are"
        )),
    }
}

/// The folder of a storage pool. A name from the database must not lead out of the folder that the
/// operator has named.
fn pool_folder(name: &str) -> Result<&Path, Refusal> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(Refusal::Row("of a storage pool whose name is no folder's"));
    }
    Ok(Path::new(name))
}

/// The path of a file in its pool. The prefix is the last three digits of a numeric id, or the
/// first two characters of a content id.
fn path_in_pool(id: &FileId) -> Result<PathBuf, Refusal> {
    let text = id.as_str();
    let prefix = if id.is_content_id() {
        text[..2].to_string()
    } else if text.bytes().all(|digit| digit.is_ascii_digit()) {
        format!("{:0>3}", &text[text.len().saturating_sub(3)..])
    } else {
        return Err(Refusal::Name("neither a decimal id nor a content id"));
    };
    Ok(Path::new(&prefix).join(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lies_below_the_prefix_of_its_id() {
        let at = |id: &str| path_in_pool(&FileId::parse(id).expect("an id"));
        let content_id = format!("Ab-{}", "x".repeat(41));
        for (id, path) in [
            ("7", "007/7"),
            ("42", "042/42"),
            ("1234567", "567/1234567"),
            (&content_id, &format!("Ab/{content_id}")),
        ] {
            assert_eq!(at(id), Ok(PathBuf::from(path)));
        }
        assert!(at("abc").is_err());
    }

    #[test]
    fn a_pools_name_leads_nowhere_else() {
        for pool in ["", ".", "..", "../x", "/etc", "a/b"] {
            assert!(pool_folder(pool).is_err(), "{pool:?}");
        }
    }
}
