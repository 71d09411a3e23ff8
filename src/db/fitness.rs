//! Checks that the server's statements work on the table `files`. Even with the right columns it
//! may refuse every upload, or hide rows.

use super::connection::{Connection, OpenConnection};
use super::error::Error;

/// The length of a content id, characters.
const ID_LENGTH: i32 = 44;

/// Selects the tables of which row-level security hides rows from our user.
const SELECT_HIDDEN_TABLES: &str = "SELECT name FROM unnest($1::text[]) name \
     WHERE to_regclass(name) IS NOT NULL AND row_security_active(to_regclass(name)::oid)";

/// Selects the properties of the table that matter. A unique index counts only if it is not
/// partial, not deferrable and valid. A column of another program is a problem if it must not be
/// null and has no default, because the server never fills it.
const SELECT_TABLE: &str = "SELECT relkind::text, \
         (SELECT min(pg_class.oid::regclass::text) FROM pg_class WHERE relpersistence = 'u' \
             AND (pg_class.oid = files.oid OR relispartition AND pg_class.oid IN \
                 (SELECT relid FROM pg_partition_tree(files.oid)))), \
         EXISTS (SELECT FROM pg_index \
             JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] \
             WHERE indrelid = files.oid AND attname = 'id' AND indnkeyatts = 1 AND indisunique \
                 AND indimmediate AND indisvalid AND indpred IS NULL), \
         EXISTS (SELECT FROM pg_rewrite WHERE ev_class = files.oid AND ev_type <> '1'), \
         (SELECT min(attname::text) FROM pg_attribute \
             WHERE attrelid = files.oid AND attnum > 0 AND NOT attisdropped AND attnotnull \
                 AND NOT atthasdef AND attidentity = '' \
                 AND attname NOT IN ('id', 'data', 'uploaded', 'expiry')), \
         (SELECT CASE WHEN atttypmod > 0 THEN atttypmod - 4 END FROM pg_attribute \
             WHERE attrelid = files.oid AND attname = 'id') \
     FROM pg_class files WHERE oid = to_regclass('files')";

/// The properties of the table `files`.
struct FilesTable {
    /// `relkind` of `pg_class`.
    kind: String,
    /// The table, or one of its partitions, if PostgreSQL empties it after a crash.
    unlogged: Option<String>,
    /// Whether there is a unique index on the id alone.
    has_unique_id: bool,
    /// Whether there are rules (`CREATE RULE`), which change the effect of statements.
    has_rules: bool,
    /// A column of another program that must be filled.
    unknown_column: Option<String>,
    /// The longest id that fits, characters; `None` without a limit.
    id_length: Option<i32>,
}

impl Connection {
    /// Fails if row-level security hides rows of these tables.
    ///
    /// # Errors
    /// [`Error::Layout`] with the problem and its solution.
    pub(super) fn refuse_hidden(&mut self, tables: &[&str]) -> Result<(), Error> {
        match self.repeatable(|open| hidden(open, tables))? {
            None => Ok(()),
            Some(name) => Err(Error::Layout(format!(
                "row-level security is active on its table {name} and hides rows from the \
                 server's user; turn it off with ALTER TABLE {name} DISABLE ROW LEVEL SECURITY, \
                 or make that user the table's owner"
            ))),
        }
    }

    /// Fails if the server's statements would fail on the table `files`.
    ///
    /// # Errors
    /// [`Error::Layout`] with the problem and its solution.
    pub(super) fn refuse_unfit(&mut self) -> Result<(), Error> {
        match self.repeatable(table)?.and_then(|table| table.fault()) {
            Some(fault) => Err(Error::Layout(fault)),
            None => Ok(()),
        }
    }

    /// A sentence that PostgreSQL empties the table after a crash, if it does.
    ///
    /// # Errors
    /// Those of the database.
    pub(super) fn durability_warning(&mut self) -> Result<Option<String>, Error> {
        let table = self.repeatable(table)?;
        let unlogged = table.and_then(|table| table.unlogged);
        Ok(unlogged.map(|name| {
            format!(
                "the table {name} is unlogged: PostgreSQL empties it after a crash; ALTER TABLE \
                 {name} SET LOGGED keeps what was acknowledged"
            )
        }))
    }
}

impl FilesTable {
    /// The reason why uploads would fail; `None` if they would not.
    fn fault(&self) -> Option<String> {
        let kind = match self.kind.as_str() {
            "r" | "p" => None,
            "v" => Some("a view"),
            "m" => Some("a materialized view"),
            "f" => Some("a foreign table"),
            _ => Some("no table"),
        };
        if let Some(kind) = kind {
            return Some(format!(
                "its files is {kind}, into which no large file can be copied; set the database \
                 that has the table itself in database.url"
            ));
        }
        if self.has_rules {
            return Some(
                "its table files has rules, with which PostgreSQL takes no uploads; DROP RULE \
                 removes them, triggers do the same"
                    .into(),
            );
        }
        if let Some(column) = &self.unknown_column {
            return Some(format!(
                "its table files has a column {column} that must be filled and that the server \
                 doesn't know; ALTER TABLE files ALTER {column} DROP NOT NULL, or give it a default"
            ));
        }
        if self.id_length.is_some_and(|length| length < ID_LENGTH) {
            return Some(format!(
                "ids of {ID_LENGTH} characters don't fit into its table files; ALTER TABLE files \
                 ALTER id TYPE varchar({ID_LENGTH})"
            ));
        }
        if !self.has_unique_id {
            return Some(
                "its table files has no unique index on id alone, without which no file can be \
                 stored; ALTER TABLE files ADD PRIMARY KEY (id) makes it (a table that is \
                 partitioned must be so by id)"
                    .into(),
            );
        }
        None
    }
}

fn hidden(open: &mut OpenConnection, tables: &[&str]) -> Result<Option<String>, postgres::Error> {
    let rows = open.query(SELECT_HIDDEN_TABLES, &[&tables])?;
    rows.first().map(|row| row.try_get(0)).transpose()
}

fn table(open: &mut OpenConnection) -> Result<Option<FilesTable>, postgres::Error> {
    let row = open.query_opt(SELECT_TABLE, &[])?;
    let read = |row: postgres::Row| {
        Ok(FilesTable {
            kind: row.try_get(0)?,
            unlogged: row.try_get(1)?,
            has_unique_id: row.try_get(2)?,
            has_rules: row.try_get(3)?,
            unknown_column: row.try_get(4)?,
            id_length: row.try_get(5)?,
        })
    };
    row.map(read).transpose()
}
