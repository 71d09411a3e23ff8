//! The number and the bytes of all files.

use std::time::SystemTime;

use super::connection::Connection;
use super::error::Error;

/// The number of rows that one statement counts.
const COUNT_BATCH: i64 = 10_000;
/// The number of batches after which [`Connection::totals`] fails. With a damaged index the batches
/// may repeat for ever, and no server has 200 million files.
const MAX_COUNT_BATCHES: usize = 20_000;

/// Counts a batch of rows. `length()` doesn't read the bytes of a file that is stored out of line.
const COUNT_AFTER: &str = "SELECT count(*), coalesce(sum(length(data)), 0)::int8, max(id)::text, \
         min(uploaded) FILTER (WHERE data IS NOT NULL), \
         min(expiry) FILTER (WHERE expiry > now() AND data IS NOT NULL), count(data) \
     FROM (SELECT id, data, uploaded, expiry FROM files WHERE id > $1 ORDER BY id LIMIT $2) batch";

/// The sum over all stored files, including expired ones that are not deleted yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The number of files.
    pub files: u64,
    /// The bytes of the files.
    pub bytes: u64,
    /// When the oldest file was uploaded.
    pub oldest: Option<SystemTime>,
    /// When the next file expires.
    pub next_expiry: Option<SystemTime>,
}

impl Connection {
    /// Counts all files, batch by batch. Changes during the count may or may not be included.
    ///
    /// # Errors
    /// Those of the database.
    pub fn totals(&mut self) -> Result<Totals, Error> {
        let mut totals = Totals::default();
        let mut after = String::new();
        for _ in 0..MAX_COUNT_BATCHES {
            let (batch, rows, last) = self.repeatable(|open| {
                let row = open.query_one(COUNT_AFTER, &[&after, &COUNT_BATCH])?;
                let batch = Totals {
                    files: row.try_get::<_, i64>(5)? as u64,
                    bytes: row.try_get::<_, i64>(1)? as u64,
                    oldest: row.try_get(3)?,
                    next_expiry: row.try_get(4)?,
                };
                let rows: i64 = row.try_get(0)?;
                Ok((batch, rows, row.try_get::<_, Option<String>>(2)?))
            })?;
            totals.add(&batch);
            match last {
                Some(last) if rows == COUNT_BATCH => after = last,
                _ => return Ok(totals),
            }
        }
        Err(Error::Failed(
            "the files can't be counted: the index of the table files is out of order; run \
             REINDEX TABLE files"
                .into(),
        ))
    }
}

impl Totals {
    fn add(&mut self, other: &Totals) {
        self.files += other.files;
        self.bytes += other.bytes;
        let earlier = |one: Option<SystemTime>, other| one.into_iter().chain(other).min();
        self.oldest = earlier(self.oldest, other.oldest);
        self.next_expiry = earlier(self.next_expiry, other.next_expiry);
    }
}
