//! The table `servers`: the counters of each server on this database since its start.
//!
//! Several servers may have the same name, for example containers of one image. The first keeps the
//! name, and the others add a number. A server notices that another one uses its row when the row
//! has changed since it was last written, and moves on to the next number.

use std::time::SystemTime;

use postgres::Row;

use super::connection::Connection;
use super::error::Error;
use super::text::TextForm;
use crate::statistics::Counts;

/// Writes a server's row, unless another server has written it since the time $8; then no row is
/// returned. If $8 is null, any existing row is replaced, because it may be from an earlier run.
const UPSERT_SERVER: &str = "INSERT INTO servers (name, requests, bytes_up, bytes_down, files_stored, \
         downloads, cache_hits, noted) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp()) \
     ON CONFLICT (name) DO UPDATE SET noted = excluded.noted, requests = excluded.requests, \
         bytes_up = excluded.bytes_up, bytes_down = excluded.bytes_down, \
         files_stored = excluded.files_stored, downloads = excluded.downloads, \
         cache_hits = excluded.cache_hits \
     WHERE $8::timestamptz IS NULL OR servers.noted = $8 RETURNING noted";

/// Deletes the rows of servers that were stopped or renamed, after a day.
const DELETE_GONE_SERVERS: &str = "DELETE FROM servers WHERE noted < now() - interval '1 day'";

const SELECT_SERVERS: &str = "SELECT name, noted, requests, bytes_up, bytes_down, files_stored, \
         downloads, cache_hits FROM servers ORDER BY name LIMIT 100";

/// The number of servers with the same name that are distinguished.
const MAX_NAMESAKES: u32 = 100;

/// The counters that a server has written.
#[derive(Clone, Debug)]
pub struct NotedServer {
    /// The server's machine and address.
    pub name: String,
    /// When the row was written.
    pub noted: SystemTime,
    /// The counters at that time.
    pub counts: Counts,
}

/// The identity of a server's own row.
#[derive(Clone, Debug)]
pub struct ServerRow {
    name: String,
    /// The number among the servers with this name, from 1.
    number: u32,
    /// When this run of the server last wrote the row, by the database's clock.
    noted: Option<SystemTime>,
}

impl ServerRow {
    /// The row of a server with that name. Its number changes if another server uses the row.
    pub fn new(name: String) -> ServerRow {
        ServerRow {
            name,
            number: 1,
            noted: None,
        }
    }

    fn key(&self) -> String {
        match self.number {
            1 => self.name.clone(),
            number => format!("{} ({number})", self.name),
        }
    }
}

impl Connection {
    /// Writes a server's counters, and deletes the rows of servers that are gone.
    ///
    /// # Errors
    /// Those of the database.
    pub fn note_server(&mut self, row: &mut ServerRow, counts: &Counts) -> Result<(), Error> {
        let counts = [
            counts.requests,
            counts.bytes_up,
            counts.bytes_down,
            counts.files_stored,
            counts.downloads,
            counts.cache_hits,
        ]
        .map(|count| count as i64);
        let [c1, c2, c3, c4, c5, c6] = &counts;
        while row.number <= MAX_NAMESAKES {
            let (key, left) = (row.key(), row.noted);
            // Not repeatable: a second run would find the row changed.
            let noted = self.once(|open| {
                let key = TextForm::of(open)?.store(&key);
                let noted =
                    open.query_opt(UPSERT_SERVER, &[&key, c1, c2, c3, c4, c5, c6, &left])?;
                noted.map(|row| row.try_get(0)).transpose()
            })?;
            row.noted = noted;
            if noted.is_some() {
                break;
            }
            row.number += 1;
        }
        self.repeatable(|open| open.execute(DELETE_GONE_SERVERS, &[]))?;
        Ok(())
    }

    /// Reads the counters of all servers on this database.
    ///
    /// # Errors
    /// Those of the database.
    pub fn noted_servers(&mut self) -> Result<Vec<NotedServer>, Error> {
        self.repeatable(|open| {
            let form = TextForm::of(open)?;
            let rows = open.query(SELECT_SERVERS, &[])?;
            rows.iter().map(|row| read(row, form)).collect()
        })
    }
}

fn read(row: &Row, form: TextForm) -> Result<NotedServer, postgres::Error> {
    let count = |index| row.try_get::<_, i64>(index).map(|count| count as u64);
    Ok(NotedServer {
        name: form.read(row.try_get(0)?),
        noted: row.try_get(1)?,
        counts: Counts {
            requests: count(2)?,
            bytes_up: count(3)?,
            bytes_down: count(4)?,
            files_stored: count(5)?,
            downloads: count(6)?,
            cache_hits: count(7)?,
        },
    })
}
