//! `GET /health`, for monitors and load balancers.

use std::time::Duration;

use serde_json::json;

use super::context::Context;
use crate::protocol::http::{Request, Response};

/// How long the database may take to answer. Monitors should hear of a slower one.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

/// 200 when the database answers within a second, else 503.
pub fn check(_: &Request, context: &mut Context) -> Response {
    if context.probe.answers_within(HEALTH_TIMEOUT) {
        Response::json(200, &json!({ "status": "ok" }))
    } else {
        Response::unavailable()
    }
}
