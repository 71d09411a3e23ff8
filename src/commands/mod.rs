//! The commands, a module for each, and [`arguments`], which parses the command line.

mod app;
pub mod arguments;
mod check_config;
mod check_system;
mod explain;
pub mod files;
mod health;
pub mod import;
mod init_db;
mod keys;
mod metrics;
mod rebuild_ids;
mod running;
mod serve;
pub mod status;

use std::path::Path;

use crate::config::{Config, ConfigSource};
use crate::output::{self, print};
use arguments::{Arguments, Command, HELP_TEXT, VERSION_TEXT};

/// Runs the command that the command line names.
///
/// # Errors
/// A sentence for the operator.
pub fn run(arguments: Arguments) -> Result<(), String> {
    let file = arguments.config.as_deref();
    match arguments.command {
        Command::Help => print(HELP_TEXT),
        Command::Version => print(VERSION_TEXT),
        Command::Serve { allow_root } => serve::start(file, allow_root),
        Command::InitDb { rebuild_ids: false } => init_db::run(&config(file)?),
        Command::InitDb { rebuild_ids: true } => rebuild_ids::run(&config(file)?),
        // Without the log, because what it reports must not depend on a level.
        Command::CheckConfig { system } => {
            check_config::run(&ConfigSource::read(file)?.config()?, system)
        }
        Command::Keys => keys::run(&config(file)?),
        // Without the log, because a container asks every half minute.
        Command::Health => health::run(&ConfigSource::read(file)?.config()?),
        Command::Status { json } => status::run(&config(file)?, json),
        Command::Files(action, words) => files::run(&config(file)?, &action, &words),
        Command::Import(from) => import::run(*from, &config(file)?),
    }
}

/// Reads the configuration, and starts the log with its level.
fn config(file: Option<&Path>) -> Result<Config, String> {
    let config = ConfigSource::read(file)?.config()?;
    output::start_logging(config.log_level);
    Ok(config)
}
