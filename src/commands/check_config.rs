//! `check-config`: whether the configuration goes together with what is around it.

use crate::config::Config;
use crate::output;
use crate::upkeep::github::GitHub;

/// Warns of what may not be meant. The configuration has no mistakes of its own when it comes
/// here.
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
