//! The table `servers`: what each server on this database has done since it started.
//!
//! Two servers can have the same name: containers of one image, for example. The first keeps
//! it, and the next are numbered. Each notices that another has the same row because it isn't
//! any more as it was left, and moves on to the next number.

use std::time::SystemTime;

use postgres::Row;

use super::connection::Connection;
use super::error::Error;
use super::text::TextForm;
use crate::statistics::Counts;

/// Nothing if the row is there and not as it was left at the time $8. Without such a time
/// whatever is there is replaced: an earlier run of this server may have left it.
const UPSERT_SERVER: &str = "INSERT INTO servers (name, requests, bytes_up, bytes_down, files_stored, \
         downloads, cache_hits, noted) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp()) \
     ON CONFLICT (name) DO UPDATE SET noted = clock_timestamp(), requests = excluded.requests, \
         bytes_up = excluded.bytes_up, bytes_down = excluded.bytes_down, \
         files_stored = excluded.files_stored, downloads = excluded.downloads, \
         cache_hits = excluded.cache_hits \
     WHERE $8::timestamptz IS NULL OR servers.noted = $8 RETURNING noted";

/// A server that was ended or renamed is forgotten the next day.
const DELETE_GONE_SERVERS: &str = "DELETE FROM servers WHERE noted < now() - interval '1 day'";

const SELECT_SERVERS: &str = "SELECT name, noted, requests, bytes_up, bytes_down, files_stored, \
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

/// The largest number of servers of one name that are told apart.
const MAX_NAMESAKES: u32 = 100;

/// The row of a server.
#[derive(Clone, Debug)]
pub struct ServerRow {
    name: String,
    /// Which of the servers of that name it is, from 1 on.
    number: u32,
    /// When this run of the server last wrote the row; by the database's clock.
    noted: Option<SystemTime>,
}

impl ServerRow {
    /// The row of a server of that name, until another turns out to have it.
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
    /// Notes what a server has done, and forgets those that are gone.
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
            // Once only: the second time the row would not be as it was left.
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

    /// What the servers on this database have noted.
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
