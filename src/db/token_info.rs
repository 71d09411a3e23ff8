//! The tables of the session token, which another program fills.

use std::time::SystemTime;

use super::connection::Connection;
use super::error::Error;

/// Far more rows than are written in a month; beyond it the oldest are left away.
const MAX_HISTORY: i64 = 10_000;

/// The numbers of the session token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenInfo {
    /// Tokens that there can be at most.
    pub maximum_supply: Option<i64>,
    /// Tokens sent to each node.
    pub sent_per_node: Option<i64>,
    /// Tokens in the pool that nodes are paid from.
    pub staking_reward_pool: Option<i64>,
    /// Oldest first.
    pub history: Vec<TokenHistory>,
}

/// The numbers at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenHistory {
    /// A decimal number: money is no float.
    pub current_value: Option<String>,
    /// Tokens in circulation.
    pub circulating_supply: Option<i64>,
    /// Nodes of the network.
    pub total_nodes: Option<i64>,
    /// When it was so.
    pub updated: SystemTime,
}

const SELECT_STATS: &str = "SELECT maximum_supply::int8, sent_per_node::int8, \
         staking_reward_pool::int8 FROM session_token_stats LIMIT 1";

/// Days start at midnight UTC, whatever the database's time zone is.
const SELECT_HISTORY: &str = "SELECT current_value::text, circulating_supply::int8, \
         total_nodes::int8, updated FROM session_token_history \
     WHERE updated >= (date_trunc('day', now() AT TIME ZONE 'UTC') - make_interval(days => $1)) \
         AT TIME ZONE 'UTC' \
     ORDER BY updated DESC LIMIT $2";

impl Connection {
    /// The token's numbers, with their history since the start of the day `days` ago;
    /// `None` if there are none.
    ///
    /// # Errors
    /// Those of the database.
    pub fn token_info(&mut self, days: i32) -> Result<Option<TokenInfo>, Error> {
        self.repeatable(|open| {
            let Some(stats) = open.query_opt(SELECT_STATS, &[])? else {
                return Ok(None);
            };
            let rows = open.query(SELECT_HISTORY, &[&days, &MAX_HISTORY])?;
            let read = |row: &postgres::Row| {
                Ok(TokenHistory {
                    current_value: row.try_get(0)?,
                    circulating_supply: row.try_get(1)?,
                    total_nodes: row.try_get(2)?,
                    updated: row.try_get(3)?,
                })
            };
            let history: Result<Vec<_>, postgres::Error> = rows.iter().rev().map(read).collect();
            Ok(Some(TokenInfo {
                maximum_supply: stats.try_get(0)?,
                sent_per_node: stats.try_get(1)?,
                staking_reward_pool: stats.try_get(2)?,
                history: history?,
            }))
        })
    }
}
