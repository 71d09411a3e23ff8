//! The type of handlers, and the resources that they use.

use crate::cache::files::FileCache;
use crate::cache::releases::ReleaseCache;
use crate::config::Config;
use crate::db;
use crate::protocol::http::{Request, Response, base64_length};
use crate::protocol::keys::ServerKeys;
use crate::protocol::onion::REPLY_MARGINS;
use crate::request_counts::RequestCount;
use crate::server::Room;
use crate::statistics::Statistics;

/// A handler: answers the requests to one endpoint.
pub type Handler = fn(&Request, &mut Context) -> Response;

/// The resources that a worker lends to a handler.
pub struct Context<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The worker's own connection to the database.
    pub db: &'a mut db::Connection,
    /// The memory for the answer.
    pub room: &'a mut Room,
    /// What becomes of the answer before it is sent.
    pub wrapping: Wrapping,
    /// Whether the handler may write to the database now.
    pub may_write: &'a mut dyn FnMut() -> bool,
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

/// What a reply has around a file at most, bytes.
const REPLY_FRAME: usize = REPLY_MARGINS.before + REPLY_MARGINS.after;

/// What becomes of an answer before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapping {
    /// Nothing: the request was direct.
    None,
    /// It becomes part of the reply to a v4 onion request.
    V4,
    /// It becomes part of the reply to a v3 onion request, which is then encoded in base64.
    V3,
}

impl Wrapping {
    /// The most bytes that are in memory at once for an answer with a file: `fetched` bytes that
    /// were fetched for it, and `encoded` bytes of the same file in the encoding of old clients,
    /// either of which may be 0. Nothing is fetched beside a reply for a file from the cache, and
    /// for one that is wrapped where it lies. The answer has `body` bytes.
    pub fn most_at_once(self, fetched: usize, encoded: usize, body: usize) -> usize {
        // A file is dropped when it is encoded, and an answer when it is wrapped.
        let answer = if encoded > 0 { encoded } else { fetched };
        let reply = body + REPLY_FRAME;
        let wrapping = match self {
            Wrapping::None => answer,
            Wrapping::V4 => answer + reply,
            Wrapping::V3 => (answer + reply).max(reply + base64_length(reply)),
        };
        wrapping.max(fetched + encoded)
    }
}

/// The response when a statement failed: 503 while the database is away, else 500 with a line in
/// the log.
pub fn database_error(error: &db::Error) -> Response {
    match error {
        db::Error::Unavailable(reason) | db::Error::Refused(reason) | db::Error::Pooler(reason) => {
            log::debug!("answered 503: {reason}");
            Response::unavailable()
        }
        other => {
            log::error!("answered 500: {other}");
            Response::error(500)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::largest_answer;

    #[test]
    fn what_is_fetched_encoded_and_wrapped_lies_in_memory_together() {
        for (wrapping, fetched, encoded, body, most) in [
            (Wrapping::None, 0, 0, 90, 0),
            (Wrapping::None, 90, 0, 90, 90),
            (Wrapping::V4, 90, 0, 90, 180),
            (Wrapping::V4, 0, 0, 90, 90),
            (Wrapping::V3, 90, 0, 90, 210),
            (Wrapping::V3, 0, 0, 90, 210),
            (Wrapping::None, 90, 120, 120, 210),
            (Wrapping::V4, 90, 120, 120, 240),
            (Wrapping::V3, 0, 120, 120, 280),
        ] {
            let mb = |number: usize| number * 1_000_000;
            let found = wrapping.most_at_once(mb(fetched), mb(encoded), mb(body));
            let frames = found - mb(most);
            assert!(frames < 3 * REPLY_FRAME, "{wrapping:?} {fetched} {encoded}");
        }
    }

    #[test]
    fn no_answer_takes_more_than_the_least_memory_has_for_one() {
        for size in [1, 10_223_616, 256 * 1024 * 1024] {
            let encoded = base64_length(size) + 100;
            for wrapping in [Wrapping::None, Wrapping::V4, Wrapping::V3] {
                let new = wrapping.most_at_once(size, 0, size);
                let old = wrapping.most_at_once(size, encoded, encoded);
                assert!(new.max(old) <= largest_answer(size), "{size} {wrapping:?}");
            }
        }
    }
}
