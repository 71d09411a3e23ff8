//! `files.max_total_size`: what counts, and that nothing goes beyond; and a disk that is full.

mod common;

use std::time::Duration;

use common::{Database, Server, bytes, eventually};

/// Settings with a bound of 5 MB.
const BOUND: &str = "files.max_total_size = 5_000_000\nfiles.cleanup_interval = '1 s'";

fn stored(database: &Database) -> i64 {
    database.number("SELECT coalesce(sum(length(data)), 0)::int8 FROM files")
}

/// A server that has counted the files of an empty table.
fn bounded(database: &Database) -> Server {
    let server = Server::with(database, BOUND);
    eventually("the files are counted", || {
        server.log().contains("files stored")
    });
    server
}

#[test]
fn beyond_the_operators_bound_uploads_are_answered_507_until_files_expire() {
    let database = Database::new();
    let server = bounded(&database);
    let statuses = (0..8).map(|seed| server.post("/file", &bytes(seed, 1_000_000)).status);
    let statuses: Vec<u16> = statuses.collect();
    assert_eq!(statuses, [[200; 4], [200, 507, 507, 507]].concat());
    server
        .post("/file", &bytes(99, 1_000_000))
        .assert_error(507);
    server.post("/file", b"a small one").assert_error(507);
    let base64 = format!("{{\"file\": \"{}\"}}", "AAAA".repeat(1000));
    server.post("/files", base64.as_bytes()).assert_error(507);
    database.execute("UPDATE files SET expiry = now() - interval '1 s'");
    eventually("they are deleted", || stored(&database) == 0);
    // Uploads are taken again at once, and not only after the next count.
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while server.post("/file", &bytes(7, 1_000_000)).status != 200 {
        assert!(std::time::Instant::now() < deadline, "no room");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_file_that_is_there_costs_nothing_and_is_refreshed_at_any_bound() {
    for size in [50_000, 1_000_000] {
        let database = Database::new();
        let server = bounded(&database);
        let file = bytes(1, size);
        for _ in 0..2_000_000 / size + 10 {
            server.upload(&file);
        }
        assert_eq!(stored(&database), size as i64);
        // The rest of the bound is there for other files.
        let others = (5_000_000 / size) as u64 - 1;
        for seed in 0..others {
            server.upload(&bytes(seed + 2, size));
        }
        server.post("/file", &bytes(999, size)).assert_error(507);
        database.execute(
            "UPDATE files SET uploaded = now() - interval '2 days', \
             expiry = now() + interval '1 hour'",
        );
        let answer = server.post("/file", &file);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.number("expires") - answer.number("uploaded") > 86_400.0);
        let extended = format!(
            "/file/{}/extend",
            answer.json()["id"].as_str().expect("an id")
        );
        assert_eq!(server.post(&extended, b"").status, 200);
        server.post("/file", &bytes(998, size)).assert_error(507);
    }
}

#[test]
fn uploads_at_once_never_go_beyond_the_bound() {
    for (settings, same) in [("", false), ("", true), ("files.numeric_ids = true", false)] {
        let database = Database::new();
        let settings = format!("{BOUND}\nworkers = 24\n{settings}");
        let server = Server::with(&database, &settings);
        let taken: usize = std::thread::scope(|scope| {
            let upload = |seed| server.post("/file", &bytes(seed, 1_000_000)).status;
            let clients = (0..24).map(|seed| {
                let seed = if same { seed % 8 } else { seed };
                scope.spawn(move || upload(seed))
            });
            let clients: Vec<_> = clients.collect();
            let statuses = clients.into_iter().map(|c| c.join().expect("answered"));
            statuses
                .inspect(|status| assert!([200, 507].contains(status), "{status}"))
                .filter(|status| *status == 200)
                .count()
        });
        // Uploads of the same file at once may all reserve room for it, and then give it back.
        let bytes = stored(&database);
        assert!(bytes <= 5_000_000, "{settings}: {bytes}");
        assert!(taken >= 4, "{settings}: {taken}");
        if !same {
            assert_eq!(taken as i64 * 1_000_000, bytes, "{settings}");
        }
    }
}

#[test]
fn a_server_that_has_not_counted_yet_takes_nothing_beyond_the_bound() {
    let database = Database::new();
    drop(Server::start(&database));
    database.execute(
        "INSERT INTO files (id, data) SELECT 'old-' || n, decode(repeat(md5(n::text), 1000), 'hex') \
         FROM generate_series(1, 320) n",
    );
    assert_eq!(stored(&database), 320 * 16_000);
    let server = Server::with(&database, BOUND);
    for seed in 0..10 {
        server
            .post("/file", &bytes(seed, 500_000))
            .assert_error(507);
    }
}

#[test]
fn servers_on_one_database_share_the_bound() {
    let database = Database::new();
    let servers = [bounded(&database), bounded(&database), bounded(&database)];
    let taken = "SELECT coalesce(sum(bytes), 0)::int8 FROM stored_bytes";
    // Each takes what fits, and the others know of it soon: not by their counts, which come once a
    // minute.
    for (number, server) in servers.iter().enumerate() {
        server.upload(&bytes(number as u64, 1_500_000));
        let written = (number as i64 + 1) * 1_500_000;
        eventually("it tells", || database.number(taken) == written);
        std::thread::sleep(Duration::from_millis(2_500));
    }
    for (number, server) in servers.iter().enumerate() {
        let answer = server.post("/file", &bytes(10 + number as u64, 1_500_000));
        answer.assert_error(507);
    }
    assert_eq!(stored(&database), 4_500_000);
    servers[0].upload(&bytes(20, 400_000));
}

#[test]
fn what_needs_no_space_does_not_show_that_a_full_disk_has_some_again() {
    let database = Database::new();
    let server = Server::start(&database);
    let file = bytes(1, 500_000);
    let extend = format!("/file/{}/extend", server.upload(&file));
    // What PostgreSQL says when it can't make a file larger (53100, disk_full).
    database.execute(
        "CREATE FUNCTION be_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$; \
         CREATE TRIGGER full_disk BEFORE INSERT ON files \
         FOR EACH ROW EXECUTE FUNCTION be_full()",
    );
    for size in [1_000, 500_000] {
        server.post("/file", &bytes(2, size)).assert_error(503);
    }
    // A file that is there needs no space, nor does its lifetime.
    for (path, body) in [("/file", &file), (&extend, &Vec::new())] {
        assert_eq!(server.post(path, body).status, 200, "{path}");
        assert_eq!(server.get("/health").json()["write"], false, "{path}");
    }
    database.execute("DROP TRIGGER full_disk ON files");
    assert_eq!(server.post("/file", &bytes(3, 500_000)).status, 200);
    assert_eq!(server.get("/health").json()["write"], true);
    let log = server.log();
    assert_eq!(log.matches("takes no writes").count(), 1, "{log}");
    assert_eq!(log.matches("takes writes again").count(), 1, "{log}");
}
