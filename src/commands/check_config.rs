//! `check-config`: checks what can be checked beyond the configuration file itself.

use crate::config::Config;
use crate::output;
use crate::upkeep::github::GitHub;

/// Checks the proxy for GitHub, and prints the warnings of a valid configuration.
///
/// # Errors
/// A sentence for the operator.
pub fn run(config: &Config) -> Result<(), String> {
    if config.versions.enabled {
        GitHub::new(&config.versions)?;
    }
    for warning in config.warnings() {
        output::complain(&format!("warning: {warning}"));
    }
    output::mention("the configuration is fine\n");
    Ok(())
}
