//! `GET /token_info`: statistics of the session token, which another program writes into the
//! database.

use serde_json::{Value, json};

use super::context::{Context, database_error};
use crate::db::TokenHistory;
use crate::protocol::http::{Request, Response, unix_seconds};

/// How many days of history a client may ask for.
const DAYS: std::ops::RangeInclusive<i32> = 1..=30;
/// How many days of history a client gets that asks for none, or for a number outside [`DAYS`].
const DEFAULT_DAYS: i32 = 7;

/// The token's statistics with their history; 502 if there are none.
pub fn show(request: &Request, context: &mut Context) -> Response {
    let days = request.query("days").and_then(|days| days.parse().ok());
    let days = days
        .filter(|days| DAYS.contains(days))
        .unwrap_or(DEFAULT_DAYS);
    match context.db.token_info(days) {
        Ok(Some(info)) => {
            let history: Vec<Value> = info.history.iter().map(history_json).collect();
            let info = json!({
                "maximum_supply": info.maximum_supply,
                "sent_per_node": info.sent_per_node,
                "staking_reward_pool": info.staking_reward_pool,
                "history": history,
            });
            Response::json(200, &json!({ "status_code": 200, "info": info }))
        }
        Ok(None) => Response::error(502),
        Err(error) => database_error(&error),
    }
}

fn history_json(entry: &TokenHistory) -> Value {
    json!({
        "current_value": entry.current_value,
        "circulating_supply": entry.circulating_supply,
        "total_nodes": entry.total_nodes,
        "updated": unix_seconds(entry.updated),
    })
}
