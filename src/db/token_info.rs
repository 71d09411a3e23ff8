//! The tables of the session token, which another program fills.

use std::time::SystemTime;

use super::connection::Connection;
use super::error::Error;

/// The most rows of the history that are read. Far fewer are written in a month; of more, the
/// oldest are left out.
const MAX_HISTORY: i64 = 10_000;

/// The statistics of the session token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenInfo {
    /// The largest possible number of tokens.
    pub maximum_supply: Option<i64>,
    /// The number of tokens sent to each node.
    pub sent_per_node: Option<i64>,
    /// The number of tokens in the pool from which nodes are rewarded.
    pub staking_reward_pool: Option<i64>,
    /// The history, oldest first.
    pub history: Vec<TokenHistory>,
}

/// An entry of the token's history.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenHistory {
    /// The token's value, a decimal number, which a float would not hold exactly.
    pub current_value: Option<String>,
    /// The number of tokens in circulation.
    pub circulating_supply: Option<i64>,
    /// The number of nodes in the network.
    pub total_nodes: Option<i64>,
    /// When these numbers were gathered.
    pub updated: SystemTime,
}

const SELECT_STATS: &str = "SELECT maximum_supply::int8, sent_per_node::int8, \
         staking_reward_pool::int8 FROM session_token_stats LIMIT 1";

/// Selects the history. Days start at midnight UTC, whatever the database's time zone is.
const SELECT_HISTORY: &str = "SELECT current_value::text, circulating_supply::int8, \
         total_nodes::int8, updated FROM session_token_history \
     WHERE updated >= (date_trunc('day', now() AT TIME ZONE 'UTC') - make_interval(days => $1)) \
         AT TIME ZONE 'UTC' \
     ORDER BY updated DESC LIMIT $2";

impl Connection {
    /// Reads the token's statistics, with the history since the start of the day `days` ago. `None`
    /// if there are none.
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
