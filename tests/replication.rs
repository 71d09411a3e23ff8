//! What the operator wants to be on a synchronous stand-by, and may not be.

mod common;

use common::{Cluster, Database, Server, bytes, eventually};

/// Waits until a statement waits for the stand-by, and cancels the wait.
fn cancel_a_wait(database: &Database) {
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity \
                  WHERE wait_event = 'SyncRep' AND query !~ 'pg_cancel_backend'";
    eventually("a wait is cancelled", || database.number(cancel) > 0);
}

#[test]
fn what_may_not_be_on_the_stand_by_is_not_acknowledged() {
    let cluster = Cluster::start();
    let database = cluster.database();
    let server = Server::with(&database, "workers = 2\nfiles.cleanup_interval = '1 h'");
    let file = bytes(1, 1_000);
    let id = server.upload(&file);
    let want_stand_by = |name: &str| {
        let mut client = database.client();
        for statement in [
            "SET synchronous_commit = local",
            &format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"),
            "SELECT pg_reload_conf()",
        ] {
            client.batch_execute(statement).expect("allowed");
        }
        eventually("the setting is known", || {
            let shown = database
                .client()
                .query_one("SHOW synchronous_standby_names", &[]);
            shown.expect("a row").get::<_, String>(0) == name
        });
    };
    want_stand_by("nobody");
    let extend = format!("/file/{id}/extend");
    for (path, body) in [
        ("/file", bytes(2, 1_000)),
        ("/file", bytes(3, 500_000)),
        ("/file", file.clone()),
        (extend.as_str(), Vec::new()),
    ] {
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| server.post(path, &body));
            cancel_a_wait(&database);
            asking.join().expect("an answer").assert_error(503);
        });
    }
    // Reading needs nobody.
    assert_eq!(server.get(&format!("/file/{id}")).body, file);
    assert!(
        server
            .log()
            .contains("a synchronous stand-by was cancelled")
    );
    want_stand_by("");
    for seed in [2, 3] {
        let size = if seed == 2 { 1_000 } else { 500_000 };
        let id = server.upload(&bytes(seed, size));
        assert_eq!(server.get(&format!("/file/{id}")).body, bytes(seed, size));
    }
}
