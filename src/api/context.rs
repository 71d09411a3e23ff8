//! What a handler is, and what it may use.

use crate::cache::files::FileCache;
use crate::cache::releases::ReleaseCache;
use crate::config::Config;
use crate::db;
use crate::protocol::http::{Request, Response};
use crate::protocol::keys::ServerKeys;
use crate::statistics::Statistics;

/// What a handler answers a request with.
pub type Handler = fn(&Request, &mut Context) -> Response;

/// What a worker lends to the handlers that it runs.
pub struct Context<'a> {
    /// The operator's settings.
    pub config: &'a Config,
    /// The worker's own connection.
    pub db: &'a mut db::Connection,
    /// Whether the database answers at all.
    pub probe: &'a db::Probe,
    /// The server's keys.
    pub keys: &'a ServerKeys,
    /// Recent files.
    pub cache: &'a FileCache,
    /// What was read of Session's releases lately.
    pub versions: &'a ReleaseCache,
    /// What is counted for the operator.
    pub statistics: &'a Statistics,
}

/// The answer to a failed statement: 503 while the database is away, else 500 and a line in the log.
pub fn database_error(error: &db::Error) -> Response {
    match error {
        db::Error::Unavailable(reason) | db::Error::Refused(reason) => {
            log::debug!("answered 503: {reason}");
            Response::unavailable()
        }
        other => {
            log::error!("answered 500: {other}");
            Response::error(500)
        }
    }
}
