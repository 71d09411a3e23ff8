//! The type of handlers, and the resources that they use.

use crate::cache::files::FileCache;
use crate::cache::releases::ReleaseCache;
use crate::config::Config;
use crate::db;
use crate::protocol::http::{Request, Response};
use crate::protocol::keys::ServerKeys;
use crate::request_counts::RequestCount;
use crate::statistics::Statistics;

/// A handler: answers the requests to one endpoint.
pub type Handler = fn(&Request, &mut Context) -> Response;

/// The resources that a worker lends to a handler.
pub struct Context<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The worker's own connection to the database.
    pub db: &'a mut db::Connection,
    /// The probe that tells whether the database answers.
    pub probe: &'a db::Probe,
    /// The server's keys.
    pub keys: &'a ServerKeys,
    /// The cache of recent files.
    pub cache: &'a FileCache,
    /// The cache of Session's releases.
    pub versions: &'a ReleaseCache,
    /// The counters.
    pub statistics: &'a Statistics,
    /// The count of this request, which notes what is found out about it.
    pub count: RequestCount<'a>,
}

/// The response when a statement failed: 503 while the database is away, else 500 with a line in
/// the log.
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
