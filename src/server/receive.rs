//! From tiny_http's request to ours.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use super::pace::Progress;
use crate::buffer::Buffer;
use crate::protocol::http::{Headers, Incoming, Method, one_slash};

/// How long a client waits for memory to receive its body into.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Reads a body of `length` bytes into one buffer of that size.
///
/// # Errors
/// When the client sends fewer, or sends them too slowly.
pub fn body(
    request: &mut tiny_http::Request,
    length: usize,
    progress: &Progress,
) -> io::Result<Buffer> {
    let mut body = Buffer::to_overwrite(length);
    let mut filled = 0;
    while filled < length {
        match request.as_reader().read(&mut body[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                filled += count;
                progress.moved(count);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if progress.is_too_slow(Instant::now()) {
            return Err(ErrorKind::TimedOut.into());
        }
    }
    Ok(body)
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

    #[test]
    fn a_target_is_its_path_after_one_slash() {
        assert_eq!(origin_form("//file/x"), "/file/x");
        assert_eq!(origin_form("http://a.example//file/x"), "/file/x");
        assert_eq!(origin_form("/file?x=http://a/b"), "/file?x=http://a/b");
        assert_eq!(origin_form("http://a.example:80/file/x"), "/file/x");
        assert_eq!(origin_form("http://a.example"), "/");
    }
}
