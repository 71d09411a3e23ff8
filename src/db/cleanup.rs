//! The deletion of expired files.

use super::connection::Connection;
use super::error::Error;

/// The number of rows that one statement deletes. A file of 10 MB takes 5,000 rows of out-of-line
/// storage; a hundred such files are deleted within a fraction of a second.
const FILE_DELETE_BATCH: usize = 100;
/// The number of expired files whose ids one statement selects.
const EXPIRED_BATCH: i64 = 10 * FILE_DELETE_BATCH as i64;
/// The number of times that one call of [`Connection::delete_expired`] selects expired files, which
/// is enough for 100,000. The next call deletes the rest.
const MAX_EXPIRED_BATCHES: usize = 100;

const SELECT_EXPIRED: &str = "SELECT id FROM files WHERE expiry <= now() ORDER BY expiry LIMIT $1";

/// Deletes expired files. `expiry` is checked again, because a file may have been uploaded again
/// since its id was selected.
const DELETE_EXPIRED: &str = "WITH deleted AS ( \
         DELETE FROM files WHERE id = ANY($1) AND expiry <= now() RETURNING length(data) AS bytes) \
     SELECT count(*), coalesce(sum(bytes), 0)::int8 FROM deleted";

impl Connection {
    /// Deletes expired files in small batches, until there are none or `stop` returns true. After
    /// each batch, `deleted` gets the number of deleted files and of their bytes, and may use this
    /// connection for work that can't wait until all are deleted.
    ///
    /// # Errors
    /// Those of the database. Files that were deleted before stay deleted.
    pub fn delete_expired(
        &mut self,
        stop: impl Fn() -> bool,
        mut deleted: impl FnMut(&mut Connection, u64, u64),
    ) -> Result<(), Error> {
        for _ in 0..MAX_EXPIRED_BATCHES {
            let expired: Vec<String> = self.repeatable(|open| {
                let rows = open.query(SELECT_EXPIRED, &[&EXPIRED_BATCH])?;
                rows.iter().map(|row| row.try_get(0)).collect()
            })?;
            let mut gone = 0;
            for batch in expired.chunks(FILE_DELETE_BATCH) {
                if stop() {
                    return Ok(());
                }
                let (files, bytes) = self.repeatable(|open| {
                    let row = open.query_one(DELETE_EXPIRED, &[&batch])?;
                    Ok((row.try_get::<_, i64>(0)?, row.try_get::<_, i64>(1)?))
                })?;
                gone += files;
                deleted(self, files as u64, bytes as u64);
            }
            // A rule of the database may prevent the deletion; trying again would not help.
            if expired.len() < EXPIRED_BATCH as usize || gone == 0 {
                break;
            }
        }
        Ok(())
    }
}
