//! Passwords that are not in `database.url`: they come from the environment, or from a password
//! file in libpq's format (`~/.pgpass`).

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use zeroize::Zeroizing;

/// The number of bytes of a password file that are read.
const MAX_FILE: u64 = 64 * 1024;
/// Whether the unusable file in the home folder was warned of. Every connection looks there.
static WARNED: Once = Once::new();

/// The login whose password is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// The host's name or address; `localhost` for a Unix socket.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// The database.
    pub database: &'a str,
    /// The user.
    pub user: &'a str,
}

/// Finds the password for a login: in `PGPASSWORD`, or else in the password file, which is `file`,
/// `PGPASSFILE` or `~/.pgpass`. `None` if there is none.
///
/// # Errors
/// A sentence for the operator about a named file that can't be used. For the file in the home
/// folder there is only a warning, as with libpq.
pub fn find(file: Option<&Path>, login: Login) -> Result<Option<Zeroizing<String>>, String> {
    if let Some(password) = set("PGPASSWORD") {
        return Ok(Some(Zeroizing::new(password)));
    }
    let named = file
        .map(Path::to_path_buf)
        .or_else(|| set("PGPASSFILE").map(PathBuf::from));
    if let Some(path) = named {
        return match read(&path) {
            Ok(text) => Ok(password_in(&text, login)),
            Err(error) => Err(unusable(&path, &error)),
        };
    }
    let Some(path) = set("HOME").map(|home| Path::new(&home).join(".pgpass")) else {
        return Ok(None);
    };
    match read(&path) {
        Ok(text) => Ok(password_in(&text, login)),
        Err(error) => {
            // Without such a folder, or in somebody else's, there is none.
            let is_absent = matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied
            );
            if !is_absent {
                WARNED.call_once(|| log::warn!("{}", unusable(&path, &error)));
            }
            Ok(None)
        }
    }
}

fn set(variable: &str) -> Option<String> {
    std::env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
}

fn unusable(path: &Path, error: &io::Error) -> String {
    format!(
        "the password file {} can't be used: {error}",
        path.display()
    )
}

fn read(path: &Path) -> io::Result<Zeroizing<String>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        return Err(io::Error::other("others can read it; run chmod 600 on it"));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// The password in the first line that matches: `host:port:database:user:password`. A field `*`
/// matches everything, a backslash escapes a colon or a backslash, and a line that starts with `#`
/// is a comment (PostgreSQL, "The Password File").
fn password_in(file: &str, login: Login) -> Option<Zeroizing<String>> {
    let port = login.port.to_string();
    let wanted = [login.host, &port, login.database, login.user];
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut rest = line;
            for wanted in wanted {
                let (field, after) = next_field(rest)?;
                if field != "*" && unescaped(field) != wanted {
                    return None;
                }
                rest = after;
            }
            let password = next_field(rest).map_or(rest, |(password, _)| password);
            Some(Zeroizing::new(unescaped(password).into_owned()))
        })
        .next()
}

/// Splits a line at its first colon that isn't escaped.
fn next_field(line: &str) -> Option<(&str, &str)> {
    let mut is_escaped = false;
    let colon = line.find(|c| {
        let is_end = c == ':' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    })?;
    Some((&line[..colon], &line[colon + 1..]))
}

fn unescaped(field: &str) -> Cow<'_, str> {
    if !field.contains('\\') {
        return field.into();
    }
    let mut text = String::with_capacity(field.len());
    let mut characters = field.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.extend(characters.next()),
            other => text.push(other),
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let file = "# a comment\n\
             elsewhere:5432:files:session:no\n\
             db.example:5432:files:session:s\\:e\\\\cret\n\
             db.example:5432:*:*:other\n\
             localhost:*:*:session:with: more\n\
             short:5432\n\
             \\:\\:1:5433:a\\:b:c:six\n\
             *:*:*:any:last";
        let password = |host, port, database, user| {
            let login = Login {
                host,
                port,
                database,
                user,
            };
            password_in(file, login).map(|password| password.to_string())
        };
        assert_eq!(
            password("db.example", 5432, "files", "session").as_deref(),
            Some("s:e\\cret")
        );
        assert_eq!(
            password("db.example", 5432, "files", "x").as_deref(),
            Some("other")
        );
        assert_eq!(
            password("localhost", 1, "files", "session").as_deref(),
            Some("with")
        );
        assert_eq!(password("::1", 5433, "a:b", "c").as_deref(), Some("six"));
        assert_eq!(password("short", 5432, "x", "any").as_deref(), Some("last"));
        assert_eq!(password("short", 5432, "x", "nobody"), None);
        assert!(
            password_in(
                "",
                Login {
                    host: "a",
                    port: 1,
                    database: "b",
                    user: "c"
                }
            )
            .is_none()
        );
    }
}
