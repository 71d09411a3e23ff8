//! The table `files`.
//!
//! Every statement names one id or is a bounded batch, so that a sharded PostgreSQL can
//! run it. A row without bytes, as one of the older server's layouts has for files that lie
//! in a folder (see [`older`](super::older)), counts as absent. Lifetimes go in as seconds, and `now()` is always the database's: servers that
//! share a database need not agree on the time.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use postgres::Row;
use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;

use super::connection::{Connection, OpenConnection};
use super::error::Error;
use crate::buffer::Buffer;
use crate::protocol::file_id::FileId;

/// A file up to this size, bytes, is sent at once, without asking first whether it is there
/// already: asking would cost more. A larger one is sent in pieces: what the driver sends at once
/// it copies two or three times, and its buffers of that size stay with the connection for as long
/// as that is open (rust-postgres issue 1081).
const INLINE_UPLOAD_MAX: usize = 64 * 1024;
/// The size of such a piece, bytes.
const COPY_CHUNK: usize = 128 * 1024;
/// Rows that one statement deletes. A file of 10 MB is 5,000 rows of out-of-line storage:
/// a hundred of them are gone within a fraction of a second.
const FILE_DELETE_BATCH: usize = 100;
/// Ids of expired files that one statement looks up.
const EXPIRED_BATCH: i64 = 10 * FILE_DELETE_BATCH as i64;
/// How many times [`Connection::delete_expired`] looks for expired files in one call: 100,000
/// of them. What is left is deleted by the next call.
const MAX_EXPIRED_BATCHES: usize = 100;
/// Rows that one statement counts.
const COUNT_BATCH: i64 = 10_000;
/// Batches after which [`Connection::totals`] gives up. With an index that is out of order the
/// batches may repeat for ever; no server has 200 million files.
const MAX_COUNT_BATCHES: usize = 20_000;
/// Attempts to store a large file on a connection. The first fails if somebody stores the same
/// file at the same time or if there is a row without bytes, and the second replaces such a row.
/// What fails then is tried again later, as other conflicts are.
const MAX_STORE_TRIES: usize = 2;

/// What clients are told of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FileInfo {
    /// Bytes.
    pub size: usize,
    /// When it was uploaded, last.
    pub uploaded: SystemTime,
    /// When it expires.
    pub expires: SystemTime,
    /// How long that is from now, by the database's clock.
    pub remaining: Duration,
}

/// A file with its bytes.
#[derive(Debug)]
pub struct StoredFile {
    /// Its content.
    pub bytes: Buffer,
    /// When the file expires.
    pub expires: SystemTime,
    /// How long that is from now, by the database's clock.
    pub remaining: Duration,
}

/// The sum over all files that are stored, expired ones included until they are deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// When the oldest of them was uploaded.
    pub oldest: Option<SystemTime>,
    /// When the next one expires, of those that have not.
    pub next_expiry: Option<SystemTime>,
}

/// The start of a file, which of most is all, and its length.
const SELECT_START: &str = "SELECT substring(data FROM 1 FOR 65536), length(data), expiry, now() \
     FROM files WHERE id = $1 AND expiry > now() AND data IS NOT NULL";

/// The rest of a longer file, in rows of 64 KiB: what is in one row PostgreSQL puts together in
/// memory that is new each time, twice, and so does the driver. Measured with files of 1 MB:
/// 2,100 to 2,500 in a second, 800 to 900 in one row each; in rows of 16 KiB 1,900, of 256 KiB
/// 1,500.
const SELECT_REST: &str = "SELECT position, substring(data FROM position FOR 65536) \
     FROM files, generate_series(65537, length(data), 65536) AS position WHERE id = $1";

const SELECT_INFO: &str = "SELECT length(data), uploaded, expiry, now() FROM files \
     WHERE id = $1 AND expiry > now() AND data IS NOT NULL";

/// One row in any case: with the time, if the file is not there.
const REFRESH_FILE: &str = "WITH refreshed AS (UPDATE files \
         SET uploaded = now(), expiry = greatest(expiry, now() + make_interval(secs => $2)) \
         WHERE id = $1 AND data IS NOT NULL RETURNING length(data), uploaded, expiry) \
     SELECT refreshed.*, now() FROM (SELECT) one LEFT JOIN refreshed ON true";

/// Bytes that are there are not written again: what `data` is set to is what it was. `uploaded`
/// is written out: in a table that others have made it may have no default.
const INSERT_OR_REFRESH: &str = "INSERT INTO files (id, data, uploaded, expiry) \
     VALUES ($1, $2, now(), now() + make_interval(secs => $3)) \
     ON CONFLICT (id) DO UPDATE \
     SET uploaded = now(), expiry = greatest(files.expiry, excluded.expiry), \
         data = coalesce(files.data, excluded.data) \
     RETURNING length(data), uploaded, expiry, now()";

const INSERT_NEW: &str = "INSERT INTO files (id, data, uploaded, expiry) \
     VALUES ($1, $2, now(), now() + make_interval(secs => $3)) \
     ON CONFLICT (id) DO NOTHING RETURNING length(data), uploaded, expiry, now()";

const SELECT_NOW: &str = "SELECT now()";

const COPY_FILE: &str = "COPY files (id, uploaded, expiry, data) FROM STDIN (FORMAT binary)";

/// Until when an older server has promised to keep a file whose bytes it has elsewhere.
const SELECT_WITHOUT_BYTES: &str = "SELECT expiry FROM files WHERE id = $1 AND data IS NULL";

/// Makes room for the bytes of such a file.
const DELETE_WITHOUT_BYTES: &str = "DELETE FROM files WHERE id = $1 AND data IS NULL";

const EXTEND_FILE: &str = "UPDATE files \
     SET expiry = greatest(expiry, now() + make_interval(secs => $2)) \
     WHERE id = $1 AND expiry > now() AND data IS NOT NULL \
     RETURNING length(data), uploaded, expiry, now()";

const SELECT_EXPIRED: &str = "SELECT id FROM files WHERE expiry <= now() ORDER BY expiry LIMIT $1";

/// `expiry` is looked at again: a file may have been uploaded once more since its id was
/// looked up, and must not go then.
const DELETE_EXPIRED: &str = "WITH deleted AS ( \
         DELETE FROM files WHERE id = ANY($1) AND expiry <= now() RETURNING length(data) AS bytes) \
     SELECT count(*), coalesce(sum(bytes), 0)::int8 FROM deleted";

/// length() reads nothing of a file that is stored out of line.
const COUNT_AFTER: &str = "SELECT count(*), coalesce(sum(length(data)), 0)::int8, max(id)::text, \
         min(uploaded) FILTER (WHERE data IS NOT NULL), \
         min(expiry) FILTER (WHERE expiry > now() AND data IS NOT NULL), count(data) \
     FROM (SELECT id, data, uploaded, expiry FROM files WHERE id > $1 ORDER BY id LIMIT $2) batch";

impl Connection {
    /// The bytes of a file that has not expired.
    ///
    /// # Errors
    /// Those of the database.
    pub fn file(&mut self, id: &FileId) -> Result<Option<StoredFile>, Error> {
        self.repeatable(|open| {
            let Some(row) = open.query_opt(SELECT_START, &[&id.as_str()])? else {
                return Ok(None);
            };
            let length = row.try_get::<_, i32>(1)? as usize;
            let mut bytes = Buffer::with_capacity(length);
            bytes.extend_from_slice(row.try_get(0)?);
            if bytes.len() < length {
                read_rest(open, id, &mut bytes)?;
            }
            let expires = row.try_get(2)?;
            let remaining = until(expires, row.try_get(3)?);
            // One that was deleted before its rest was read is gone. The id still names the
            // same bytes then, or nothing: that a random id was given to another file of the
            // same length within a millisecond is beyond all chance.
            Ok((bytes.len() == length).then_some(StoredFile {
                bytes,
                expires,
                remaining,
            }))
        })
    }

    /// Size and times of a file that has not expired.
    ///
    /// # Errors
    /// Those of the database.
    pub fn file_info(&mut self, id: &FileId) -> Result<Option<FileInfo>, Error> {
        self.repeatable(|open| info(open.query_opt(SELECT_INFO, &[&id.as_str()])?))
    }

    /// Stores a file under its content id, to live for `ttl` or longer. If it is there
    /// already, no large file is sent, only the id: it counts as uploaded now, and never expires
    /// sooner than before.
    ///
    /// # Errors
    /// Those of the database. The file may have been stored all the same.
    pub fn store(&mut self, id: &FileId, data: &[u8], ttl: Duration) -> Result<FileInfo, Error> {
        self.repeatable(|open| {
            if data.len() > INLINE_UPLOAD_MAX {
                return refresh_or_send(open, id, data, ttl);
            }
            let (id, seconds) = (id.as_str(), ttl.as_secs_f64());
            read_info(&open.query_one(INSERT_OR_REFRESH, &[&id, &data, &seconds])?)
        })
    }

    /// Lets a file that is there already live for `ttl` or longer, as [`store`](Self::store)
    /// does.
    ///
    /// # Errors
    /// Those of the database.
    pub fn refresh(&mut self, id: &FileId, ttl: Duration) -> Result<Option<FileInfo>, Error> {
        self.repeatable(|open| {
            let row = open.query_one(REFRESH_FILE, &[&id.as_str(), &ttl.as_secs_f64()])?;
            let is_there = row.try_get::<_, Option<i32>>(0)?.is_some();
            is_there.then(|| read_info(&row)).transpose()
        })
    }

    /// What the table takes on the disk, bytes: about as much as the files in it, and space
    /// that can be used again.
    ///
    /// # Errors
    /// Those of the database.
    pub fn files_disk_size(&mut self) -> Result<u64, Error> {
        self.repeatable(|open| {
            let row = open.query_one("SELECT pg_table_size('files')", &[])?;
            Ok(row.try_get::<_, i64>(0)? as u64)
        })
    }

    /// Stores a file under an id that nobody has; `None` if somebody has it.
    ///
    /// # Errors
    /// Those of the database. The file may have been stored all the same.
    pub fn store_new(
        &mut self,
        id: &FileId,
        data: &[u8],
        ttl: Duration,
    ) -> Result<Option<FileInfo>, Error> {
        // Repeating it is safe: should the first try have stored the file without our hearing of
        // it, the id is taken, and the caller chooses another one.
        self.repeatable(|open| {
            if data.len() <= INLINE_UPLOAD_MAX {
                let row = open.query_opt(INSERT_NEW, &[&id.as_str(), &data, &ttl.as_secs_f64()])?;
                return info(row);
            }
            let now: SystemTime = open.query_one(SELECT_NOW, &[])?.try_get(0)?;
            match send_in_pieces(open, id, data, now, now + ttl, false) {
                Err(error) if is_taken(&error) => Ok(None),
                sent => sent.map(Some),
            }
        })
    }

    /// Lets a file that has not expired live for `ttl` from now, or for as long as it
    /// would have anyway.
    ///
    /// # Errors
    /// Those of the database.
    pub fn extend(&mut self, id: &FileId, ttl: Duration) -> Result<Option<FileInfo>, Error> {
        self.repeatable(|open| {
            info(open.query_opt(EXTEND_FILE, &[&id.as_str(), &ttl.as_secs_f64()])?)
        })
    }

    /// Deletes expired files in small batches until there are none or `stop` says so;
    /// `deleted` is told of each batch, how many files it was and how many bytes.
    ///
    /// # Errors
    /// Those of the database; what was deleted until then stays deleted.
    pub fn delete_expired(
        &mut self,
        stop: impl Fn() -> bool,
        mut deleted: impl FnMut(u64, u64),
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
                deleted(files as u64, bytes as u64);
            }
            // Where a rule of the database keeps us from deleting, trying again is no use.
            if expired.len() < EXPIRED_BATCH as usize || gone == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Counts all files, batch by batch: the sum of a table that changes meanwhile.
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

fn until(expires: SystemTime, now: SystemTime) -> Duration {
    expires.duration_since(now).unwrap_or_default()
}

/// Adds to the start of a file what follows it.
fn read_rest(
    open: &mut OpenConnection,
    id: &FileId,
    bytes: &mut Vec<u8>,
) -> Result<(), postgres::Error> {
    let mut rows = open.query_raw(SELECT_REST, &[id.as_str()])?;
    while let Some(row) = rows.next()? {
        // They come in the order of the series. Should that ever change, the file is missed
        // rather than mixed up.
        if row.try_get::<_, i32>(0)? as usize == bytes.len() + 1 {
            bytes.extend_from_slice(row.try_get(1)?);
        }
    }
    Ok(())
}

/// Stores a file, or refreshes it if it is there, which needs none of its bytes.
fn refresh_or_send(
    open: &mut OpenConnection,
    id: &FileId,
    data: &[u8],
    ttl: Duration,
) -> Result<FileInfo, postgres::Error> {
    let (name, seconds) = (id.as_str(), ttl.as_secs_f64());
    let mut round = 1;
    loop {
        let refreshed = open.query_one(REFRESH_FILE, &[&name, &seconds])?;
        if refreshed.try_get::<_, Option<i32>>(0)?.is_some() {
            return read_info(&refreshed);
        }
        let now: SystemTime = refreshed.try_get(3)?;
        let (replace, mut expires) = (round > 1, now + ttl);
        if replace {
            let promised = open.query_opt(SELECT_WITHOUT_BYTES, &[&name])?;
            let promised = promised.map(|row| row.try_get(0)).transpose()?;
            expires = promised.map_or(expires, |promised| expires.max(promised));
        }
        match send_in_pieces(open, id, data, now, expires, replace) {
            // Somebody else has stored the same at the same time, or there is a row without
            // bytes.
            Err(error) if is_taken(&error) && round < MAX_STORE_TRIES => round += 1,
            sent => return sent,
        }
    }
}

/// Stores a file under an id that nobody has; an error that [`is_taken`] if somebody has it. Its
/// row goes through [`COPY_FILE`], which takes any part of a row at a time; a parameter of a statement
/// must be in memory as a whole, and more than once. With `replace` a row without bytes is no
/// obstacle.
fn send_in_pieces(
    open: &mut OpenConnection,
    id: &FileId,
    data: &[u8],
    now: SystemTime,
    expires: SystemTime,
    replace: bool,
) -> Result<FileInfo, postgres::Error> {
    let uploaded = now;
    let before = replace.then_some((DELETE_WITHOUT_BYTES, id.as_str()));
    let sent = open.copy_in(before, COPY_FILE, |writer| {
        // PostgreSQL takes no half row.
        let _ = write_row(writer, id, data, uploaded, expires);
    });
    sent.map(|()| FileInfo {
        size: data.len(),
        uploaded,
        expires,
        remaining: until(expires, now),
    })
}

/// Whether a file was not stored because its id is taken.
fn is_taken(error: &postgres::Error) -> bool {
    error.code() == Some(&SqlState::UNIQUE_VIOLATION)
}

/// The binary format of COPY_FILE ("File Formats" in PostgreSQL's description of it): a signature,
/// flags and an empty extension; a row's number of fields, each with its length; -1.
fn write_row(
    mut writer: impl Write,
    id: &FileId,
    data: &[u8],
    uploaded: SystemTime,
    expires: SystemTime,
) -> io::Result<()> {
    writer.write_all(b"PGCOPY\n\xff\r\n\0")?;
    writer.write_all(&[0; 8])?;
    writer.write_all(&4i16.to_be_bytes())?;
    let (uploaded, expires) = (timestamp(uploaded), timestamp(expires));
    for field in [id.as_str().as_bytes(), &uploaded, &expires] {
        writer.write_all(&(field.len() as i32).to_be_bytes())?;
        writer.write_all(field)?;
    }
    writer.write_all(&(data.len() as i32).to_be_bytes())?;
    for piece in data.chunks(COPY_CHUNK) {
        writer.write_all(piece)?;
    }
    writer.write_all(&(-1i16).to_be_bytes())
}

/// Microseconds since the year 2000, as PostgreSQL keeps times.
fn timestamp(time: SystemTime) -> [u8; 8] {
    const YEAR_2000: Duration = Duration::from_secs(946_684_800);
    let since = time.duration_since(SystemTime::UNIX_EPOCH + YEAR_2000);
    let microseconds = since.map(|since| since.as_micros() as i64);
    // No database's clock is behind that.
    microseconds.unwrap_or(0).to_be_bytes()
}
