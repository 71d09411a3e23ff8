//! Storing a large file in pieces, by `COPY … FROM STDIN`.
//!
//! A parameter of a statement must be in memory as a whole, several times over. `COPY` accepts any
//! part of a row at a time.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use postgres::{CopyInWriter, Transaction};

use super::connection::OpenConnection;
use super::deadline::Watched;
use crate::protocol::file_id::FileId;

/// The size of a piece, bytes.
const COPY_CHUNK: usize = 128 * 1024;

const COPY_FILE: &str = "COPY files (id, uploaded, expiry, data) FROM STDIN (FORMAT binary)";

/// Waits until no other upload of the same file is being stored. Without this each of them would
/// write all of its bytes, and find only then that the id is taken.
const LOCK_ID: &str = "SELECT pg_advisory_xact_lock($1)";

/// Selects an id's row: whether it has bytes, and when it expires.
const SELECT_ROW: &str = "SELECT data IS NOT NULL, expiry FROM files WHERE id = $1";

/// Removes an older server's row without bytes, to make room for one with bytes.
const DELETE_WITHOUT_BYTES: &str = "DELETE FROM files WHERE id = $1 AND data IS NULL";

/// A file that is to be stored as a new row.
#[derive(Clone, Copy)]
pub(super) struct NewRow<'a> {
    /// The file's id.
    pub(super) id: &'a FileId,
    /// The file's bytes.
    pub(super) data: &'a [u8],
    /// When the file was uploaded.
    pub(super) uploaded: SystemTime,
    /// When the file expires.
    pub(super) expires: SystemTime,
}

/// Stores a file as a new row. If the id is taken, the error is a unique violation.
pub(super) fn copy_file(open: &mut OpenConnection, row: NewRow) -> Result<(), postgres::Error> {
    open.copy_in(|_, _| Ok(Some(row)), COPY_FILE, send_row)?;
    Ok(())
}

/// Stores a file as a new row, unless its id has one with bytes; then nothing is sent. Waits for
/// another upload of the same file first. An older server's row without bytes is replaced; the new
/// row expires no sooner. Returns the row that was stored.
pub(super) fn copy_absent_file<'a>(
    open: &mut OpenConnection,
    row: NewRow<'a>,
) -> Result<Option<NewRow<'a>>, postgres::Error> {
    let lock = open.statement(LOCK_ID)?;
    let select = open.statement(SELECT_ROW)?;
    let id = row.id.as_str();
    let replace = |transaction: &mut Transaction, watched: &Watched| {
        transaction.execute(&lock, &[&lock_number(id)])?;
        watched.progress();
        let Some(older) = transaction.query_opt(&select, &[&id])? else {
            return Ok(Some(row));
        };
        if older.try_get(0)? {
            return Ok(None);
        }
        transaction.execute(DELETE_WITHOUT_BYTES, &[&id])?;
        let expires = row.expires.max(older.try_get(1)?);
        Ok(Some(NewRow { expires, ..row }))
    };
    open.copy_in(replace, COPY_FILE, send_row)
}

fn send_row(writer: &mut CopyInWriter, watched: &Watched, row: &NewRow) {
    // An error here also ends the copy with an error: PostgreSQL accepts no incomplete row.
    let _ = write_row(writer, row, || watched.progress());
}

/// The number of the lock on an id: its first eight characters. Ids that share them only wait for
/// each other. No id begins with a zero byte, as the numbers of the other locks do.
fn lock_number(id: &str) -> i64 {
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(id.bytes()) {
        *to = from;
    }
    i64::from_be_bytes(first)
}

/// Writes a row in the binary format of COPY (PostgreSQL's documentation of it, "File Formats"): a
/// signature, flags and an empty extension; the number of fields, and each field with its length;
/// -1 as the end.
/// `progress` is called after each piece.
fn write_row(mut writer: impl Write, row: &NewRow, progress: impl Fn()) -> io::Result<()> {
    writer.write_all(b"PGCOPY\n\xff\r\n\0")?;
    writer.write_all(&[0; 8])?;
    writer.write_all(&4i16.to_be_bytes())?;
    let (uploaded, expires) = (timestamp(row.uploaded), timestamp(row.expires));
    for field in [row.id.as_str().as_bytes(), &uploaded, &expires] {
        writer.write_all(&(field.len() as i32).to_be_bytes())?;
        writer.write_all(field)?;
    }
    writer.write_all(&(row.data.len() as i32).to_be_bytes())?;
    for piece in row.data.chunks(COPY_CHUNK) {
        writer.write_all(piece)?;
        progress();
    }
    writer.write_all(&(-1i16).to_be_bytes())
}

/// PostgreSQL's binary form of a time: microseconds since the year 2000.
fn timestamp(time: SystemTime) -> [u8; 8] {
    const YEAR_2000: Duration = Duration::from_secs(946_684_800);
    let since = time.duration_since(SystemTime::UNIX_EPOCH + YEAR_2000);
    let microseconds = since.map(|since| since.as_micros() as i64);
    // No database's clock is before the year 2000.
    microseconds.unwrap_or(0).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_has_a_lock_of_its_own_that_is_none_of_the_schemas() {
        let numbers = ["AAAAAAAA", "AAAAAAAB", "-", "1", "18446744073709551615"].map(lock_number);
        for (position, number) in numbers.iter().enumerate() {
            assert!(!numbers[..position].contains(number));
            assert!(*number > 1 << 56, "{number}");
        }
        assert_eq!(lock_number("AAAAAAAAx"), numbers[0]);
    }
}
