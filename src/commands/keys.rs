//! `keys`: prints the public keys, and the URLs that clients use.

use crate::config::Config;
use crate::output::print;

/// Prints the public keys. Creates no key.
///
/// # Errors
/// A sentence for the operator.
pub fn run(config: &Config) -> Result<(), String> {
    let path = &config.keys.ed25519;
    if matches!(path.try_exists(), Ok(false)) {
        let path = path.display();
        return Err(format!(
            "there is no key in {path} yet; serve makes it when it first starts"
        ));
    }
    print(&config.keys.load()?.describe())
}
