//! What the Python file server keeps in its database beside the files: its layouts of 2021
//! and 2024. None of it is changed, so that one can still go back; what is worth keeping
//! is copied.

use postgres::Transaction;

/// The older server's tables and views that have no use here. The releases among them
/// are asked for again as soon as the server runs.
pub(super) const UNUSED: [&str; 7] = [
    "prerelease_versions",
    "release_versions",
    "versions",
    "account_version_checks",
    "release_assets",
    "releases",
    "projects",
];

/// Those of [`UNUSED`] that are there, and whether each is a view.
const FIND_UNUSED: &str = "SELECT name, relkind = 'v' \
     FROM unnest($1::text[]) WITH ORDINALITY unused (name, position) \
     JOIN pg_class ON pg_class.oid = to_regclass(name) ORDER BY position";

/// The types of the columns that [`take_checks`] reads.
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
pub(super) fn take_over(transaction: &mut Transaction) -> Result<Leftovers, postgres::Error> {
    let mut leftovers = Leftovers::default();
    for row in transaction.query(FIND_UNUSED, &[&UNUSED.as_slice()])? {
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
        leftovers.checks = take_checks(transaction)?;
    }
    Ok(leftovers)
}

/// Copies the version checks of the last 90 days, of each signer and platform the last
/// one: the older server knew only stable releases.
fn take_checks(transaction: &mut Transaction) -> Result<u64, postgres::Error> {
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
    transaction.execute(
        &format!(
            "INSERT INTO version_checks (blinded_id, platform, channel, checked) \
             SELECT {signer}, platform::text, 'stable', max({time}) \
             FROM account_version_checks WHERE {time} > now() - interval '90 days' \
             GROUP BY 1, 2 \
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
