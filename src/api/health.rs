//! `GET /health`, for monitors and load balancers.

use std::time::Duration;

use serde_json::json;

use super::context::Context;
use crate::protocol::http::{Request, Response};

/// A database that takes longer than this is no use to anybody.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

/// 200 when the database answers within a second, else 503.
pub fn check(_: &Request, context: &mut Context) -> Response {
    match context.probe.answers_within(HEALTH_TIMEOUT) {
        true => Response::json(200, &json!({ "status": "ok" })),
        false => Response::unavailable(),
    }
}
