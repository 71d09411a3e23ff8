//! The table of endpoints, and the dispatch of requests to their handlers.

use super::context::{Context, Handler, Wrapping};
use super::{files, health, token_info, versions};
use crate::config::Config;
use crate::protocol::file_id::FileId;
use crate::protocol::http::{
    Body, BodyRule, Incoming, Method, Request, Response, base64_json_limit, path_of,
};
use crate::protocol::onion::{self, Opened, Version, cipher::FreshNonce};
use crate::request_counts::Way;

/// An endpoint.
struct Route {
    method: Method,
    /// The path, in which `{id}` stands for a valid file id.
    path: &'static str,
    /// The limit of a request's body.
    body: BodyLimit,
    handler: Handler,
    /// Whether it writes to the database, so that it must wait for its turn to.
    writes: bool,
}

/// The kinds of bodies that endpoints take, each with its own limit.
#[derive(Clone, Copy)]
enum BodyLimit {
    /// No body.
    Unused,
    /// A file.
    File,
    /// A file as base64 in JSON.
    Base64File,
}

const fn route(method: Method, path: &'static str, body: BodyLimit, handler: Handler) -> Route {
    Route {
        method,
        path,
        body,
        handler,
        writes: false,
    }
}

impl Route {
    const fn writing(mut self) -> Route {
        self.writes = true;
        self
    }
}

const HEALTH: &str = "/health";

/// All endpoints. A HEAD request is answered by the route for GET.
#[rustfmt::skip]
const ROUTES: &[Route] = &[
    route(Method::Post, "/file",             BodyLimit::File,       files::upload).writing(),
    route(Method::Get,  "/file/{id}",        BodyLimit::Unused,     files::download),
    route(Method::Get,  "/file/{id}/info",   BodyLimit::Unused,     files::info),
    route(Method::Post, "/file/{id}/extend", BodyLimit::Unused,     files::extend).writing(),
    route(Method::Post, "/files",            BodyLimit::Base64File, files::deprecated_upload).writing(),
    route(Method::Get,  "/files/{id}",       BodyLimit::Unused,     files::deprecated_download),
    route(Method::Get,  "/session_version",  BodyLimit::Unused,     versions::session_version),
    route(Method::Get,  "/token_info",       BodyLimit::Unused,     token_info::show),
    route(Method::Get,  HEALTH,              BodyLimit::Unused,     health::check),
];

/// The endpoints for onion requests. They are not in [`ROUTES`], so that sub-requests can't reach
/// them: nested onion requests of ten megabytes would recurse fifty thousand times.
const ONION_PATHS: &[(&str, Version)] = &[
    ("/oxen/v4/lsrpc", Version::V4),
    ("/oxen/v3/lsrpc", Version::V3),
    ("/loki/v3/lsrpc", Version::V3),
];

/// The largest body of a request to an endpoint that takes none, bytes. The body is received and
/// ignored, so that the connection stays usable.
const UNUSED_BODY_LIMIT: usize = 64 * 1024;

/// The name of each endpoint: its method and its path. Their places are the numbers by which
/// requests are counted.
pub fn endpoint_names() -> Vec<String> {
    let name = |route: &Route| format!("{} {}", route.method.as_str(), route.path);
    ROUTES.iter().map(name).collect()
}

/// The number of the endpoint that takes a request, if there is one, and the way in which the
/// request comes.
pub fn endpoint_and_way(method: Method, target: &str) -> (Option<usize>, Way) {
    let path = path_of(target);
    if method == Method::Post && onion_version(path).is_some() {
        return (None, Way::Onion);
    }
    let method = match method {
        Method::Head => Method::Get,
        other => other,
    };
    (number_of(method, path), Way::Direct)
}

/// A request that is ready to be answered.
pub enum Asked {
    /// A direct one.
    Direct(Incoming),
    /// One that came through the onion network, decrypted.
    Onion(Box<Opened>),
}

/// Makes a request ready to be answered: decrypts it if it is an onion request.
///
/// # Errors
/// The answer to one that can't be decrypted, or isn't allowed.
pub fn open(incoming: Incoming, context: &mut Context) -> Result<Asked, Response> {
    match (onion_version(path_of(&incoming.target)), incoming.method) {
        (Some(version), Method::Post) => {
            context.count.way = Way::Onion;
            // For a further key there is a copy of the body.
            let (keys, bytes) = (context.keys, incoming.body.len());
            if keys.pairs().len() > 1 && !context.room.take(bytes) {
                return Err(Response::unavailable());
            }
            let opened = Opened::open(version, keys, incoming.body);
            context.room.give_back();
            opened.map(|opened| Asked::Onion(opened.into()))
        }
        (Some(_), _) => Err(method_not_allowed(&["POST"])),
        (None, _) => Ok(Asked::Direct(incoming)),
    }
}

/// Answers a request.
///
/// # Errors
/// The request itself, if it writes and it isn't its turn to.
pub fn answer(asked: Asked, context: &mut Context) -> Result<Response, Asked> {
    let opened = match asked {
        Asked::Direct(incoming) => {
            let response = dispatch(&incoming.as_request(), context);
            return response.ok_or(Asked::Direct(incoming));
        }
        Asked::Onion(opened) => opened,
    };
    context.count.way = Way::Onion;
    // Stands if there is no sub-request in it, which the client is told in an answer of 200.
    context.count.status = 400;
    let mut nonce = [0; 24];
    if let Err(error) = getrandom::getrandom(&mut nonce) {
        log::error!("no random numbers: {error}");
        return Ok(Response::error(500));
    }
    let copied = opened.copied_bytes();
    if copied > 0 && !context.room.take(copied) {
        context.count.status = 503;
        return Ok(Response::unavailable());
    }
    context.wrapping = match opened.version() {
        Version::V3 => Wrapping::V3,
        Version::V4 => Wrapping::V4,
    };
    let router = |sub_request: &Request| dispatch(sub_request, context);
    let answered = opened.answer(FreshNonce(nonce), router);
    answered.map_err(|opened| Asked::Onion(opened.into()))
}

fn onion_version(path: &str) -> Option<Version> {
    let found = ONION_PATHS
        .iter()
        .find(|(onion_path, _)| *onion_path == path);
    found.map(|(_, version)| *version)
}

/// Answers a direct request or a sub-request with the handler from [`ROUTES`]. The response is
/// 404 for an unknown path, 405 for a known path with another method. `None` if the request writes
/// and it isn't its turn to.
pub fn dispatch(request: &Request, context: &mut Context) -> Option<Response> {
    if request.method != Method::Head {
        return find_and_run(request.method, request, context);
    }
    let mut response = find_and_run(Method::Get, request, context)?;
    response.body = Body::Omitted(response.body.content_length());
    Some(response)
}

fn find_and_run(method: Method, request: &Request, context: &mut Context) -> Option<Response> {
    let path = request.path();
    let number = number_of(method, path);
    if number.is_some_and(|number| ROUTES[number].writes) && !(context.may_write)() {
        return None;
    }
    let response = match number {
        Some(number) => {
            context.count.endpoint = number;
            (ROUTES[number].handler)(request, context)
        }
        None => no_route(path),
    };
    context.count.status = response.status;
    Some(response)
}

/// The response to a received request that no endpoint takes, which doesn't depend on its body:
/// 404 for an unknown path, 405 for a known path with another method. `None` if there is an
/// endpoint.
pub fn refusal(method: Method, target: &str) -> Option<Response> {
    let path = path_of(target);
    let method = match method {
        Method::Head => Method::Get,
        other => other,
    };
    match (onion_version(path), method) {
        (Some(_), Method::Post) => None,
        (Some(_), _) => Some(method_not_allowed(&["POST"])),
        (None, method) if route_of(method, path).is_some() => None,
        (None, _) => Some(no_route(path)),
    }
}

fn no_route(path: &str) -> Response {
    match allowed(path) {
        allowed if allowed.is_empty() => Response::error(404),
        allowed => method_not_allowed(&allowed),
    }
}

fn method_not_allowed(allowed: &[&str]) -> Response {
    Response::error(405).with_header("Allow", allowed.join(", "))
}

/// The rule for the body of a request to `target`.
pub fn body_rule(method: Method, target: &str, config: &Config) -> BodyRule {
    let path = path_of(target);
    if method == Method::Post && onion_version(path).is_some() {
        return BodyRule::Required(onion::body_limit(config.files.max_size));
    }
    match route_of(method, path).map_or(BodyLimit::Unused, |route| route.body) {
        BodyLimit::Unused => BodyRule::AtMost(UNUSED_BODY_LIMIT),
        BodyLimit::File => BodyRule::Required(config.files.max_size),
        BodyLimit::Base64File => BodyRule::Required(base64_json_limit(config.files.max_size)),
    }
}

fn route_of(method: Method, path: &str) -> Option<&'static Route> {
    number_of(method, path).map(|number| &ROUTES[number])
}

/// The place of a route in [`ROUTES`].
fn number_of(method: Method, path: &str) -> Option<usize> {
    ROUTES
        .iter()
        .position(|route| route.method == method && matches(route.path, path))
}

fn routes_of(path: &str) -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(move |route| matches(route.path, path))
}

/// Whether a received request asks how the server is, which must be answered while all workers wait
/// for the database.
pub fn is_about_health(method: Method, target: &str) -> bool {
    matches!(method, Method::Get | Method::Head) && path_of(target) == HEALTH
}

/// Whether `path` has the form of `pattern`, in which `{id}` stands for a valid file id.
fn matches(pattern: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    let mut pattern = pattern.split('/');
    loop {
        match (pattern.next(), segments.next()) {
            (None, None) => return true,
            (Some("{id}"), Some(segment)) if FileId::is_valid(segment) => {}
            (Some(expected), Some(segment)) if expected == segment => {}
            _ => return false,
        }
    }
}

/// The methods with which `path` may be requested.
fn allowed(path: &str) -> Vec<&'static str> {
    let mut allowed = Vec::new();
    for route in routes_of(path) {
        allowed.push(route.method.as_str());
        if route.method == Method::Get {
            allowed.push(Method::Head.as_str());
        }
    }
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_segments_and_valid_ids_only() {
        assert!(matches("/file/{id}", "/file/abc"));
        assert!(matches("/file/{id}/info", "/file/abc/info"));
        for path in [
            "/file/",
            "/file/a.b",
            "/file/a/",
            "/file/a/b",
            "/filea",
            "file/a",
            "//file/a",
        ] {
            assert!(!matches("/file/{id}", path), "{path}");
        }
        assert!(!matches("/file", "/file/"));
    }

    #[test]
    fn no_two_routes_share_method_and_path() {
        for (index, route) in ROUTES.iter().enumerate() {
            for other in &ROUTES[..index] {
                assert!(route.method != other.method || route.path != other.path);
            }
        }
    }

    #[test]
    fn only_uploads_may_be_large() {
        let config = Config::default();
        let max_size = config.files.max_size;
        let rule = |method, target| body_rule(method, target, &config);
        assert_eq!(rule(Method::Post, "/file?x"), BodyRule::Required(max_size));
        assert!(
            matches!(rule(Method::Post, "/files"), BodyRule::Required(n) if n > max_size * 4 / 3)
        );
        assert_eq!(
            rule(Method::Get, "/file"),
            BodyRule::AtMost(UNUSED_BODY_LIMIT)
        );
        assert_eq!(
            rule(Method::Post, "/elsewhere"),
            BodyRule::AtMost(UNUSED_BODY_LIMIT)
        );
    }
}
