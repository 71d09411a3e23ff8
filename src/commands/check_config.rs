//! `check-config`: checks what can be checked beyond the configuration file itself.

use super::check_system;
use crate::config::Config;
use crate::output;
use crate::upkeep::github::GitHub;

/// Checks the proxy for GitHub, and prints the warnings of a valid configuration. With `system` it
/// also checks whether the configuration fits the machine and the database.
///
/// # Errors
/// A sentence for the operator.
pub fn run(config: &Config, system: bool) -> Result<(), String> {
    if config.versions.enabled {
        GitHub::new(&config.versions)?;
    }
    for warning in config.warnings() {
        output::complain(&format!("warning: {warning}"));
    }
    if system {
        check_system::run(config)?;
    }
    output::mention("the configuration is fine\n");
    Ok(())
}
