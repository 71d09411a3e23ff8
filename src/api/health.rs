//! `GET /health`, for monitors and load balancers.

use std::time::Duration;

use serde_json::json;

use super::context::Context;
use crate::protocol::http::{Request, Response};

/// How long the database may take to answer. Monitors should hear of a slower one.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
/// The query that asks about uploads: `/health?write`.
const WRITE: &str = "write";

/// 200 when the database answers within a second or files are read from a replica, else 503.
/// Whether the database takes uploads, as far as the latest ones have shown, is said by the field
/// `write`; with the query `write`, it is 503 if it doesn't.
pub fn check(request: &Request, context: &mut Context) -> Response {
    let answers = context.probe.answers_within(HEALTH_TIMEOUT);
    if !answers && !context.db.reads_from_replica() {
        return Response::unavailable();
    }
    let writes = answers && context.db.takes_writes();
    if request.query(WRITE).is_some() && !writes {
        return Response::unavailable();
    }
    Response::json(200, &json!({ "status": "ok", "write": writes }))
}
