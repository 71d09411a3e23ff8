//! The tables that the Python file server has in addition to `files`, in its layouts of 2021, 2024
//! and 2025. They are never changed, so that an operator can go back. Version checks are copied.
//!
//! The layout of 2025 is transitional: newer files are in a folder, and their rows in `files` have
//! no bytes. The bytes of older files are still in their rows.

use postgres::{GenericClient, Transaction};

/// The older server's tables and views that this server doesn't use. It asks GitHub again for the
/// releases in them.
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

/// Selects those of [`OLDER_TABLES`] that exist, and whether each is a view.
const FIND_OLDER_TABLES: &str = "SELECT name, relkind = 'v' \
     FROM unnest($1::text[]) WITH ORDINALITY unused (name, position) \
     JOIN pg_class ON pg_class.oid = to_regclass(name) ORDER BY position";

/// Selects the type of a column of the older server's version checks.
const CHECK_COLUMNS: &str = "SELECT format_type(atttypid, NULL) FROM pg_attribute \
     WHERE attrelid = to_regclass('account_version_checks') AND attname = $1 \
         AND NOT attisdropped";

/// What an older server has left in the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Tables that this server doesn't use.
    tables: Vec<String>,
    /// Views that this server doesn't use.
    views: Vec<String>,
    /// The number of version checks of the last 90 days, which were copied.
    pub checks: u64,
    /// The number of files that have not expired and whose bytes are not in the database.
    pub without_bytes: u64,
    /// The names, quoted for SQL, of further tables with files that are not in `files`.
    pub tables_of_files: Vec<String>,
}

/// Selects tables with the columns of `files` in either layout, and whether we may read them;
/// except `files` itself and the tables named in $1. The older server may have one, its
/// `BACKUP_TABLE`, in which it looks for files that are not in `files`.
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

/// The names, quoted for SQL, of further tables of files in a database. Leaves out those that are
/// `known`, and those without a row that satisfies `wanted`, an SQL condition on the row `other`.
pub(super) fn tables_of_files(
    client: &mut impl GenericClient,
    known: &[&str],
    wanted: &str,
) -> Result<Vec<String>, postgres::Error> {
    let mut names = Vec::new();
    for row in client.query(FIND_TABLES_OF_FILES, &[&known])? {
        let (name, is_readable): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
        // The name is quoted already.
        let has_files = format!("SELECT EXISTS (SELECT FROM {name} AS other WHERE {wanted})");
        if !is_readable || client.query_one(&has_files, &[])?.try_get(0)? {
            names.push(name);
        }
    }
    Ok(names)
}

/// Selects whether `files` may hold rows without bytes, which our own table can't.
const MAY_LACK_BYTES: &str = "SELECT NOT attnotnull FROM pg_attribute \
     WHERE attrelid = to_regclass('files') AND attname = 'data' AND NOT attisdropped";

const COUNT_WITHOUT_BYTES: &str =
    "SELECT count(*) FROM files WHERE data IS NULL AND expiry > now()";

/// The condition on a row of a further table of files that should be taken over.
const MISSING_FROM_FILES: &str = "other.expiry > now() AND NOT EXISTS \
     (SELECT FROM files WHERE files.id = other.id AND files.data IS NOT NULL)";

/// Looks for files whose bytes the older server has elsewhere than in `files`.
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
    /// The statement that drops the older server's tables and views; `None` if there are none.
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

/// Finds the older server's tables, and copies its version checks. Can be repeated.
pub(super) fn copy_version_checks(
    transaction: &mut Transaction,
) -> Result<Leftovers, postgres::Error> {
    let mut leftovers = Leftovers::default();
    for row in transaction.query(FIND_OLDER_TABLES, &[&OLDER_TABLES.as_slice()])? {
        let is_view = row.try_get(1)?;
        if is_view {
            leftovers.views.push(row.try_get(0)?);
        } else {
            leftovers.tables.push(row.try_get(0)?);
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

/// Copies the last version check of each signer, platform and channel within the last 90 days. The
/// layout of 2024 has no channel, because it knows stable releases only. Later layouts have one,
/// with any text that the client has sent.
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

/// The SQL expression for the time in a column of that type. Older servers store some times as
/// timestamps and some as seconds. `None` for a type that holds no time.
pub(super) fn time_expression(column: &str, kind: &str) -> Option<String> {
    match kind {
        "timestamp with time zone" => Some(column.into()),
        // The Python servers write UTC.
        "timestamp without time zone" => Some(format!("({column} AT TIME ZONE 'UTC')")),
        "double precision" | "real" | "numeric" | "integer" | "bigint" => {
            Some(format!("to_timestamp({column}::float8)"))
        }
        _ => None,
    }
}
