//! The table `servers`: what each server on this database has done since it started.

use std::time::SystemTime;

use postgres::Row;

use super::connection::Connection;
use super::error::Error;
use super::text::TextForm;
use crate::statistics::Counts;

const NOTE: &str = "INSERT INTO servers (name, requests, bytes_up, bytes_down, files_stored, \
         downloads, cache_hits) \
     VALUES ($1, $2, $3, $4, $5, $6, $7) \
     ON CONFLICT (name) DO UPDATE SET noted = now(), requests = excluded.requests, \
         bytes_up = excluded.bytes_up, bytes_down = excluded.bytes_down, \
         files_stored = excluded.files_stored, downloads = excluded.downloads, \
         cache_hits = excluded.cache_hits";

/// A server that was ended or renamed is forgotten the next day.
const FORGET: &str = "DELETE FROM servers WHERE noted < now() - interval '1 day'";

const SELECT: &str = "SELECT name, noted, requests, bytes_up, bytes_down, files_stored, \
         downloads, cache_hits FROM servers ORDER BY name LIMIT 100";

/// What a server has noted of itself.
#[derive(Clone, Debug)]
pub struct NotedServer {
    /// Its machine, and where it listens.
    pub name: String,
    /// When.
    pub noted: SystemTime,
    /// What it had done until then.
    pub counts: Counts,
}

impl Connection {
    /// Notes what the server of that name has done, and forgets those that are gone.
    ///
    /// # Errors
    /// Those of the database.
    pub fn note_server(&mut self, name: &str, counts: &Counts) -> Result<(), Error> {
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
        self.repeatable(|open| {
            let name = TextForm::of(open)?.store(name);
            open.execute(NOTE, &[&name, c1, c2, c3, c4, c5, c6])?;
            open.execute(FORGET, &[])
        })?;
        Ok(())
    }

    /// What the servers on this database have noted.
    ///
    /// # Errors
    /// Those of the database.
    pub fn noted_servers(&mut self) -> Result<Vec<NotedServer>, Error> {
        self.repeatable(|open| {
            let form = TextForm::of(open)?;
            let rows = open.query(SELECT, &[])?;
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
