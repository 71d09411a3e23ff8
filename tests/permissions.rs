//! What the operator is told where PostgreSQL forbids something, and that doing it helps.

mod common;

use std::process::Command;

use common::{Database, Server, config_folder, run};

/// Tables of an older server, with a file.
const FILES: &str = "CREATE TABLE files (id varchar(44) PRIMARY KEY, data bytea NOT NULL, \
     uploaded timestamptz NOT NULL DEFAULT now(), expiry timestamptz NOT NULL); \
     CREATE TABLE account_version_checks (blinded_id text, platform text, \"timestamp\" timestamptz); \
     INSERT INTO files VALUES ('there', 'content', now(), 'infinity')";

struct Case {
    database: Database,
    user: String,
    url: String,
}

impl Case {
    /// A database with a user of the server's own, who owns nothing. `USER` and `OLD` in `sql`
    /// are that user and an older server's; it is run by a superuser.
    fn new(sql: &str) -> Case {
        let database = Database::new();
        let user = format!("server-of-{}", database.name);
        let old = format!("old_{}", database.name);
        database.execute(&format!(
            "CREATE ROLE \"{user}\" LOGIN; CREATE ROLE {old} LOGIN; GRANT ALL ON SCHEMA public TO {old}"
        ));
        database.execute(
            &sql.replace("USER", &format!("\"{user}\""))
                .replace("OLD", &old),
        );
        let url = database.url.replace("user=tester", &format!("user={user}"));
        Case {
            database,
            user,
            url,
        }
    }

    /// Does what is advised until `command` advises nothing more. Returns the statements.
    fn follow_advice(&self, command: &str) -> String {
        let folder = config_folder(&self.url, "");
        let mut done = String::new();
        for _ in 0..3 {
            let output = match command {
                "serve" => match Server::try_with(&self.url, "") {
                    Ok(_) => return done,
                    Err(log) => log,
                },
                command => {
                    let output = run(folder.path(), &[command]);
                    if output.status.success() {
                        return done;
                    }
                    String::from_utf8(output.stderr).expect("UTF-8")
                }
            };
            let advice = output.split("as the user postgres: psql -d ").nth(1);
            let advice = advice.unwrap_or_else(|| panic!("no advice in {output}"));
            let statements = advice.split('\'').nth(1).expect("in quotes");
            let psql = Command::new("psql")
                .args([
                    "-q",
                    "-v",
                    "ON_ERROR_STOP=1",
                    &self.database.url,
                    "-c",
                    statements,
                ])
                .output()
                .expect("psql");
            assert!(psql.status.success(), "{statements}: {psql:?}");
            done += statements;
            done += ";";
        }
        panic!("the advice doesn't help: {done}")
    }

    fn assert_serves(&self) {
        let server = Server::try_with(&self.url, "").expect("started");
        assert!(!server.log().contains("may not read"), "{}", server.log());
        server.upload(b"a file");
        let user = self.user.replace('"', "");
        let superuser = "SELECT count(*) FROM pg_auth_members \
             JOIN pg_roles ON pg_roles.oid = roleid WHERE rolsuper AND member::regrole::text = $1";
        let mut client = self.database.client();
        let row = client.query_one(superuser, &[&format!("\"{user}\"")]);
        assert_eq!(row.expect("a row").get::<_, i64>(0), 0);
    }
}

#[test]
fn advice_fits_what_is_missing_helps_and_makes_nobody_a_superuser() {
    let made_by_old = |sql: &str| format!("SET ROLE OLD; {sql}; RESET ROLE");
    for (sql, command, expected) in [
        // The database belongs to a superuser.
        (String::new(), "serve", "ALTER DATABASE \"test_"),
        (String::new(), "init-db", "ALTER DATABASE \"test_"),
        (
            "ALTER SCHEMA public OWNER TO tester".into(),
            "serve",
            "GRANT USAGE, CREATE ON SCHEMA \"public\" TO \"server-of-",
        ),
        // New tables that somebody else's init-db has made.
        (
            format!(
                "{}; GRANT ALL ON ALL TABLES IN SCHEMA public TO USER; \
                 REVOKE ALL ON blocked_files FROM USER",
                include_str!("../schema.pgsql")
            ),
            "serve",
            "ALTER TABLE blocked_files OWNER TO \"server-of-",
        ),
        // Tables of an older server's user, of a superuser.
        (made_by_old(FILES), "init-db", "GRANT \"old_"),
        (
            FILES.into(),
            "init-db",
            "ALTER TABLE files OWNER TO \"server-of-",
        ),
    ] {
        let case = Case::new(&sql);
        let statements = case.follow_advice(command);
        assert!(statements.contains(expected), "{sql}: {statements}");
        assert!(!statements.contains("GRANT \"tester\""), "{statements}");
        case.assert_serves();
    }
}

#[test]
fn a_missing_privilege_is_named_with_its_statement() {
    for revoke in [
        "REVOKE ALL ON schema_version FROM USER",
        "REVOKE ALL ON files FROM USER",
        "REVOKE INSERT ON files FROM USER",
        "REVOKE DELETE ON github_releases FROM USER",
    ] {
        let database = Database::new();
        drop(Server::start(&database));
        let user = format!("partly_{}", database.name);
        database.execute(&format!(
            "CREATE ROLE {user} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}; {}",
            revoke.replace("USER", &user)
        ));
        let url = database.url.replace("user=tester", &format!("user={user}"));
        let log = match Server::try_with(&url, "") {
            Ok(server) => {
                common::eventually("it is warned of", || server.log().contains("may not read"));
                server.log()
            }
            Err(log) => log,
        };
        let expected = [
            "ALTER TABLE schema_version OWNER TO",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ",
        ];
        assert!(
            expected.iter().any(|statement| log.contains(statement)),
            "{revoke}: {log}"
        );
        assert!(!log.contains("GRANT \"tester\""), "{log}");
    }
}

#[test]
fn a_user_who_may_not_connect_is_told_so() {
    let database = Database::new();
    let user = format!("outsider_{}", database.name);
    database.execute(&format!(
        "CREATE ROLE {user} LOGIN; REVOKE CONNECT ON DATABASE {} FROM PUBLIC",
        database.name
    ));
    let url = database.url.replace("user=tester", &format!("user={user}"));
    let log = Server::try_with(&url, "").err().expect("refused");
    assert!(
        log.contains("permission denied for database") && log.contains("createdb -O"),
        "{log}"
    );
}
