//! The text of the configuration. It is read once, and handed over when the server restarts
//! itself (`exec`).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::Config;

/// The files that are read without `--config`: the first that exists.
pub const DEFAULT_PATHS: [&str; 2] = ["config.toml", "/etc/session-file-server/config.toml"];

/// The largest accepted configuration, bytes. The sample has 6,000.
const MAX_SIZE: u64 = 64 * 1024;

/// The text of a configuration, not yet parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigSource {
    /// The path of the file, for messages. Empty if there is no file and the defaults apply.
    path: PathBuf,
    /// The folder at which relative paths in the file start. Empty for the working directory.
    folder: PathBuf,
    text: String,
}

impl ConfigSource {
    /// Reads the file at `path`; without a path the first of [`DEFAULT_PATHS`] that exists, or
    /// none.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn read(path: Option<&Path>) -> Result<ConfigSource, String> {
        // `sudo -u` keeps the working directory, which is often a home that is closed to the new
        // user: a file that may be there counts only if none is found elsewhere.
        let default = || {
            let paths = || DEFAULT_PATHS.into_iter().map(Path::new);
            let found = paths().find(|path| path.exists());
            found.or_else(|| paths().find(|path| may_exist(path)))
        };
        let Some(path) = path.or_else(default) else {
            return Ok(ConfigSource::default());
        };
        let cannot = |error| format!("{}: cannot be read: {error}", path.display());
        let file = File::open(path).map_err(cannot)?;
        // Found before the file is read, because a pipe may be gone afterwards.
        let folder = folder(path, &file);
        let mut text = String::new();
        let read = file.take(MAX_SIZE + 1).read_to_string(&mut text);
        read.map_err(cannot)?;
        if text.len() as u64 > MAX_SIZE {
            return Err(cannot(io::Error::other(format!(
                "it has more than {MAX_SIZE} bytes, as no configuration has"
            ))));
        }
        Ok(ConfigSource {
            path: path.to_path_buf(),
            folder,
            text,
        })
    }

    /// Parses the text.
    ///
    /// # Errors
    /// A text for the operator, one line per mistake.
    pub fn config(&self) -> Result<Config, String> {
        let name = self.path.file_name().unwrap_or("config.toml".as_ref());
        Config::parse(&self.text, &self.folder.join(name)).map_err(|mistakes| {
            let lines: Vec<String> = mistakes
                .iter()
                .map(|mistake| format!("{}:{mistake}", self.path.display()))
                .collect();
            format!("the configuration has mistakes\n{}", lines.join("\n"))
        })
    }

    /// Encodes path, folder and text, separated by zero bytes, which no path holds.
    pub fn encode(&self) -> Vec<u8> {
        let parts = [
            self.path.as_os_str().as_bytes(),
            self.folder.as_os_str().as_bytes(),
            self.text.as_bytes(),
        ];
        parts.join(&0)
    }

    /// Decodes the bytes that [`ConfigSource::encode`] makes.
    ///
    /// # Errors
    /// When they are incomplete, or the text is not UTF-8.
    pub fn decode(bytes: &[u8]) -> io::Result<ConfigSource> {
        let mut parts = bytes.splitn(3, |byte| *byte == 0);
        let mut next = || {
            parts
                .next()
                .map(<[u8]>::to_vec)
                .ok_or(ErrorKind::UnexpectedEof)
        };
        let mut path = || next().map(|bytes| PathBuf::from(OsString::from_vec(bytes)));
        let (path, folder) = (path()?, path()?);
        let text = String::from_utf8(next()?).map_err(io::Error::other)?;
        Ok(ConfigSource { path, folder, text })
    }
}

/// Whether a file exists at `path`, or may exist. Where this can't be found out, reading the file
/// gives the error.
pub(crate) fn may_exist(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

/// The folder at which relative paths in a configuration start: the folder of its file. For a
/// pipe, /dev/stdin or a shell's `<(…)` it is the working directory instead, so that no key is
/// ever created in /dev or /proc.
fn folder(path: &Path, file: &File) -> PathBuf {
    let parent = || {
        let absolute = std::path::absolute(path).ok()?;
        let parent = absolute.parent()?.to_path_buf();
        let real = fs::canonicalize(&parent).ok()?;
        let is_file = file.metadata().ok()?.is_file();
        let is_place = is_file && real != Path::new("/dev") && !real.starts_with("/proc");
        is_place.then_some(parent)
    };
    parent()
        .or_else(|| std::env::current_dir().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_on_comes_back_as_it_was() {
        for (path, folder, text) in [
            ("", "", ""),
            (
                "/dev/fd/63",
                "/srv/wörk\nspace",
                "database.url = 'password=x'\n\0",
            ),
        ] {
            let source = ConfigSource {
                path: path.into(),
                folder: folder.into(),
                text: text.into(),
            };
            let decoded = ConfigSource::decode(&source.encode());
            assert_eq!(decoded.expect("whole"), source);
        }
        assert!(ConfigSource::decode(b"a\0b").is_err());
    }

    #[test]
    fn what_is_no_file_in_a_folder_has_the_working_directory() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("config.toml");
        fs::write(&path, "").expect("writable");
        let of = |path: &Path| folder(path, &File::open(path).expect("there"));
        assert_eq!(of(&path), place.path());
        let here = std::env::current_dir().expect("there");
        assert_eq!(of(Path::new("/dev/null")), here);
        assert_eq!(of(Path::new("/proc/self/status")), here);
        let file = File::open(&path).expect("there");
        let by_number = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        assert_eq!(of(Path::new(&by_number)), here);
    }
}
