//! The collation by which file ids are sorted, and whether it has changed since their index was
//! built.

use super::connection::{Connection, OpenConnection};
use super::error::Error;

/// The number of PostgreSQL 15, the first that records the version of a database's collation.
const VERSION_15: i32 = 150_000;

const SELECT_SERVER_VERSION: &str = "SELECT current_setting('server_version_num')::int4";

/// Selects the collation of the ids, its recorded version, its current version, and its locale. The
/// collation with the number 100 is the database's own.
const SELECT_COLLATION: &str = "SELECT \
         CASE WHEN pg_collation.oid <> 100 THEN collname::text \
             ELSE coalesce(daticulocale, datcollate)::text END, \
         CASE WHEN pg_collation.oid <> 100 THEN collversion ELSE datcollversion END, \
         CASE WHEN pg_collation.oid <> 100 THEN pg_collation_actual_version(pg_collation.oid) \
             ELSE pg_database_collation_actual_version(pg_database.oid) END, \
         CASE WHEN pg_collation.oid <> 100 THEN collcollate::text \
             WHEN datlocprovider = 'c' THEN datcollate::text END \
     FROM pg_attribute JOIN pg_collation ON pg_collation.oid = attcollation, pg_database \
     WHERE attrelid = to_regclass('files') AND attname = 'id' AND datname = current_database()";

/// The same for versions before [`VERSION_15`].
const SELECT_OLDER_COLLATION: &str = "SELECT \
         CASE WHEN pg_collation.oid <> 100 THEN collname::text ELSE datcollate::text END, \
         collversion, pg_collation_actual_version(pg_collation.oid), \
         CASE WHEN pg_collation.oid <> 100 THEN collcollate::text ELSE datcollate::text END \
     FROM pg_attribute JOIN pg_collation ON pg_collation.oid = attcollation, pg_database \
     WHERE attrelid = to_regclass('files') AND attname = 'id' AND datname = current_database()";

/// The collation by which ids are sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdOrder {
    /// The name of the collation.
    pub collation: String,
    /// The version that PostgreSQL recorded when the database was created, if any.
    recorded: Option<String>,
    /// The current version, if the collation has versions.
    actual: Option<String>,
    /// The locale of the C library.
    locale: Option<String>,
}

impl Connection {
    /// Reads the collation by which ids are sorted.
    ///
    /// # Errors
    /// Those of the database.
    pub fn id_order(&mut self) -> Result<IdOrder, Error> {
        self.repeatable(id_order)
    }
}

impl IdOrder {
    /// Whether ids are sorted as bytes, an order that never changes.
    pub fn is_bytewise(&self) -> bool {
        let locale = self.locale.as_deref().unwrap_or_default();
        matches!(locale, "C" | "POSIX") || locale.starts_with("C.")
    }

    /// A sentence that files may not be found, if the collation has changed.
    pub fn warning(&self) -> Option<String> {
        let (Some(recorded), Some(actual)) = (&self.recorded, &self.actual) else {
            return None;
        };
        (recorded != actual).then(|| {
            format!(
                "the order of the collation {} in which ids are sorted has changed from version \
                 {recorded} to {actual} with the operating system, and files may not be found; \
                 run session-file-server init-db --rebuild-ids",
                self.collation
            )
        })
    }
}

fn id_order(open: &mut OpenConnection) -> Result<IdOrder, postgres::Error> {
    let version: i32 = open.query_one(SELECT_SERVER_VERSION, &[])?.try_get(0)?;
    let select = match version {
        ..VERSION_15 => SELECT_OLDER_COLLATION.to_string(),
        // PostgreSQL 17 renamed the column, when it got collations of its own.
        170_000.. => SELECT_COLLATION.replace("daticulocale", "datlocale"),
        _ => SELECT_COLLATION.to_string(),
    };
    let Some(row) = open.client.query_opt(&select, &[])? else {
        return Ok(IdOrder::default());
    };
    Ok(IdOrder {
        collation: row.try_get(0)?,
        recorded: row.try_get(1)?,
        actual: row.try_get(2)?,
        locale: row.try_get(3)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(recorded: &str, actual: &str, locale: &str) -> IdOrder {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_string());
        IdOrder {
            collation: "x".into(),
            recorded: some(recorded),
            actual: some(actual),
            locale: some(locale),
        }
    }

    #[test]
    fn only_a_known_change_is_warned_of() {
        for (recorded, actual, is_warned) in [
            ("", "", false),
            ("2.36", "2.36", false),
            ("2.36", "2.41", true),
            ("", "2.41", false),
            ("2.36", "", false),
        ] {
            let order = order(recorded, actual, "de_DE.UTF-8");
            assert_eq!(order.warning().is_some(), is_warned, "{recorded} {actual}");
        }
    }

    #[test]
    fn bytes_are_the_order_of_the_c_locales() {
        for (locale, is_bytewise) in [
            ("C", true),
            ("POSIX", true),
            ("C.UTF-8", true),
            ("en_US.UTF-8", false),
            ("", false),
        ] {
            assert_eq!(order("", "", locale).is_bytewise(), is_bytewise, "{locale}");
        }
    }
}
