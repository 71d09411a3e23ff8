//! The statements of the server, held to what a PostgreSQL with the extension Citus takes for a
//! distributed table: `SELECT create_distributed_table('files', 'id')`. It isn't in Debian, so that
//! this test reads the statements instead of running them.

#[path = "common/source_files.rs"]
mod source_files;

use source_files::{root, source_files};

/// Functions that may stand in what is returned or written on a conflict. The result of each
/// depends on its arguments alone.
const IMMUTABLE: &[&str] = &["coalesce", "greatest", "length"];
/// What may stand with parentheses in an UPDATE or DELETE of files: in addition to these, functions
/// whose result is the same during a statement, and what isn't a function.
const STABLE: &[&str] = &[
    "now",
    "make_interval",
    "unnest",
    "any",
    "array",
    "exists",
    "and",
    "as",
    "older",
];
/// Values that are written without parentheses and change with the time or the session.
const CHANGING: &[&str] = &[
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "localtime",
    "localtimestamp",
    "session_user",
];
/// Statements that use `files` and name more than one id, or none.
const OF_MANY_IDS: &[(&str, &str)] = &[
    (
        "SELECT_EXPIRED",
        "the timer asks all shards, once an interval",
    ),
    ("DELETE_EXPIRED", "a batch of a hundred ids"),
    (
        "SELECT_PRESENT",
        "ids that were blocked in the last minutes, a batch",
    ),
    (
        "COUNT_AFTER",
        "counts all files, batch by batch, on the coordinator",
    ),
    ("COPY_FILE", "one row, which the copy brings"),
    ("SELECT_KNOWN_IDS", "import, a batch"),
    ("INSERT_FILES", "import, a batch"),
    ("KEEP_LATER_TIMES", "import, a batch"),
    ("BUILD_NEW", "refused on a distributed table"),
    ("DELETE_DUPLICATES", "refused on a distributed table"),
    ("COUNT_WITHOUT_BYTES", "init-db, on an older server's table"),
    ("MISSING_FROM_FILES", "init-db, on an older server's table"),
];
/// Statements on `files` that compare blocked ids with others than the one they name.
const OF_MANY_BLOCKED: &[(&str, &str)] = &[(
    "INSERT_FILES",
    "selects from its parameters and a local table, and writes what that has found",
)];

/// A statement in the source.
struct Statement {
    /// The name of its constant, or the file that it is in.
    name: String,
    /// Its text, in which each sequence of white space is one space.
    sql: String,
}

/// The text literals of Rust source, each with the source before it. Lines are joined as the
/// compiler does.
fn literals(source: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    let mut rest = source.char_indices().peekable();
    let mut begin = 0;
    while let Some((at, c)) = rest.next() {
        let is_comment = source[at..].starts_with("//");
        let is_quoted_quote = source[at..].starts_with("'\"'");
        if is_comment {
            while rest.next_if(|(_, c)| *c != '\n').is_some() {}
        } else if is_quoted_quote {
            rest.nth(1);
        } else if c == '"' {
            let mut text = String::new();
            while let Some((_, c)) = rest.next_if(|(_, c)| *c != '"') {
                match c {
                    '\\' => match rest.next() {
                        Some((_, '\n')) => {
                            while rest.next_if(|(_, c)| c.is_whitespace()).is_some() {}
                        }
                        Some((_, other)) => text.push(other),
                        None => {}
                    },
                    c => text.push(c),
                }
            }
            let end = rest.next().map_or(source.len(), |(end, _)| end + 1);
            found.push((&source[begin..at], text));
            begin = end;
        }
    }
    found
}

/// The name of the constant whose value follows this source, if it is a constant's.
fn constant(before: &str) -> Option<&str> {
    let declaration = before.trim_end().strip_suffix("=")?;
    let (_, declaration) = declaration.rsplit_once("const ")?;
    declaration.split_once(':').map(|(name, _)| name)
}

/// All statements in `src/db`, but those of its tests, and of the files that the server loads.
fn statements() -> Vec<Statement> {
    const VERBS: &[&str] = &[
        "SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "COPY", "CREATE",
    ];
    let mut found = Vec::new();
    for (path, source) in source_files(&["src/db"]) {
        let file = path.strip_prefix(root()).expect("below").display();
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        for (before, text) in literals(code) {
            let words: Vec<&str> = text.split_whitespace().collect();
            if words
                .iter()
                .any(|word| VERBS.contains(&word.trim_start_matches('(')))
            {
                let name = constant(before).map_or(file.to_string(), str::to_string);
                let sql = words.join(" ");
                found.push(Statement { name, sql });
            }
        }
    }
    found
}

/// The text up to the parenthesis that closes a query around it, or to the first of `ends`.
fn clause<'a>(text: &'a str, ends: &[&str]) -> &'a str {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 0 => return &text[..at],
            ')' => depth -= 1,
            ';' => return &text[..at],
            _ if depth == 0 && ends.iter().any(|end| text[at..].starts_with(end)) => {
                return &text[..at];
            }
            _ => {}
        }
    }
    text
}

/// The clauses of a statement that begin with `start`.
fn clauses<'a>(sql: &'a str, start: &str, ends: &[&str]) -> Vec<&'a str> {
    let starts = sql.match_indices(start);
    starts
        .map(|(at, _)| clause(&sql[at + start.len()..], ends))
        .collect()
}

/// The first thing in a clause that isn't `allowed` there: a function, a value that changes, or a
/// query.
fn intruder(clause: &str, allowed: &[&str]) -> Option<String> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    for (at, c) in clause.char_indices() {
        let before = clause[..at].trim_end_matches(is_name);
        let word = clause[before.len()..at].to_lowercase();
        let ends = !is_name(c);
        if c == '(' && !word.is_empty() && !allowed.contains(&word.as_str()) {
            return Some(word);
        }
        if ends && CHANGING.contains(&word.as_str()) {
            return Some(word);
        }
    }
    let last = clause.rsplit(|c| !is_name(c)).next().unwrap_or_default();
    CHANGING
        .contains(&last.to_lowercase().as_str())
        .then(|| last.to_string())
}

/// What a sharded database refuses in a statement; `None` if it takes it.
fn refusal(sql: &str) -> Option<String> {
    for returned in clauses(sql, "RETURNING ", &[]) {
        if let Some(name) = intruder(returned, IMMUTABLE) {
            return Some(format!("{name} in RETURNING"));
        }
        if returned.contains("SELECT") {
            return Some("a query in RETURNING".into());
        }
    }
    for written in clauses(sql, "DO UPDATE SET ", &[" RETURNING "]) {
        if let Some(name) = intruder(written, IMMUTABLE) {
            return Some(format!("{name} in DO UPDATE SET"));
        }
    }
    let allowed = [IMMUTABLE, STABLE].concat();
    for start in ["UPDATE files ", "DELETE FROM files "] {
        for modification in clauses(sql, start, &[" RETURNING "]) {
            if let Some(name) = intruder(modification, &allowed) {
                return Some(format!("{name} in {start}"));
            }
        }
    }
    None
}

/// Whether a statement uses the table of files itself.
fn uses_files(sql: &str) -> bool {
    let verbs = ["FROM", "JOIN", "INTO", "UPDATE", "COPY", "ON"];
    let words: Vec<&str> = sql.split([' ', '(', ')', ',', ';']).collect();
    words
        .windows(2)
        .any(|pair| verbs.contains(&pair[0]) && pair[1] == "files")
}

/// Whether each use of the table of files names the id that is the first parameter.
fn names_one_id(sql: &str) -> bool {
    let uses = |verb: &str| sql.matches(&format!("{verb} files ")).count();
    let stored = sql.matches("INTO files (id, data, uploaded, expiry) SELECT $1::text,");
    let named = sql.matches(" WHERE id = $1").count();
    stored.count() == uses("INTO") && named >= uses("FROM") + uses("UPDATE") && uses("JOIN") == 0
}

/// Whether the only blocked id that a statement looks for is its first parameter.
fn looks_for_one_blocked_id(sql: &str) -> bool {
    let compared = clauses(sql, "blocked_files.id = ", &[" ", ","]);
    compared.iter().all(|other| *other == "$1")
}

#[test]
fn no_statement_has_what_a_sharded_database_refuses() {
    let statements = statements();
    assert!(statements.len() > 60, "{}", statements.len());
    for known in [
        "INSERT_OR_REFRESH",
        "REFRESH_FILE",
        "UPSERT_SERVER",
        "RECORD_CHECK",
    ] {
        assert!(statements.iter().any(|s| s.name == known), "{known}");
    }
    for Statement { name, sql } in statements {
        assert_eq!(refusal(&sql), None, "{name}: {sql}");
    }
}

#[test]
fn a_statement_on_files_names_one_id_or_has_a_reason() {
    let statements: Vec<_> = statements();
    let mut excepted = Vec::new();
    for Statement { name, sql } in statements.iter().filter(|s| uses_files(&s.sql)) {
        if OF_MANY_IDS.iter().any(|(other, _)| other == name) {
            excepted.push(name.as_str());
        } else {
            assert!(names_one_id(sql), "{name}: {sql}");
        }
        if !OF_MANY_BLOCKED.iter().any(|(other, _)| other == name) {
            assert!(looks_for_one_blocked_id(sql), "{name}: {sql}");
        }
    }
    for (name, _) in OF_MANY_IDS {
        assert!(excepted.contains(name), "{name} is no exception");
    }
}

#[test]
fn what_a_sharded_database_refuses_is_recognised() {
    for (sql, refused) in [
        (
            "UPDATE files SET a = 1 WHERE id = $1 RETURNING a, now()",
            "now in RETURNING",
        ),
        (
            "UPDATE files SET a = 1 RETURNING current_timestamp",
            "current_timestamp in RETURNING",
        ),
        (
            "WITH x AS (DELETE FROM files RETURNING (SELECT 1)) SELECT 1",
            "a query in RETURNING",
        ),
        (
            "INSERT INTO files VALUES ($1) ON CONFLICT (id) DO UPDATE SET a = now() RETURNING a",
            "now in DO UPDATE SET",
        ),
        (
            "INSERT INTO t VALUES ($1) ON CONFLICT (id) DO UPDATE SET a = CURRENT_TIMESTAMP",
            "CURRENT_TIMESTAMP in DO UPDATE SET",
        ),
        (
            "DELETE FROM files WHERE expiry < clock_timestamp()",
            "clock_timestamp in DELETE FROM files ",
        ),
        (
            "UPDATE files SET expiry = random()",
            "random in UPDATE files ",
        ),
    ] {
        assert_eq!(refusal(sql).as_deref(), Some(refused), "{sql}");
    }
    let taken = "WITH x AS (UPDATE files SET a = greatest(a, now() + make_interval(secs => $2)) \
         WHERE id = $1 RETURNING length(data), a) SELECT x.*, now() FROM x";
    assert_eq!(refusal(taken), None);
}

#[test]
fn a_statement_of_many_ids_is_recognised() {
    for (sql, names) in [
        ("SELECT data FROM files WHERE id = $1", true),
        ("SELECT data FROM files WHERE id = ANY($1)", false),
        ("SELECT data FROM files ORDER BY id", false),
        (
            "SELECT data FROM other JOIN files USING (id) WHERE id = $1",
            false,
        ),
        (
            "INSERT INTO files (id, data, uploaded, expiry) SELECT $1::text, $2",
            true,
        ),
        (
            "INSERT INTO files (id, data, uploaded, expiry) SELECT * FROM other",
            false,
        ),
    ] {
        assert!(uses_files(sql) || sql.contains("JOIN"), "{sql}");
        assert_eq!(names_one_id(sql), names, "{sql}");
    }
    assert!(!looks_for_one_blocked_id("x blocked_files.id = files.id)"));
    assert!(looks_for_one_blocked_id("x (blocked_files.id = $1)"));
}
