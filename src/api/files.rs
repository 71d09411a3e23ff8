//! The endpoints that store and serve files.
//!
//! A file whose id the operator has blocked is answered 404 everywhere, like an expired one,
//! because Session's clients take no other status as final. Desktop repeats a request up to three
//! times after any other failure, 410 included. Android marks an attachment as expired after 404,
//! iOS marks it as invalid, and both try again after 410. An upload of a blocked file is answered
//! 404 too, because otherwise desktop would send its bytes three times.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use serde::Deserialize;
use serde_json::{Value, json};

use super::context::{Context, database_error};
use super::find::{Encoding, Found, base64_json, file_info, find};
use crate::buffer::Buffer;
use crate::cache::files::File;
use crate::config;
use crate::db::{self, FileInfo, Refreshed};
use crate::protocol::file_id::FileId;
use crate::protocol::http::{BASE64, Body, JSON, Method, Request, Response, unix_seconds};

/// The header in which a client asks for a file's lifetime, seconds.
pub const TTL_HEADER: &str = "X-FS-TTL";

/// The result of storing an upload.
enum Uploaded {
    /// The file is stored under this id.
    Stored(FileId, FileInfo),
    /// No free random id was found, or `files.max_total_size` leaves no space.
    NoRoom,
    /// The content id is blocked.
    Blocked,
}

impl Uploaded {
    /// The result for what [`store`](db::Connection::store) has returned, which is `None` if the id
    /// is blocked.
    fn of(id: FileId, stored: Option<FileInfo>) -> Uploaded {
        stored.map_or(Uploaded::Blocked, |info| Uploaded::Stored(id, info))
    }
}

/// How many random ids are tried until one is free.
const RANDOM_ID_TRIES: usize = 25;

/// `POST /file`
pub fn upload(request: &Request, context: &mut Context) -> Response {
    let settings = &context.config.files;
    let Ok(ttl) = requested_ttl(request.headers.get(TTL_HEADER), settings) else {
        return Response::error(400);
    };
    if !size_is_allowed(request.body.len(), settings) {
        return Response::error(413);
    }
    let stored = if settings.numeric_ids {
        store_at_random_id(request.body, ttl, context)
    } else {
        store_by_content(request.body, ttl, context)
    };
    match stored {
        Ok(Uploaded::Stored(id, info)) => {
            context.statistics.stored();
            remember(&id, request.body, &info, context);
            let mut answer = json!({ "id": id.as_str() });
            add_info(&mut answer, &info);
            Response::json(200, &answer)
        }
        Ok(Uploaded::NoRoom) => Response::error(507),
        Ok(Uploaded::Blocked) => Response::error(404),
        Err(error) => database_error(&error),
    }
}

/// `GET /file/ID`
pub fn download(request: &Request, context: &mut Context) -> Response {
    let Some(id) = request.file_id() else {
        return Response::error(404);
    };
    if request.method == Method::Head {
        // The response has no bytes, so they aren't read from the database.
        return match file_info(&id, context) {
            Ok(Some(info)) => Response::file(Body::Omitted(info.size), info.expires),
            Ok(None) => Response::error(404),
            Err(error) => database_error(&error),
        };
    }
    match find(&id, context, Encoding::None) {
        Ok(Found::File(bytes, expires)) => Response::file(Body::Shared(bytes), expires),
        Ok(Found::Absent) => Response::error(404),
        Ok(Found::NoRoom) => Response::unavailable(),
        Err(error) => database_error(&error),
    }
}

/// `GET /file/ID/info`
pub fn info(request: &Request, context: &mut Context) -> Response {
    match request.file_id() {
        Some(id) => info_response(file_info(&id, context)),
        None => Response::error(404),
    }
}

/// `POST /file/ID/extend`
pub fn extend(request: &Request, context: &mut Context) -> Response {
    // Any other id may belong to another file by now.
    let Some(id) = request.file_id().filter(FileId::is_content_id) else {
        return Response::error(404);
    };
    match requested_ttl(request.headers.get(TTL_HEADER), &context.config.files) {
        Ok(ttl) => {
            let extended = context.db.extend(&id, ttl);
            if let Ok(Some(info)) = &extended {
                context.cache.extended(&id, info.expires, info.remaining);
            }
            info_response(extended)
        }
        Err(BadTtl) => Response::error(400),
    }
}

/// `POST /files`, used by old clients: the file is base64 in JSON, and its id is a number.
pub fn deprecated_upload(request: &Request, context: &mut Context) -> Response {
    #[derive(Deserialize)]
    struct Upload<'a> {
        #[serde(borrow)]
        file: std::borrow::Cow<'a, str>,
    }
    // The text has a copy if something in it is escaped, and the file is a quarter shorter.
    if !context
        .room
        .take(request.body.len() + request.body.len() / 4 * 3)
    {
        return Response::unavailable();
    }
    let Ok(upload) = serde_json::from_slice::<Upload>(request.body) else {
        return Response::error(400);
    };
    let Ok(data) = BASE64.decode(upload.file.as_bytes()) else {
        return Response::error(400);
    };
    let settings = &context.config.files;
    if !size_is_allowed(data.len(), settings) {
        return Response::error(413);
    }
    match store_at_random_id(&data, settings.expiry, context) {
        Ok(Uploaded::Stored(id, info)) => {
            context.statistics.stored();
            remember(&id, &data, &info, context);
            // Random ids are decimal numbers, so they always parse.
            let id: Value = id.as_str().parse::<u64>().map_or(Value::Null, Value::from);
            Response::json(200, &json!({ "status_code": 200, "result": id, "id": id }))
        }
        Ok(Uploaded::NoRoom) => Response::error(507),
        Ok(Uploaded::Blocked) => Response::error(404),
        Err(error) => database_error(&error),
    }
}

/// `GET /files/ID`, used by old clients: the file is base64 in JSON.
pub fn deprecated_download(request: &Request, context: &mut Context) -> Response {
    let Some(id) = request.file_id() else {
        return Response::error(404);
    };
    match find(&id, context, Encoding::Base64) {
        Ok(Found::File(bytes, _)) => Response {
            status: 200,
            content_type: JSON,
            headers: Vec::new(),
            body: Body::Bytes(base64_json(&bytes).into_bytes().into()),
        },
        Ok(Found::Absent) => Response::error(404),
        Ok(Found::NoRoom) => Response::unavailable(),
        Err(error) => database_error(&error),
    }
}

/// Copies a stored file into the cache, because its recipients will ask for it soon, if there is
/// memory for the copy before the cache has made space.
fn remember(id: &FileId, data: &[u8], info: &FileInfo, context: &mut Context) {
    if context.cache.takes(data.len()) && context.room.try_take(data.len()) {
        let file = File {
            bytes: Arc::new(Buffer::copy_of(&[data], 0)),
            expires: info.expires,
            remaining: info.remaining,
        };
        context.cache.keep(id, file);
    }
}

fn size_is_allowed(size: usize, settings: &config::Files) -> bool {
    (1..=settings.max_size).contains(&size)
}

/// The header [`TTL_HEADER`] is not a positive decimal number.
#[derive(Debug, PartialEq)]
struct BadTtl;

/// The lifetime of a file: what the header asks for, at most `files.max_ttl`; without the header,
/// `files.expiry`.
fn requested_ttl(header: Option<&str>, settings: &config::Files) -> Result<Duration, BadTtl> {
    let (Some(header), Some(max_ttl)) = (header, settings.max_ttl) else {
        return Ok(settings.expiry);
    };
    if header.is_empty() || !header.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(BadTtl);
    }
    // A number beyond 64 bits is above any limit.
    match header.parse().unwrap_or(u64::MAX) {
        0 => Err(BadTtl),
        seconds => Ok(Duration::from_secs(seconds).min(max_ttl)),
    }
}

/// Stores a file under its content id. A file that is stored already needs no space below
/// `files.max_total_size`.
fn store_by_content(
    data: &[u8],
    ttl: Duration,
    context: &mut Context,
) -> Result<Uploaded, db::Error> {
    let id = FileId::of_content(data);
    let Some(limit) = context.config.files.max_total_size else {
        let stored = context.db.store(&id, data, ttl)?;
        return Ok(Uploaded::of(id, stored));
    };
    match context.db.refresh(&id, ttl)? {
        Refreshed::Stored(info) => return Ok(Uploaded::Stored(id, info)),
        Refreshed::Blocked => return Ok(Uploaded::Blocked),
        Refreshed::Absent => {}
    }
    let stored_bytes = &context.statistics.stored_bytes;
    let Some(room) = stored_bytes.reserve(data.len() as u64, limit) else {
        return Ok(Uploaded::NoRoom);
    };
    // If another client stores the same file now, it is counted twice until the next count.
    let stored = context.db.store(&id, data, ttl)?;
    if stored.is_some() {
        room.fill();
    }
    Ok(Uploaded::of(id, stored))
}

/// Stores a file under a random id that is neither taken nor blocked.
fn store_at_random_id(
    data: &[u8],
    ttl: Duration,
    context: &mut Context,
) -> Result<Uploaded, db::Error> {
    let limit = context.config.files.max_total_size.unwrap_or(u64::MAX);
    let stored_bytes = &context.statistics.stored_bytes;
    let Some(room) = stored_bytes.reserve(data.len() as u64, limit) else {
        return Ok(Uploaded::NoRoom);
    };
    for _ in 0..RANDOM_ID_TRIES {
        let mut random = [0; 8];
        getrandom::getrandom(&mut random)
            .map_err(|error| db::Error::Failed(format!("no random numbers: {error}")))?;
        let prefix = &context.config.files.numeric_id_prefix;
        let id = FileId::numeric(prefix, u64::from_le_bytes(random));
        if let Some(info) = context.db.store_new(&id, data, ttl)? {
            room.fill();
            return Ok(Uploaded::Stored(id, info));
        }
    }
    log::error!("no free random id in {RANDOM_ID_TRIES} tries");
    Ok(Uploaded::NoRoom)
}

fn info_response(found: Result<Option<FileInfo>, db::Error>) -> Response {
    match found {
        Ok(Some(info)) => {
            let mut answer = json!({});
            add_info(&mut answer, &info);
            Response::json(200, &answer)
        }
        Ok(None) => Response::error(404),
        Err(error) => database_error(&error),
    }
}

fn add_info(answer: &mut Value, info: &FileInfo) {
    answer["size"] = json!(info.size);
    answer["uploaded"] = json!(unix_seconds(info.uploaded));
    answer["expires"] = json!(unix_seconds(info.expires));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ttl(header: &str, settings: &config::Files) -> Result<u64, BadTtl> {
        requested_ttl(Some(header), settings).map(|ttl| ttl.as_secs())
    }

    #[test]
    fn a_ttl_is_a_decimal_integer_cut_to_the_largest() {
        let settings = config::Config::default().files;
        let max = settings.expiry.as_secs();
        assert_eq!(ttl("1", &settings), Ok(1));
        assert_eq!(ttl("0060", &settings), Ok(60));
        assert_eq!(ttl(&max.to_string(), &settings), Ok(max));
        assert_eq!(ttl(&(max + 1).to_string(), &settings), Ok(max));
        assert_eq!(ttl("99999999999999999999999999", &settings), Ok(max));
        for bad in [
            "", "0", "000", "-1", "+1", "1.0", "1e3", " 1", "0x10", "ten", "١",
        ] {
            assert_eq!(ttl(bad, &settings), Err(BadTtl), "{bad:?}");
        }
    }

    #[test]
    fn without_a_header_or_with_max_ttl_0_a_file_lives_for_the_expiry() {
        let mut settings = config::Config::default().files;
        assert_eq!(requested_ttl(None, &settings), Ok(settings.expiry));
        settings.max_ttl = None;
        assert_eq!(
            requested_ttl(Some("nonsense"), &settings),
            Ok(settings.expiry)
        );
    }
}
