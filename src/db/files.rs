//! The files: reading, storing and extending them.
//!
//! Every statement names one id, so that a sharded PostgreSQL can run it. For the same reason what a
//! statement writes and returns has no function whose result changes with the time: `now()` stands
//! in the values and conditions alone, or in a query around the statement (`tests/statements.rs`).
//!
//! A row without bytes counts as absent; one of the older server's layouts has such rows for files
//! that are in a folder (see [`older`](super::older)). A file whose id is blocked counts as absent
//! too (see [`blocked`](super::blocked)), because its upload may have begun before the block and
//! ended after it. Lifetimes are passed in seconds, and `now()` is always the database's, so that
//! servers that share a database need not agree on the time.

use std::time::{Duration, SystemTime};

use postgres::Row;
use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;

use super::connection::{Connection, OpenConnection};
use super::error::Error;
use super::file_copy::{NewRow, copy_absent_file, copy_file};
use super::writes::Wrote;
use crate::buffer::{Buffer, Margins};
use crate::protocol::file_id::FileId;

/// The largest file, bytes, that is sent as a parameter of its INSERT without asking first whether
/// it is stored already, because asking would cost more. A larger file is copied in pieces: the
/// driver copies a parameter two or three times, and keeps buffers of that size for as long as the
/// connection is open (rust-postgres issue 1081).
const INLINE_UPLOAD_MAX: usize = 64 * 1024;

/// A file's size and times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FileInfo {
    /// The size, bytes.
    pub size: usize,
    /// When it was last uploaded.
    pub uploaded: SystemTime,
    /// When it expires.
    pub expires: SystemTime,
    /// The time until it expires, by the database's clock.
    pub remaining: Duration,
}

/// A file with its bytes.
#[derive(Debug)]
pub struct StoredFile {
    /// The file's content.
    pub bytes: Buffer,
    /// When the file expires.
    pub expires: SystemTime,
    /// The time until the file expires, by the database's clock.
    pub remaining: Duration,
}

/// The result of reading a file.
#[derive(Debug)]
pub enum Fetched {
    /// The file.
    File(StoredFile),
    /// There is no such file.
    Absent,
    /// There is no memory for it.
    NoRoom,
}

/// The result of refreshing a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refreshed {
    /// The file was refreshed.
    Stored(FileInfo),
    /// The file isn't stored.
    Absent,
    /// The file's id is blocked.
    Blocked,
}

/// Selects the first 130,000 bytes of a file, which are the whole of most, and its length.
const SELECT_START: &str = "SELECT substring(data FROM 1 FOR 130000), length(data), expiry, now() \
     FROM files WHERE id = $1 AND expiry > now() AND data IS NOT NULL \
         AND NOT EXISTS (SELECT FROM blocked_files WHERE blocked_files.id = $1)";

/// Selects the rest of a longer file in rows of 130,000 bytes: each makes a message that, with what
/// precedes it, fits 128 KiB, to which the driver's buffer grows by doubling. PostgreSQL assembles
/// each row twice in newly allocated memory, and the driver copies what it has of an incomplete one.
/// Measured with files of 10 MB, this server's processor time per file, with rows of 64 KiB as the
/// unit: 1.24 in rows of 8 KiB, 1.10 of 32 KiB, 0.93 of 128 KiB, 0.88 of 256 KiB, with which the
/// server took 2 MB more. A row holds the whole of a file of 100 KB, which costs 0.86 of what it
/// costs in two statements.
const SELECT_REST: &str = "SELECT position, substring(data FROM position FOR 130000) \
     FROM files, generate_series(130001, length(data), 130000) AS position WHERE id = $1";

const SELECT_INFO: &str = "SELECT length(data), uploaded, expiry, now() FROM files \
     WHERE id = $1 AND expiry > now() AND data IS NOT NULL \
         AND NOT EXISTS (SELECT FROM blocked_files WHERE blocked_files.id = $1)";

/// Refreshes a file. Always returns one row: if the file isn't there, with the current time and
/// whether the id is blocked only.
const REFRESH_FILE: &str = "WITH refreshed AS (UPDATE files \
         SET uploaded = now(), expiry = greatest(expiry, now() + make_interval(secs => $2)) \
         WHERE id = $1 AND data IS NOT NULL \
             AND NOT EXISTS (SELECT FROM blocked_files WHERE blocked_files.id = $1) \
         RETURNING length(data), uploaded, expiry) \
     SELECT refreshed.*, now(), EXISTS (SELECT FROM blocked_files WHERE blocked_files.id = $1) \
     FROM (SELECT) one LEFT JOIN refreshed ON true";

/// Inserts a file, or refreshes it if it is there. Existing bytes aren't written again, because
/// `data` is set to its old value. `uploaded` is named, because it may have no default in a table
/// that another program has created. Returns no row if the id is blocked. The time of the statement
/// is returned as `uploaded`.
const INSERT_OR_REFRESH: &str = "INSERT INTO files (id, data, uploaded, expiry) \
     SELECT $1::text, $2::bytea, now(), now() + make_interval(secs => $3) \
     WHERE NOT EXISTS (SELECT FROM blocked_files WHERE blocked_files.id = $1) \
     ON CONFLICT (id) DO UPDATE \
     SET uploaded = excluded.uploaded, expiry = greatest(files.expiry, excluded.expiry), \
         data = coalesce(files.data, excluded.data) \
     RETURNING length(data), uploaded, expiry, uploaded AS now";

/// Inserts a file with a new id. Returns no row if the id is taken or blocked. The time of the
/// statement is returned as `uploaded`.
const INSERT_NEW: &str = "INSERT INTO files (id, data, uploaded, expiry) \
     SELECT $1::text, $2::bytea, now(), now() + make_interval(secs => $3) \
     WHERE NOT EXISTS (SELECT FROM blocked_files WHERE blocked_files.id = $1) \
     ON CONFLICT (id) DO NOTHING RETURNING length(data), uploaded, expiry, uploaded AS now";

/// Selects the current time, and whether an id is blocked.
const SELECT_NOW: &str =
    "SELECT now(), EXISTS (SELECT FROM blocked_files WHERE blocked_files.id = $1)";

/// Selects one row if the id is blocked.
const SELECT_BLOCKED: &str = "SELECT blocked FROM blocked_files WHERE id = $1";

/// Selects whether an id has a row.
const SELECT_IS_TAKEN: &str = "SELECT EXISTS (SELECT FROM files WHERE id = $1)";

const EXTEND_FILE: &str = "WITH extended AS (UPDATE files \
         SET expiry = greatest(expiry, now() + make_interval(secs => $2)) \
         WHERE id = $1 AND expiry > now() AND data IS NOT NULL \
             AND NOT EXISTS (SELECT FROM blocked_files WHERE blocked_files.id = $1) \
         RETURNING length(data), uploaded, expiry) \
     SELECT extended.*, now() FROM extended";

impl Connection {
    /// Reads a file that has not expired. `take_room` is called with its length when its beginning
    /// is there, and again if it must be read again; it returns the margins around the file. If it
    /// returns none, no memory is taken for the file, and nothing more is read of it.
    ///
    /// # Errors
    /// Those of the database.
    pub fn file(
        &mut self,
        id: &FileId,
        take_room: impl Fn(usize) -> Option<Margins>,
    ) -> Result<Fetched, Error> {
        let read = |open: &mut OpenConnection| {
            let Some(row) = open.query_opt(SELECT_START, &[&id.as_str()])? else {
                return Ok(Fetched::Absent);
            };
            let length = row.try_get::<_, i32>(1)? as usize;
            let watched = open.watched.clone();
            let Some(margins) = watched.aside(|| take_room(length)) else {
                return Ok(Fetched::NoRoom);
            };
            let expires = row.try_get(2)?;
            let remaining = until(expires, row.try_get(3)?);
            let mut bytes = Buffer::with_margins(length, margins);
            bytes.extend_from_slice(row.try_get(0)?);
            // The row holds the driver's buffer, in which the rest may come.
            drop(row);
            if bytes.len() < length {
                read_rest(open, id, &mut bytes)?;
            }
            // A file that was deleted before its rest was read counts as absent. If its id were
            // a random one that was given to another file of the same length meanwhile, the bytes
            // would be mixed; within a millisecond this is practically impossible.
            if bytes.len() != length {
                return Ok(Fetched::Absent);
            }
            Ok(Fetched::File(StoredFile {
                bytes,
                expires,
                remaining,
            }))
        };
        self.reading(id, read, |fetched| matches!(fetched, Fetched::Absent))
    }

    /// Reads size and times of a file that has not expired.
    ///
    /// # Errors
    /// Those of the database.
    pub fn file_info(&mut self, id: &FileId) -> Result<Option<FileInfo>, Error> {
        let read = |open: &mut OpenConnection| info(open.query_opt(SELECT_INFO, &[&id.as_str()])?);
        self.reading(id, read, Option::is_none)
    }

    /// Stores a file under its content id with the lifetime `ttl`. If it is stored already, it
    /// counts as uploaded now and never expires sooner than before; the bytes of a large file are
    /// not sent again. `None` if the id is blocked.
    ///
    /// # Errors
    /// Those of the database. The file may have been stored nevertheless.
    pub fn store(
        &mut self,
        id: &FileId,
        data: &[u8],
        ttl: Duration,
    ) -> Result<Option<FileInfo>, Error> {
        self.note_write(id);
        let store = |open: &mut OpenConnection| {
            if data.len() > INLINE_UPLOAD_MAX {
                return refresh_or_send(open, id, data, ttl);
            }
            let (id, seconds) = (id.as_str(), ttl.as_secs_f64());
            let row = open.query_opt(INSERT_OR_REFRESH, &[&id, &data, &seconds])?;
            if row.is_none() {
                // If the id isn't blocked, a trigger has suppressed the row: this is an error then.
                open.query_one(SELECT_BLOCKED, &[&id])?;
            }
            // It isn't known whether the row is new. Small uploads may be all that come, so that
            // any of them counts.
            written(info(row)?, Wrote::File)
        };
        self.writing(store)
    }

    /// Refreshes a file that is stored already, as [`store`](Self::store) does.
    ///
    /// # Errors
    /// Those of the database.
    pub fn refresh(&mut self, id: &FileId, ttl: Duration) -> Result<Refreshed, Error> {
        self.note_write(id);
        let refresh = |open: &mut OpenConnection| {
            let row = open.query_one(REFRESH_FILE, &[&id.as_str(), &ttl.as_secs_f64()])?;
            let refreshed = read_refreshed(&row)?;
            let wrote = match refreshed {
                Refreshed::Stored(_) => Wrote::Little,
                Refreshed::Absent | Refreshed::Blocked => Wrote::Nothing,
            };
            Ok((refreshed, wrote))
        };
        self.writing(refresh)
    }

    /// Stores a file under a new id. `None` if the id is taken or blocked.
    ///
    /// # Errors
    /// Those of the database. The file may have been stored all the same.
    pub fn store_new(
        &mut self,
        id: &FileId,
        data: &[u8],
        ttl: Duration,
    ) -> Result<Option<FileInfo>, Error> {
        // Repeating is safe: if the first try has stored the file although its answer was lost,
        // the id is taken, and the caller chooses another one.
        let store = |open: &mut OpenConnection| {
            if data.len() <= INLINE_UPLOAD_MAX {
                let row = open.query_opt(INSERT_NEW, &[&id.as_str(), &data, &ttl.as_secs_f64()])?;
                return written(info(row)?, Wrote::File);
            }
            let row = open.query_one(SELECT_NOW, &[&id.as_str()])?;
            let now: SystemTime = row.try_get(0)?;
            if row.try_get(1)? {
                return Ok((None, Wrote::Nothing));
            }
            let row = new_row(id, data, now, ttl);
            match copy_file(open, row) {
                Ok(()) => Ok((Some(row.info()), Wrote::File)),
                Err(error) if may_be_taken(open, &error) => {
                    let taken = open.query_one(SELECT_IS_TAKEN, &[&id.as_str()])?;
                    if taken.try_get(0)? {
                        return Ok((None, Wrote::Nothing));
                    }
                    Err(error)
                }
                Err(error) => Err(error),
            }
        };
        self.writing(store)
    }

    /// Extends the lifetime of a file that has not expired to `ttl` from now, unless it is longer
    /// already. `None` if there is no such file.
    ///
    /// # Errors
    /// Those of the database.
    pub fn extend(&mut self, id: &FileId, ttl: Duration) -> Result<Option<FileInfo>, Error> {
        self.note_write(id);
        let extend = |open: &mut OpenConnection| {
            let row = open.query_opt(EXTEND_FILE, &[&id.as_str(), &ttl.as_secs_f64()])?;
            written(info(row)?, Wrote::Little)
        };
        self.writing(extend)
    }
}

/// What was found, with what it has written if there was something.
fn written<T>(found: Option<T>, wrote: Wrote) -> Result<(Option<T>, Wrote), postgres::Error> {
    let wrote = if found.is_some() {
        wrote
    } else {
        Wrote::Nothing
    };
    Ok((found, wrote))
}

fn info(row: Option<Row>) -> Result<Option<FileInfo>, postgres::Error> {
    row.as_ref().map(read_info).transpose()
}

fn read_info(row: &Row) -> Result<FileInfo, postgres::Error> {
    let expires = row.try_get(2)?;
    Ok(FileInfo {
        size: row.try_get::<_, i32>(0)? as usize,
        uploaded: row.try_get(1)?,
        expires,
        remaining: until(expires, row.try_get(3)?),
    })
}

fn read_refreshed(row: &Row) -> Result<Refreshed, postgres::Error> {
    if row.try_get(4)? {
        return Ok(Refreshed::Blocked);
    }
    match row.try_get::<_, Option<i32>>(0)? {
        Some(_) => read_info(row).map(Refreshed::Stored),
        None => Ok(Refreshed::Absent),
    }
}

fn until(expires: SystemTime, now: SystemTime) -> Duration {
    expires.duration_since(now).unwrap_or_default()
}

/// Appends the rest of a file to its start.
fn read_rest(
    open: &mut OpenConnection,
    id: &FileId,
    bytes: &mut Buffer,
) -> Result<(), postgres::Error> {
    let watched = open.watched.clone();
    let mut rows = open.query_raw(SELECT_REST, &[id.as_str()])?;
    while let Some(row) = rows.next()? {
        watched.progress();
        // The rows come in the order of the series. If that ever changed, the file would count as
        // absent rather than be served with its parts mixed up.
        if row.try_get::<_, i32>(0)? as usize == bytes.len() + 1 {
            bytes.extend_from_slice(row.try_get(1)?);
        }
    }
    Ok(())
}

/// Stores a large file, or refreshes it if it is there, without sending its bytes. `None` if its id
/// is blocked. Also returns what was written.
fn refresh_or_send(
    open: &mut OpenConnection,
    id: &FileId,
    data: &[u8],
    ttl: Duration,
) -> Result<(Option<FileInfo>, Wrote), postgres::Error> {
    let (mut was_there, mut failed) = (false, None);
    loop {
        let row = open.query_one(REFRESH_FILE, &[&id.as_str(), &ttl.as_secs_f64()])?;
        match read_refreshed(&row)? {
            Refreshed::Stored(info) => return Ok((Some(info), Wrote::Little)),
            Refreshed::Blocked => return Ok((None, Wrote::Nothing)),
            Refreshed::Absent => {}
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let row = new_row(id, data, row.try_get(3)?, ttl);
        // A row that was there and is gone was deleted meanwhile. Looking for it again might find
        // another one that is deleted, without end.
        let stored = if was_there {
            copy_file(open, row).map(|()| Some(row))
        } else {
            copy_absent_file(open, row)
        };
        match stored {
            Ok(Some(row)) => return Ok((Some(row.info()), Wrote::File)),
            Ok(None) => was_there = true,
            Err(error) if may_be_taken(open, &error) => failed = Some(error),
            Err(error) => return Err(error),
        }
    }
}

fn new_row<'a>(id: &'a FileId, data: &'a [u8], now: SystemTime, ttl: Duration) -> NewRow<'a> {
    NewRow {
        id,
        data,
        uploaded: now,
        expires: now + ttl,
    }
}

impl NewRow<'_> {
    /// What is known of the file when it has just been stored.
    fn info(&self) -> FileInfo {
        FileInfo {
            size: self.data.len(),
            uploaded: self.uploaded,
            expires: self.expires,
            remaining: until(self.expires, self.uploaded),
        }
    }
}

/// Whether a file may not have been stored because its id was taken meanwhile, so that the database
/// should be asked. A database of several nodes may report what one of them has said, a unique
/// violation (23505), by a code of its own.
fn may_be_taken(open: &OpenConnection, error: &postgres::Error) -> bool {
    !open.has_ended()
        && (error.code() == Some(&SqlState::UNIQUE_VIOLATION)
            || error.code().is_some() && matches!(Error::of_statement(error), Error::Failed(_)))
}
