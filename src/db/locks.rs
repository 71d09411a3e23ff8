//! Descriptions of the transaction that holds a lock for which we waited in vain.

use std::time::SystemTime;

use super::connection::OpenConnection;
use crate::quantity;

/// Selects the oldest transaction that holds locks on our tables, or on their partitions. The start
/// of other users' transactions is hidden; they come first, because ours are short.
const SELECT_HOLDER: &str = "SELECT relation::regclass::text, pid, usename::text, \
         application_name, xact_start \
     FROM pg_locks JOIN pg_stat_activity USING (pid) \
     WHERE locktype = 'relation' AND granted AND pid <> pg_backend_pid() \
         AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND relation = ANY(ARRAY(SELECT to_regclass(name)::oid FROM unnest($1::text[]) name \
             UNION SELECT inhrelid FROM unnest($1::text[]) name \
                 JOIN pg_inherits ON inhparent = to_regclass(name))) \
     ORDER BY xact_start NULLS FIRST LIMIT 1";

/// A sentence about the oldest transaction that holds a lock on one of `tables`.
pub(super) fn describe_holder(
    open: &mut OpenConnection,
    tables: &[&str],
) -> Result<String, postgres::Error> {
    let Some(row) = open.query_opt(SELECT_HOLDER, &[&tables])? else {
        return Ok("another program was using its tables, and has ended now".into());
    };
    let (table, pid): (String, i32) = (row.try_get(0)?, row.try_get(1)?);
    let user: Option<String> = row.try_get(2)?;
    let program = match row.try_get::<_, Option<String>>(3)? {
        Some(name) if !name.is_empty() => name,
        _ => "a program".into(),
    };
    let since = match row.try_get::<_, Option<SystemTime>>(4)? {
        Some(start) => format!(", since {}", quantity::distance(start, SystemTime::now())),
        None => String::new(),
    };
    Ok(format!(
        "{program} (process {pid} of the user {}{since}) is using its table {table}",
        user.unwrap_or_else(|| "?".into())
    ))
}
