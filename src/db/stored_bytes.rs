//! The table `stored_bytes`: what each running server has stored, for `files.max_total_size`.

use super::connection::Connection;
use super::error::Error;

/// The most servers whose rows are read. No operator has as many.
const MAX_SERVERS: i64 = 1_000;

/// Writes how many bytes (`$2`) the server named `$1` has stored, and when that was noted.
const UPSERT_STORED_BYTES: &str = "INSERT INTO stored_bytes (server, bytes, noted) \
     VALUES ($1, $2, now()) \
     ON CONFLICT (server) DO UPDATE SET bytes = excluded.bytes, noted = excluded.noted";

/// Selects the bytes of all servers but `$1`, of at most `$2` servers.
const SELECT_STORED_BYTES: &str =
    "SELECT server, bytes FROM stored_bytes WHERE server <> $1 LIMIT $2";

/// Deletes the rows of servers that have ended. A running server that has stored anything writes
/// its row at least once an hour.
const DELETE_GONE: &str = "DELETE FROM stored_bytes WHERE noted < now() - interval '1 day'";

impl Connection {
    /// Writes how many bytes the server `server` has stored.
    ///
    /// # Errors
    /// Those of the database.
    pub fn note_stored_bytes(&mut self, server: &str, bytes: u64) -> Result<(), Error> {
        self.repeatable(|open| {
            open.execute(DELETE_GONE, &[])?;
            open.execute(UPSERT_STORED_BYTES, &[&server, &(bytes as i64)])
        })?;
        Ok(())
    }

    /// Reads how many bytes each server but `server` has stored.
    ///
    /// # Errors
    /// Those of the database.
    pub fn bytes_stored_by_others(&mut self, server: &str) -> Result<Vec<(String, u64)>, Error> {
        self.repeatable(|open| {
            let rows = open.query(SELECT_STORED_BYTES, &[&server, &MAX_SERVERS])?;
            rows.iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get::<_, i64>(1)? as u64)))
                .collect()
        })
    }
}
