//! The import of the oldest server's files: `DIR/files/main_files/<decimal id>`.

use std::fs::{self, ReadDir};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::report::{Refusal, Report};
use super::source::{Candidate, Content, FileSource};
use crate::protocol::file_id::FileId;

/// The number of directory entries in a batch.
const BATCH: usize = 500;

/// The folder of the oldest server's files.
pub struct Directory {
    folder: PathBuf,
    /// The entries that are not listed yet.
    entries: ReadDir,
    /// The lifetime of a file after its modification.
    expiry: Duration,
}

impl Directory {
    /// Opens the folder of files below the oldest server's folder.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn open(root: &Path, expiry: Duration) -> Result<Directory, String> {
        let folder = root.join("files/main_files");
        Ok(Directory {
            entries: entries(&folder)?,
            folder,
            expiry,
        })
    }

    fn candidate(&self, entry: &fs::DirEntry) -> Result<Candidate, Refusal> {
        let id = entry.file_name().to_str().and_then(decimal_id);
        let id = id.ok_or(Refusal::Name("no decimal id"))?;
        // This doesn't follow symbolic links, which that server doesn't make.
        let metadata = entry.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(Refusal::Name("no plain file"));
        }
        let modified = metadata.modified().map_err(unreadable)?;
        // A time in the future, from a wrong clock, must not extend the file's life.
        let uploaded = modified.min(SystemTime::now());
        Ok(Candidate {
            id,
            path: entry.path(),
            size: metadata.len(),
            uploaded,
            expires: uploaded + self.expiry,
        })
    }
}

impl FileSource for Directory {
    fn count(&mut self) -> Result<u64, String> {
        Ok(entries(&self.folder)?.count() as u64)
    }

    fn list(&mut self, report: &Report) -> Result<Option<Vec<Candidate>>, String> {
        let mut listed = Vec::with_capacity(BATCH);
        let mut seen = 0;
        while seen < BATCH {
            let Some(entry) = self.entries.next() else {
                break;
            };
            seen += 1;
            let entry = entry.map_err(|error| cannot_list(&self.folder, &error))?;
            match self.candidate(&entry) {
                Ok(candidate) => listed.push(candidate),
                Err(refusal) => report.refused(&entry.file_name().to_string_lossy(), &refusal),
            }
        }
        Ok((seen > 0).then_some(listed))
    }

    fn read(&mut self, wanted: &[Candidate]) -> Result<Vec<Result<Content, Refusal>>, String> {
        Ok(wanted.iter().map(read_file).collect())
    }
}

/// Reads a file's bytes. Reads one byte more than the file had when it was listed, so that a file
/// that has grown is noticed.
pub fn read_file(file: &Candidate) -> Result<Content, Refusal> {
    use std::io::Read;
    let opened = fs::File::open(&file.path).map_err(unreadable)?;
    let mut bytes = Vec::with_capacity(file.size as usize + 1);
    let read = opened.take(file.size + 1).read_to_end(&mut bytes);
    read.map_err(unreadable)?;
    if bytes.len() as u64 == file.size {
        Ok(Box::new(bytes))
    } else {
        Err(Refusal::Unreadable("it changes while it is read".into()))
    }
}

/// The refusal of a file that the system can't open or read.
pub fn unreadable(error: std::io::Error) -> Refusal {
    match error.kind() {
        ErrorKind::NotFound => Refusal::Missing,
        _ => Refusal::Unreadable(error.to_string()),
    }
}

fn entries(folder: &Path) -> Result<ReadDir, String> {
    fs::read_dir(folder).map_err(|error| cannot_list(folder, &error))
}

fn cannot_list(folder: &Path, error: &std::io::Error) -> String {
    let shown = folder.display();
    match error.kind() {
        ErrorKind::NotFound => format!(
            "there is no folder {shown}; name the folder of the older server, in which \
             files/main_files is"
        ),
        _ => format!(
            "the folder {shown} can't be read: {error}; let this user read it, for example \
             with setfacl"
        ),
    }
}

/// Parses an id as the oldest server writes it: decimal, without leading zeros.
fn decimal_id(name: &str) -> Option<FileId> {
    let digits = !name.is_empty() && name.bytes().all(|digit| digit.is_ascii_digit());
    let canonical = digits && (name == "0" || !name.starts_with('0'));
    canonical.then(|| FileId::parse(name)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_decimal_numbers_are_ids_of_the_oldest_server() {
        for id in ["0", "7", "9007199254740991"] {
            assert_eq!(decimal_id(id).expect("an id").as_str(), id);
        }
        let too_long = "1".repeat(45);
        for name in ["", "007", "12a", "-1", "1.jpg", "١", &too_long] {
            assert!(decimal_id(name).is_none(), "{name:?}");
        }
    }
}
