//! Finding a file for an answer: in the cache or in the database, within the memory that there is.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::context::{Context, Wrapping};
use crate::buffer::{Buffer, Margins};
use crate::cache::files::{File, Lookup, UNCONFIRMED_MAX};
use crate::db::{self, Fetched, FileInfo};
use crate::protocol::file_id::FileId;
use crate::protocol::http::base64_length;
use crate::protocol::onion::REPLY_MARGINS;
use crate::server::Room;

/// The JSON that stands around a file in base64.
const BASE64_JSON: [&str; 2] = [r#"{"status_code":200,"result":""#, r#""}"#];

/// The encoding of a file in an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// The file's own bytes.
    None,
    /// Base64 in JSON.
    Base64,
}

/// The result of looking for a file's bytes.
pub enum Found {
    /// Bytes and expiry.
    File(Arc<Buffer>, SystemTime),
    /// There is no such file.
    Absent,
    /// There is no memory for the answer.
    NoRoom,
}

/// Finds a file's bytes and expiry in the cache or in the database, and takes the memory for an
/// answer in this encoding.
///
/// # Errors
/// Those of the database.
pub fn find(id: &FileId, context: &mut Context, encoding: Encoding) -> Result<Found, db::Error> {
    let cache = context.cache;
    let found = cache.find(id);
    let is_cached = !matches!(found, Lookup::Missing);
    context.statistics.looked_for_file(is_cached);
    let (file, age) = match found {
        Lookup::Fresh(file) => (file, None),
        Lookup::Stale(file, age) => (file, Some(age)),
        Lookup::Missing => return fetch(id, context, encoding),
    };
    let expires = match age.map(|age| (file_info(id, context), age)) {
        None => file.expires,
        Some((Ok(Some(info)), _)) => info.expires,
        Some((Ok(None), _)) => return Ok(Found::Absent),
        // While the database is away, the unconfirmed entry is served for some minutes.
        Some((Err(db::Error::Unavailable(_)), age)) if age < UNCONFIRMED_MAX => file.expires,
        Some((Err(error), _)) => return Err(error),
    };
    let length = file.bytes.len();
    if take_room(context.room, context.wrapping, encoding, 0, length) {
        Ok(Found::File(file.bytes, expires))
    } else {
        Ok(Found::NoRoom)
    }
}

/// Reads a file's size and times from the database, and updates the cache, so that all endpoints
/// return the same.
///
/// # Errors
/// Those of the database.
pub fn file_info(id: &FileId, context: &mut Context) -> Result<Option<FileInfo>, db::Error> {
    let info = context.db.file_info(id)?;
    match &info {
        Some(info) => context.cache.extended(id, info.expires, info.remaining),
        None => context.cache.forget(id),
    }
    Ok(info)
}

/// The answer with a file for old clients. It is written without a library, which would make
/// further copies.
pub fn base64_json(bytes: &[u8]) -> String {
    let mut json = String::with_capacity(base64_json_length(bytes.len()));
    json += BASE64_JSON[0];
    STANDARD.encode_string(bytes, &mut json);
    json + BASE64_JSON[1]
}

/// Fetches a file from the database for [`find`], and keeps it in the cache.
fn fetch(id: &FileId, context: &mut Context, encoding: Encoding) -> Result<Found, db::Error> {
    let (wrapping, cache) = (context.wrapping, context.cache);
    let room = RefCell::new(&mut *context.room);
    let is_taken = Cell::new(false);
    // It is asked again if the file must be read again.
    let take_room_once = |length| {
        // A file that is kept in the cache, or encoded, is copied into its reply.
        let is_only_wrapped = encoding == Encoding::None && !cache.takes(length);
        let (margins, fetched) = match wrapping {
            Wrapping::V4 | Wrapping::V3 if is_only_wrapped => (REPLY_MARGINS, 0),
            _ => (Margins::default(), length),
        };
        if !is_taken.get() {
            let room = &mut room.borrow_mut();
            is_taken.set(take_room(room, wrapping, encoding, fetched, length));
        }
        is_taken.get().then_some(margins)
    };
    match context.db.file(id, take_room_once)? {
        Fetched::File(file) => {
            let file = File {
                bytes: Arc::new(file.bytes),
                expires: file.expires,
                remaining: file.remaining,
            };
            context.cache.keep(id, file.clone());
            Ok(Found::File(file.bytes, file.expires))
        }
        Fetched::Absent => Ok(Found::Absent),
        Fetched::NoRoom => Ok(Found::NoRoom),
    }
}

/// Takes the memory for an answer with a file of `length` bytes. `fetched` bytes came from the
/// database and lie in a buffer of their own; 0 if that becomes the reply.
fn take_room(
    room: &mut Room,
    wrapping: Wrapping,
    encoding: Encoding,
    fetched: usize,
    length: usize,
) -> bool {
    let (encoded, body) = match encoding {
        Encoding::None => (0, length),
        Encoding::Base64 => {
            let encoded = base64_json_length(length);
            (encoded, encoded)
        }
    };
    room.take(wrapping.most_at_once(fetched, encoded, body))
}

fn base64_json_length(bytes: usize) -> usize {
    BASE64_JSON[0].len() + base64_length(bytes) + BASE64_JSON[1].len()
}
