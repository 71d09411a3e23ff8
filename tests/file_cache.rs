//! The file cache: what comes from memory, and that it is right.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Database, Server, bytes, eventually};
use session_file_server::api::context::{Context, Wrapping};
use session_file_server::api::routes;
use session_file_server::cache::files::FileCache;
use session_file_server::cache::releases::ReleaseCache;
use session_file_server::config::Config;
use session_file_server::db::{self, Probe, Settings};
use session_file_server::protocol::http::{Body, Headers, Method, Request, Response};
use session_file_server::protocol::onion::REPLY_MARGINS;
use session_file_server::server::{AnswerMemory, Room};
use session_file_server::statistics::Statistics;

/// The default size of the cache, because servers of the test fixture have none.
const CACHE: &str = "files.cache_size = 16_000_000";

fn expires(server: &Server, path: &str) -> String {
    let answer = server.get(path);
    answer.header("Expires").expect("a file's").to_string()
}

#[test]
fn a_file_that_was_just_uploaded_or_fetched_comes_from_memory() {
    let database = Database::new();
    let [one, another] = [CACHE, CACHE].map(|settings| Server::with(&database, settings));
    let files = [1_000, 1_000_000, 10_000_000].map(|size| bytes(size as u64, size));
    let ids = files.each_ref().map(|file| one.upload(file));
    assert!(another.get(&format!("/file/{}", ids[2])).body == files[2]);
    let _lock = database.lock_files();
    for (id, file) in ids.iter().zip(&files) {
        assert!(one.get(&format!("/file/{id}")).body == *file);
    }
    assert!(another.get(&format!("/file/{}", ids[2])).body == files[2]);
    // The others were neither uploaded nor fetched there.
    another.get(&format!("/file/{}", ids[0])).assert_error(503);
}

#[test]
fn many_who_want_one_large_file_at_once_all_get_it() {
    let database = Database::new();
    let server = Server::with(&database, CACHE);
    let file = bytes(1, 10_000_000);
    let path = format!("/file/{}", server.upload(&file));
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                let mut connection = server.connect();
                connection.head("GET", &path, &[]);
                // A client on a slow line reads late.
                std::thread::sleep(Duration::from_millis(500));
                let answer = connection.answer("GET");
                assert!(answer.status == 200 && answer.body == file, "{answer:?}");
            });
        }
    });
}

#[test]
fn a_cached_file_expires_and_lives_longer_as_any_server_is_told() {
    let database = Database::new();
    let [one, another] = [CACHE, CACHE].map(|settings| Server::with(&database, settings));
    let paths = [1, 2, 3].map(|seed| {
        let answer = one.post_with("/file", &[("X-FS-TTL", "3")], &bytes(seed, 1000));
        let path = format!("/file/{}", answer.json()["id"].as_str().expect("an id"));
        assert_eq!(one.get(&path).status, 200);
        path
    });
    let before = expires(&one, &paths[1]);
    let hour = [("X-FS-TTL", "3600")];
    for (server, path) in [(&one, &paths[1]), (&another, &paths[2])] {
        let answer = server.post_with(&format!("{path}/extend"), &hour, b"");
        assert_eq!(answer.status, 200);
    }
    assert_ne!(expires(&one, &paths[1]), before, "it is known at once");
    eventually("the first expires", || one.get(&paths[0]).status == 404);
    assert_eq!(one.get(&paths[1]).status, 200);
    assert_eq!(one.get(&paths[2]).status, 200, "the other server was told");
}

#[test]
fn what_another_server_has_refreshed_is_told_right_within_the_minute() {
    let database = Database::new();
    let [one, another] = [CACHE, CACHE].map(|settings| Server::with(&database, settings));
    let file = bytes(1, 100_000);
    let upload = |server: &Server, ttl: &str| {
        let answer = server.post_with("/file", &[("X-FS-TTL", ttl)], &file);
        format!("/file/{}", answer.json()["id"].as_str().expect("an id"))
    };
    let path = upload(&one, "3600");
    let before = expires(&one, &path);
    assert_eq!(upload(&another, "7200"), path);
    let right = expires(&another, &path);
    assert_ne!(before, right);
    // The file is asked for again and again until its times are right.
    let refreshed = Instant::now();
    eventually("it is right again", || expires(&one, &path) == right);
    assert!(refreshed.elapsed() < Duration::from_secs(45));
    // A request for the file's times (`info` or HEAD) gets the right ones at once, and so do all
    // later requests for the file.
    for (ttl, method, asked) in [
        ("10800", "GET", format!("{path}/info")),
        ("14400", "HEAD", path.clone()),
    ] {
        upload(&another, ttl);
        let right = expires(&another, &path);
        assert_ne!(expires(&one, &path), right);
        assert_eq!(one.connect().request(method, &asked, &[], b"").status, 200);
        assert_eq!(expires(&one, &path), right, "{method} {asked}");
    }
}

/// The path of a file, from the answer to its upload.
fn path_of(answer: &Response) -> String {
    let answer: serde_json::Value =
        serde_json::from_slice(answer.body.as_slice()).expect("an answer");
    format!("/file/{}", answer["id"].as_str().expect("an id"))
}

/// Calls `work` with what the endpoints need beside a request, as a worker has it: in a new process,
/// whose cache has that many bytes, and takes a file for fresh for so long. It also gets the memory
/// of which answers take theirs.
fn as_worker(
    database: &Database,
    cache: usize,
    fresh: Duration,
    work: impl FnOnce(&mut Context, &AnswerMemory),
) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = Config::default();
    config.keys.ed25519 = folder.path().join("key");
    config.keys.x25519 = folder.path().join("none");
    let shared = db::Database::new(Settings::parse(&database.url).expect("valid"));
    let (statistics, cached) = (Statistics::default(), Arc::<ReleaseCache>::default());
    let memory = Arc::new(AnswerMemory::new(10_000_000, 1));
    let mut context = Context {
        config: &config,
        db: &mut shared.connection(),
        room: &mut Room::new(&memory),
        wrapping: Wrapping::None,
        may_write: &mut || true,
        probe: &Probe::start(&shared).expect("a thread"),
        keys: &config.keys.load_or_create().expect("a key"),
        cache: &FileCache::new(cache, fresh),
        versions: &cached,
        statistics: &statistics,
        count: statistics.requests.begin(Instant::now()),
    };
    work(&mut context, &memory);
}

fn ask(context: &mut Context, method: Method, target: &str, body: &[u8]) -> Response {
    let headers = Headers::default();
    let request = Request {
        method,
        target,
        headers: &headers,
        body,
    };
    routes::dispatch(&request, context).expect("it may write")
}

#[test]
fn what_was_deleted_by_hand_is_noticed_when_it_is_confirmed() {
    let database = Database::new();
    drop(Server::start(&database));
    let fresh = Duration::from_millis(300);
    as_worker(&database, 1_000_000, fresh, |context, _| {
        let path = path_of(&ask(context, Method::Post, "/file", b"a file"));
        database.execute("UPDATE files SET expiry = expiry + interval '1 day'");
        let mut get = || ask(context, Method::Get, &path, b"");
        let before = get();
        std::thread::sleep(fresh);
        let confirmed = get();
        assert_eq!(confirmed.body.as_slice(), b"a file");
        assert_ne!(confirmed.headers, before.headers, "it lives longer");
        database.execute("DELETE FROM files");
        assert_eq!(get().status, 200);
        std::thread::sleep(fresh);
        assert_eq!(get().status, 404);
        let counts = context.statistics.counts();
        assert_eq!((counts.downloads, counts.cache_hits), (4, 4));
    });
}

#[test]
fn a_file_that_no_cache_keeps_is_fetched_into_the_buffer_of_its_reply() {
    const MB: usize = 1_000_000;
    let database = Database::new();
    let id = Server::start(&database).upload(&bytes(1, MB));
    for (cache, wrapping, has_margins, megabytes) in [
        (0, Wrapping::None, false, 1.0),
        (16 * MB, Wrapping::None, false, 1.0),
        // The file and its copy in the reply, if there is one.
        (0, Wrapping::V4, true, 1.0),
        (16 * MB, Wrapping::V4, false, 2.0),
        // The reply and its base64.
        (0, Wrapping::V3, true, 1.0 + 4.0 / 3.0),
        (16 * MB, Wrapping::V3, false, 1.0 + 4.0 / 3.0),
    ] {
        as_worker(
            &database,
            cache,
            Duration::from_secs(60),
            |context, memory| {
                context.wrapping = wrapping;
                let answer = ask(context, Method::Get, &format!("/file/{id}"), b"");
                let Body::Shared(file) = answer.body else {
                    panic!("a file may be shared with the cache");
                };
                assert!(file[..] == bytes(1, MB));
                assert_eq!(file.has(REPLY_MARGINS), has_margins, "{cache} {wrapping:?}");
                let taken = memory.taken() as f64 / MB as f64;
                let difference = (taken - megabytes).abs();
                assert!(difference < 0.1, "{cache} {wrapping:?}: {taken} MB");
            },
        );
    }
}
