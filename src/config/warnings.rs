//! Warnings about valid settings whose consequences an operator may not want.

use std::time::Duration;

use super::Config;

/// The shortest lifetime of files that loses none. Messages live for 14 days on Session's network,
/// and clients renew an avatar when it is 12 days old.
const LEAST_EXPIRY: Duration = Duration::from_secs(14 * 24 * 60 * 60);

impl Config {
    /// A sentence for each warning, starting with the key.
    pub fn warnings(&self) -> Vec<String> {
        let files = &self.files;
        let mut warnings = self.database.warnings("database.url");
        if let Some(replicas) = &self.replicas {
            warnings.extend(replicas.warnings("database.read_url"));
        }
        if files.expiry < LEAST_EXPIRY {
            warnings.push(
                "files.expiry: below 14 days avatars are lost, because clients renew them after \
                 12 days at the earliest, and messages outlive their attachments; use 14 days \
                 or more"
                    .to_string(),
            );
        } else if files.max_ttl.is_some_and(|ttl| ttl < LEAST_EXPIRY) {
            warnings.push(
                "files.max_ttl: clients that ask for 14 days get less, and lose avatars and \
                 attachments by that; use 14 days or more, or 0 to ignore what they ask for"
                    .to_string(),
            );
        }
        if files.numeric_ids {
            warnings.push(
                "files.numeric_ids: clients can't extend files with numeric ids (404), and each \
                 upload of the same file is stored once more; only session.js and session-python \
                 need such ids"
                    .to_string(),
            );
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_loses_files_or_forbids_to_extend_them_is_warned_of() {
        for (text, expected) in [
            ("", &[][..]),
            ("files.expiry = '14 days'", &[]),
            ("files.expiry = '13 days'", &["files.expiry"]),
            (
                "files.expiry = '13 days'\nfiles.max_ttl = '13 days'",
                &["files.expiry"],
            ),
            ("files.max_ttl = '13 days'", &["files.max_ttl"]),
            ("files.max_ttl = 0", &[]),
            ("files.numeric_ids = true", &["files.numeric_ids"]),
            (
                "files.expiry = '1 h'\nfiles.numeric_ids = true",
                &["files.expiry", "files.numeric_ids"],
            ),
        ] {
            let config = Config::parse(text, Path::new("config.toml")).expect("no mistakes");
            let warnings = config.warnings();
            let keys = warnings
                .iter()
                .filter_map(|warning| warning.split(':').next());
            assert_eq!(keys.collect::<Vec<_>>(), expected, "{text}");
        }
    }
}
