//! From tiny_http's request to ours: its body, and the request as plain data.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use super::budget::{Budget, Reservation};
use super::framing::is_chunked;
use super::pace::Progress;
use crate::buffer::Buffer;
use crate::protocol::http::{Headers, Incoming, Method, one_slash};

/// How long a client waits for memory to receive its body into.
const MEMORY_PATIENCE: Duration = Duration::from_secs(5);
/// The sizes in which memory is taken for a body in chunks, bytes, before what its endpoint
/// allows: as much as the budget has for nothing, and what holds most pictures. A client must not
/// take from others what it doesn't send.
const STEPS: [usize; 2] = [64 * 1024, 1024 * 1024];

/// Why a body was not received.
#[derive(Debug)]
pub enum Failure {
    /// It is larger than its endpoint allows.
    TooLarge,
    /// There was no memory to receive it into.
    NoMemory,
    /// Its client sent too little, no chunks, or too slowly, or is gone.
    Broken(io::Error),
    /// Its connection may have been shut by the guard.
    Shut,
}

/// Takes the bytes of a body that are not there yet.
///
/// # Errors
/// When others have taken too many.
pub fn reserve(budget: &Budget, bytes: usize) -> Result<Reservation, Failure> {
    let reserved = budget.reserve(bytes, MEMORY_PATIENCE);
    reserved.ok_or(Failure::NoMemory)
}

/// Reads a body of `length` bytes into one buffer of that size.
///
/// # Errors
/// When the client sends fewer, or sends them too slowly.
pub fn whole(
    request: &mut tiny_http::Request,
    length: usize,
    progress: &Progress,
) -> Result<Buffer, Failure> {
    let mut body = Buffer::to_overwrite(length);
    if fill(request, &mut body, 0, progress)? < length {
        return Err(Failure::Broken(ErrorKind::UnexpectedEof.into()));
    }
    Ok(body)
}

/// Reads a body in chunks, of at most `limit` bytes. Any error is the end of it: tiny_http may
/// have lost its place in the chunks.
///
/// # Errors
/// When it is too large, broken, or too slow, or there is no memory for it.
pub fn in_chunks(
    request: &mut tiny_http::Request,
    limit: usize,
    budget: &Budget,
    progress: &Progress,
) -> Result<(Buffer, Reservation), Failure> {
    let mut body = Buffer::default();
    let mut filled = 0;
    // What is held meanwhile stays reserved. Those who wait for each other are refused soon.
    let mut held = None;
    for size in STEPS
        .into_iter()
        .filter(|step| *step < limit)
        .chain([limit])
    {
        let reservation = reserve(budget, size)?;
        drop(held.take());
        let mut larger = Buffer::to_overwrite(size);
        larger[..filled].copy_from_slice(&body[..filled]);
        body = larger;
        filled = fill(request, &mut body, filled, progress)?;
        let is_whole = filled < size || size == limit && fill(request, &mut [0], 0, progress)? == 0;
        if is_whole {
            body.truncate(filled);
            return Ok((body, reservation));
        }
        held = Some(reservation);
    }
    Err(Failure::TooLarge)
}

/// Reads until the buffer, of which some bytes are `filled` already, is full or the body ends;
/// how many bytes are filled then.
fn fill(
    request: &mut tiny_http::Request,
    buffer: &mut [u8],
    mut filled: usize,
    progress: &Progress,
) -> Result<usize, Failure> {
    while filled < buffer.len() {
        let count = match request.as_reader().read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => count,
            // The reader of chunks may have lost its place.
            Err(error) if error.kind() == ErrorKind::Interrupted && !is_chunked(request) => {
                continue;
            }
            Err(error) => return Err(Failure::Broken(error)),
        };
        filled += count;
        let now = Instant::now();
        progress.moved(count, now);
        if progress.is_too_slow(now) {
            return Err(Failure::Broken(ErrorKind::TimedOut.into()));
        }
    }
    Ok(filled)
}

/// The request as plain data.
pub fn incoming(request: &tiny_http::Request, body: Buffer) -> Incoming {
    let fields = request.headers().iter();
    Incoming {
        method: Method::parse(request.method().as_str()),
        target: origin_form(request.url()).to_string(),
        headers: fields
            .map(|h| (h.field.as_str().to_string(), h.value.to_string()))
            .collect::<Headers>(),
        body,
    }
}

/// A target without the scheme and authority that a proxy may be asked with
/// (RFC 9112, 3.2.2), and with [`one_slash`].
pub fn origin_form(target: &str) -> &str {
    let Some(rest) = target
        .strip_prefix("http://")
        .or(target.strip_prefix("https://"))
    else {
        return one_slash(target);
    };
    rest.find(['/', '?'])
        .map_or("/", |path| one_slash(&rest[path..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiny_http::{Header, TestRequest};

    #[test]
    fn a_body_has_the_length_that_was_announced_or_is_broken() {
        let receive = |length: usize| {
            let length_field = Header::from_bytes("Content-Length", length.to_string());
            let request =
                TestRequest::new().with_body(&"0123456789abcdef".repeat(200).leak()[..2000]);
            let mut request = request.with_header(length_field.expect("ASCII")).into();
            whole(&mut request, length, &Progress::start(Instant::now()))
        };
        assert!(receive(2000).is_ok_and(|body| body.len() == 2000));
        assert!(receive(0).is_ok_and(|body| body.is_empty()));
        let broken = receive(2001).map(drop);
        assert!(
            matches!(broken, Err(Failure::Broken(error)) if error.kind() == ErrorKind::UnexpectedEof)
        );
    }

    /// Receives a body of so many bytes, in one chunk, with a budget of so many.
    fn receive_chunk(length: usize, budget: usize) -> Result<(Buffer, Reservation), Failure> {
        let coded = format!("{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length));
        let chunked = Header::from_bytes("Transfer-Encoding", "chunked").expect("ASCII");
        // Without an end to its life, because the request wants it so.
        let request = TestRequest::new()
            .with_header(chunked)
            .with_body(coded.leak());
        let mut request = request.with_method(tiny_http::Method::Post).into();
        let progress = Progress::start(Instant::now());
        in_chunks(&mut request, 2 * STEPS[1], &Budget::new(budget), &progress)
    }

    #[test]
    fn what_has_come_stays_reserved_while_there_is_a_larger_buffer() {
        let both = STEPS[1] + 2 * STEPS[1];
        let received = receive_chunk(STEPS[1] + 1, both);
        assert!(received.is_ok_and(|(body, _)| body.len() == STEPS[1] + 1));
        // There would be enough for the larger one alone.
        let received = receive_chunk(STEPS[1] + 1, both - 1);
        assert!(matches!(received, Err(Failure::NoMemory)));
        let received = receive_chunk(STEPS[1] - 1, both - 1);
        assert!(received.is_ok(), "it needs no larger buffer");
    }

    #[test]
    fn a_target_is_its_path_after_one_slash() {
        assert_eq!(origin_form("//file/x"), "/file/x");
        assert_eq!(origin_form("http://a.example//file/x"), "/file/x");
        assert_eq!(origin_form("/file?x=http://a/b"), "/file?x=http://a/b");
        assert_eq!(origin_form("http://a.example:80/file/x"), "/file/x");
        assert_eq!(origin_form("http://a.example"), "/");
    }
}
