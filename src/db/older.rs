//! What the Python file server keeps in its database beside the files: its layouts of 2021,
//! 2024 and 2025. None of it is changed, so that one can still go back; what is worth keeping
//! is copied.
//!
//! The layout of 2025 is one of transition: newer files lie in a folder, and their rows in
//! `files` have no bytes. The bytes of older files are still in their rows.

use postgres::{GenericClient, Transaction};

/// The older server's tables and views that have no use here. The releases among them
/// are asked for again as soon as the server runs.
pub(super) const OLDER_TABLES: [&str; 8] = [
    "alpharelease_versions",
    "prerelease_versions",
    "release_versions",
    "versions",
    "account_version_checks",
    "release_assets",
    "releases",
    "projects",
];

/// Those of [`OLDER_TABLES`] that are there, and whether each is a view.
const FIND_OLDER_TABLES: &str = "SELECT name, relkind = 'v' \
     FROM unnest($1::text[]) WITH ORDINALITY unused (name, position) \
     JOIN pg_class ON pg_class.oid = to_regclass(name) ORDER BY position";

/// The types of the columns that [`copy_checks`] reads.
const CHECK_COLUMNS: &str = "SELECT format_type(atttypid, NULL) FROM pg_attribute \
     WHERE attrelid = to_regclass('account_version_checks') AND attname = $1 \
         AND NOT attisdropped";

/// What `init-db` found of an older server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    tables: Vec<String>,
    views: Vec<String>,
    /// Version checks of the last 90 days that were copied.
    pub checks: u64,
    /// Files that have not expired and whose bytes are not in the database.
    pub without_bytes: u64,
    /// Further tables of files that are not all in `files`, as SQL names them.
    pub tables_of_files: Vec<String>,
}

/// Tables with the columns of `files`, in either layout, but for `files` itself and those of
/// the names $1; and whether we may read them. The older server can have one, its
/// `BACKUP_TABLE`, in which it looks for what `files` hasn't got.
const FIND_TABLES_OF_FILES: &str = "SELECT pg_class.oid::regclass::text, \
         has_table_privilege(pg_class.oid, 'SELECT') \
     FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid \
         JOIN pg_namespace ON pg_namespace.oid = relnamespace \
     WHERE relkind IN ('r', 'p', 'f') AND NOT relispartition AND NOT attisdropped \
         AND nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%' \
         AND relname <> 'files' \
         AND pg_class.oid <> ALL(ARRAY(SELECT to_regclass(name)::oid FROM unnest($1::text[]) name)) \
         AND (attname::text, format_type(atttypid, NULL)) IN \
             (('id', 'character varying'), ('id', 'text'), ('data', 'bytea'), ('pool', 'integer'), \
              ('uploaded', 'timestamp with time zone'), ('expiry', 'timestamp with time zone')) \
     GROUP BY pg_class.oid HAVING count(*) >= 4 \
         AND bool_or(attname = 'id') AND bool_or(attname = 'expiry') \
     ORDER BY 1 LIMIT 20";

/// Names the further tables of files of a database, but for those that are `known` and those
/// in which no file is `wanted`: a condition on a row of the table, which is called `other`.
pub(super) fn tables_of_files(
    client: &mut impl GenericClient,
    known: &[&str],
    wanted: &str,
) -> Result<Vec<String>, postgres::Error> {
    let mut names = Vec::new();
    for row in client.query(FIND_TABLES_OF_FILES, &[&known])? {
        let (name, is_readable): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
        // The name comes quoted as SQL wants it.
        let has_files = format!("SELECT EXISTS (SELECT FROM {name} AS other WHERE {wanted})");
        if !is_readable || client.query_one(&has_files, &[])?.try_get(0)? {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether `files` may hold rows without bytes: our own can't.
const MAY_LACK_BYTES: &str = "SELECT NOT attnotnull FROM pg_attribute \
     WHERE attrelid = to_regclass('files') AND attname = 'data' AND NOT attisdropped";

const COUNT_WITHOUT_BYTES: &str =
    "SELECT count(*) FROM files WHERE data IS NULL AND expiry > now()";

/// What is worth taking over from a further table of files.
const MISSING_FROM_FILES: &str = "other.expiry > now() AND NOT EXISTS \
     (SELECT FROM files WHERE files.id = other.id AND files.data IS NOT NULL)";

/// Looks for files that the older server has elsewhere than in the bytes of `files`.
pub(super) fn find_files_elsewhere(
    client: &mut impl GenericClient,
    leftovers: &mut Leftovers,
) -> Result<(), postgres::Error> {
    let may_lack = client.query_opt(MAY_LACK_BYTES, &[])?;
    if may_lack.map(|row| row.try_get(0)).transpose()? == Some(true) {
        let count: i64 = client.query_one(COUNT_WITHOUT_BYTES, &[])?.try_get(0)?;
        leftovers.without_bytes = count as u64;
    }
    leftovers.tables_of_files = tables_of_files(client, &[], MISSING_FROM_FILES)?;
    Ok(())
}

impl Leftovers {
    /// The statement that removes what the older server has left, if it left anything.
    pub fn removal(&self) -> Option<String> {
        let drop = |kind: &str, names: &[String]| {
            let some = !names.is_empty();
            some.then(|| format!("DROP {kind} {};", names.join(", ")))
        };
        let parts = [drop("VIEW", &self.views), drop("TABLE", &self.tables)];
        let statement = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
        (!statement.is_empty()).then_some(statement)
    }
}

/// Copies what is worth keeping; can be repeated.
pub(super) fn copy_version_checks(
    transaction: &mut Transaction,
) -> Result<Leftovers, postgres::Error> {
    let mut leftovers = Leftovers::default();
    for row in transaction.query(FIND_OLDER_TABLES, &[&OLDER_TABLES.as_slice()])? {
        match row.try_get(1)? {
            true => leftovers.views.push(row.try_get(0)?),
            false => leftovers.tables.push(row.try_get(0)?),
        }
    }
    if leftovers
        .tables
        .iter()
        .any(|t| t == "account_version_checks")
    {
        leftovers.checks = copy_checks(transaction)?;
    }
    Ok(leftovers)
}

/// Copies the version checks of the last 90 days, of each signer, platform and channel the
/// last one. The layout of 2024 knows only stable releases; later ones have a channel, which
/// is whatever the client sent.
fn copy_checks(transaction: &mut Transaction) -> Result<u64, postgres::Error> {
    let mut type_of = |column: &str| -> Result<Option<String>, postgres::Error> {
        let row = transaction.query_opt(CHECK_COLUMNS, &[&column])?;
        row.map(|row| row.try_get(0)).transpose()
    };
    let signer = match type_of("blinded_id")?.as_deref() {
        Some("bytea") => "encode(blinded_id, 'hex')",
        Some(_) => "blinded_id::text",
        None => return Ok(0),
    };
    let timestamp = type_of("timestamp")?;
    let (Some(time), Some(_)) = (
        timestamp.and_then(|kind| time_expression("\"timestamp\"", &kind)),
        type_of("platform")?,
    ) else {
        return Ok(0);
    };
    let mut column = None;
    for name in ["channel", "release_channel"] {
        if type_of(name)?.is_some() {
            column = Some(name);
        }
    }
    let channel = column.map_or("'stable'".into(), |column| {
        format!(
            "CASE WHEN {column}::text IN ('prerelease', 'alpha') THEN {column}::text \
             ELSE 'stable' END"
        )
    });
    transaction.execute(
        &format!(
            "INSERT INTO version_checks (blinded_id, platform, channel, checked) \
             SELECT {signer}, platform::text, {channel}, max({time}) \
             FROM account_version_checks WHERE {time} > now() - interval '90 days' \
             GROUP BY 1, 2, 3 \
             ON CONFLICT (blinded_id, platform, channel) DO UPDATE \
             SET checked = greatest(version_checks.checked, excluded.checked)"
        ),
        &[],
    )
}

/// SQL for a time in a column of that type: older servers keep some as times, some as
/// seconds. `None` for a type that holds no time.
pub(super) fn time_expression(column: &str, kind: &str) -> Option<String> {
    match kind {
        "timestamp with time zone" => Some(column.into()),
        // Python's servers write UTC.
        "timestamp without time zone" => Some(format!("({column} AT TIME ZONE 'UTC')")),
        "double precision" | "real" | "numeric" | "integer" | "bigint" => {
            Some(format!("to_timestamp({column}::float8)"))
        }
        _ => None,
    }
}
