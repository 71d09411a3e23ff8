//! What the database has for its users, for the check whether the server's settings fit it.

use super::connection::{Connection, OpenConnection};
use super::error::Error;

/// Selects what [`Capacity`] holds. `reserved_connections` exists since PostgreSQL 16. A setting
/// that our user may not see has no row in `pg_settings`.
const SELECT_CAPACITY: &str = "SELECT current_setting('max_connections')::int8, \
         current_setting('superuser_reserved_connections')::int8 \
             + coalesce(current_setting('reserved_connections', true), '0')::int8, \
         (SELECT min(connections)::int8 \
             FROM (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user \
                 UNION ALL SELECT datconnlimit FROM pg_database \
                     WHERE datname = current_database()) AS limits (connections) \
             WHERE connections >= 0), \
         pg_size_bytes(current_setting('shared_buffers')), \
         inet_server_addr() IS NULL OR inet_server_addr() = inet_client_addr(), \
         pg_database_size(current_database()), \
         (SELECT setting FROM pg_settings WHERE name = 'data_directory')";

/// What a database has for its users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// `max_connections` of PostgreSQL.
    pub max_connections: u64,
    /// The part of these that is reserved for others than ordinary users.
    pub reserved: u64,
    /// The connections that our user or our database may have, if there is a limit.
    pub limit: Option<u64>,
    /// `shared_buffers`, bytes.
    pub shared_buffers: u64,
    /// Whether PostgreSQL runs on this machine, as far as its address tells.
    pub is_local: bool,
    /// The size of the database on disk, bytes.
    pub size: u64,
    /// Where PostgreSQL's data are, if our user may know.
    pub data_directory: Option<String>,
}

impl Capacity {
    /// The connections that our user may have at most.
    pub fn connections(&self) -> u64 {
        let of_all = self.max_connections.saturating_sub(self.reserved);
        self.limit.map_or(of_all, |limit| limit.min(of_all))
    }
}

impl Connection {
    /// Reads what the database has.
    ///
    /// # Errors
    /// Those of the database.
    pub fn capacity(&mut self) -> Result<Capacity, Error> {
        self.repeatable(read)
    }
}

fn read(open: &mut OpenConnection) -> Result<Capacity, postgres::Error> {
    let row = open.query_one(SELECT_CAPACITY, &[])?;
    let number = |column: usize| Ok(row.try_get::<_, i64>(column)?.unsigned_abs());
    Ok(Capacity {
        max_connections: number(0)?,
        reserved: number(1)?,
        limit: row.try_get::<_, Option<i64>>(2)?.map(i64::unsigned_abs),
        shared_buffers: number(3)?,
        is_local: row.try_get(4)?,
        size: number(5)?,
        data_directory: row.try_get(6)?,
    })
}
