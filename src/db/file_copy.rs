//! Storing a large file in pieces, by `COPY … FROM STDIN`.
//!
//! A parameter of a statement must be in memory as a whole, several times over. `COPY` accepts any
//! part of a row at a time.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use super::connection::OpenConnection;
use crate::protocol::file_id::FileId;

/// The size of a piece, bytes.
const COPY_CHUNK: usize = 128 * 1024;

const COPY_FILE: &str = "COPY files (id, uploaded, expiry, data) FROM STDIN (FORMAT binary)";

/// Removes an older server's row without bytes, to make room for one with bytes.
const DELETE_WITHOUT_BYTES: &str = "DELETE FROM files WHERE id = $1 AND data IS NULL";

/// A file that is to be stored as a new row.
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

/// Stores a file as a new row. With `replace`, an older row without bytes is removed first. If the
/// id is taken, the error is a unique violation.
pub(super) fn copy_file(
    open: &mut OpenConnection,
    row: &NewRow,
    replace: bool,
) -> Result<(), postgres::Error> {
    let before = replace.then_some((DELETE_WITHOUT_BYTES, row.id.as_str()));
    open.copy_in(before, COPY_FILE, |writer, watched| {
        // An error here also ends the copy with an error: PostgreSQL accepts no incomplete row.
        let _ = write_row(writer, row, || watched.progress());
    })
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
