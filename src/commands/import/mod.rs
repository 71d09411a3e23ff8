//! `import`: takes over the files of an older server.
//!
//! A [`FileSource`] lists files and reads them. One thread reads the files that the database
//! lacks, and a few others write them, so that neither side waits for the other. The bytes of
//! stored files are neither read nor overwritten; only their times of upload and expiry become
//! the later ones. So an import can be repeated after an interruption, or to catch up.

mod database;
mod directory;
mod older_table;
mod pools;
mod progress;
mod report;
mod source;
mod transfer;

use std::path::PathBuf;
use std::sync::Arc;

use super::explain::explain;
use crate::config::Config;
use crate::db::{Database, Settings};
use crate::{output, quantity};
use report::Report;
use source::FileSource;
use transfer::{target_failed, transfer};

/// The place from which an import takes files.
#[derive(Clone, Debug)]
pub enum Origin {
    /// The oldest server's folder.
    Directory(PathBuf),
    /// The storage pools of the newest Python server: the folder of the pools, and the table with
    /// the rows of the files in them.
    Pools(PathBuf, OlderTable),
    /// A table that holds the files' bytes.
    Database(OlderTable),
}

/// An older server's table of files, as the command line names it.
#[derive(Clone, Debug, Default)]
pub struct OlderTable {
    /// The database; by default that of the configuration.
    pub database: Option<Settings>,
    /// The table's name in SQL; by default `files`.
    pub name: Option<String>,
}

impl Origin {
    /// The command that takes over another table from the same place, without `--table`.
    fn command(&self) -> String {
        let (words, table) = match self {
            Origin::Directory(_) => return String::new(),
            Origin::Pools(folder, table) => (format!("pools {}", folder.display()), table),
            Origin::Database(table) => ("database".into(), table),
        };
        match table.database {
            Some(_) => format!("import {words} --from DATABASE_URL"),
            None => format!("import {words}"),
        }
    }
}

impl OlderTable {
    fn settings<'a>(&'a self, config: &'a Config) -> &'a Settings {
        self.database.as_ref().unwrap_or(&config.database)
    }

    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("files")
    }
}

/// Takes over all files, and prints how many were taken, skipped and refused.
///
/// # Errors
/// A sentence for the operator: the import ended early, or some files were refused. It can be
/// repeated.
pub fn run(from: Origin, config: &Config) -> Result<(), String> {
    let database = Database::new(config.database.clone());
    let prepared = database.connection().prepare_schema();
    prepared.map_err(|error| explain(&error, config))?;
    let command = from.command();
    let mut source: Box<dyn FileSource> = match from {
        Origin::Directory(folder) => {
            Box::new(directory::Directory::open(&folder, config.files.expiry)?)
        }
        Origin::Pools(folder, table) => {
            let settings = table.settings(config);
            Box::new(pools::Pools::open(folder, settings, table.name())?)
        }
        Origin::Database(table) => {
            let settings = table.settings(config);
            Box::new(database::OlderDatabase::open(settings, table.name())?)
        }
    };
    let further_tables = describe_tables(&source.further_tables()?, &command);
    let report = Arc::new(Report::default());
    let outcome = transfer(source, &database, config, &report);
    let flushed = database.connection().wait_for_disk();
    output::mention(&output::printable(&report.summary()));
    output::mention(&output::printable(&further_tables));
    outcome?;
    flushed.map_err(|error| target_failed(&error, config))?;
    match report.refusals() {
        0 => Ok(()),
        count => Err(format!(
            "{} not taken, for the reasons above; put right what can be, and repeat the import",
            if count == 1 {
                "1 file was".into()
            } else {
                quantity::number(count) + " files were"
            }
        )),
    }
}

/// A hint for each further table of files, with the command that takes it over. The names of
/// `tables` are as in SQL.
pub fn describe_tables(tables: &[String], command: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.".contains(c);
    let hint = |table: &String| {
        let word = if table.chars().all(plain) {
            table.clone()
        } else {
            format!("'{}'", table.replace('\'', "'\\''"))
        };
        format!(
            "the table {table} holds files too; if it is the older server's BACKUP_TABLE, take \
             them over with\n  session-file-server {command} --table {word}\n"
        )
    };
    tables.iter().map(hint).collect()
}
