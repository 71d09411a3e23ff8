//! Errors of the database, explained for the operator.

use crate::config::Config;
use crate::db;

/// A sentence about an error of the database, and what the operator can do about it.
pub fn explain(error: &db::Error, config: &Config) -> String {
    let name = config.database.database_name();
    match error {
        db::Error::Refused(text) => format!(
            "the database {name} can't be used: {text}; check database.url, and that the \
             database and its user exist (as the user postgres: createuser USER; createdb -O \
             USER {name})"
        ),
        db::Error::Forbidden(text) => {
            format!("the database {name} forbids this server's user what it needs: {text}")
        }
        db::Error::Layout(text) => {
            format!("the database {name} can't be used as it is: {text}")
        }
        db::Error::Pooler(text) => {
            format!("the database {name} can't be used through its pooler: {text}")
        }
        db::Error::Busy(text) => format!(
            "the tables of the database {name} can't be changed now: {text}; repeat this when \
             that has ended"
        ),
        db::Error::Unavailable(text) => format!(
            "the database {name} can't be reached: {text}; check that PostgreSQL runs, and \
             database.url"
        ),
        db::Error::Failed(text) => format!("the database {name} failed: {text}"),
    }
}
