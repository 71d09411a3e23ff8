//! Missing privileges of the server's user, and the statements that grant them.

use postgres::Row;

use super::connection::{Connection, OpenConnection};
use super::error::Error;
use super::identifier::quoted;

/// Selects our user, the database, its schema, whether we may create tables there, and whether the
/// schema belongs to the database's owner.
const SELECT_DATABASE: &str = "SELECT current_user::text, current_database()::text, \
         schemas.nspname::text, \
         has_schema_privilege(schemas.oid, 'USAGE') AND has_schema_privilege(schemas.oid, 'CREATE'), \
         pg_get_userbyid(nspowner)::text = 'pg_database_owner' \
     FROM (VALUES (coalesce(current_schema(), 'public'))) wanted (name) \
     JOIN pg_namespace schemas ON nspname = wanted.name";

/// Selects the owners of existing tables, and our privileges on them.
const SELECT_TABLES: &str = "SELECT relname::text, rolname::text, rolsuper, \
         pg_has_role(relowner, 'USAGE'), \
         has_table_privilege(pg_class.oid, 'SELECT') AND has_table_privilege(pg_class.oid, 'INSERT') \
             AND has_table_privilege(pg_class.oid, 'UPDATE') \
             AND has_table_privilege(pg_class.oid, 'DELETE') \
     FROM unnest($1::text[]) WITH ORDINALITY wanted (name, position) \
     JOIN pg_class ON pg_class.oid = to_regclass(name) \
     JOIN pg_roles ON pg_roles.oid = relowner ORDER BY position";

/// The privileges of the server's user.
#[derive(Debug)]
struct Privileges {
    user: String,
    database: String,
    schema: String,
    can_create: bool,
    /// Whether the schema belongs to the database's owner.
    owner_has_schema: bool,
    tables: Vec<TablePrivileges>,
}

/// Whether the user may read a table; a table that isn't there counts as readable.
const MAY_READ: &str =
    "SELECT coalesce(has_table_privilege(to_regclass($1::text), 'SELECT'), true)";

/// The privileges of the server's user on a table.
#[derive(Debug)]
struct TablePrivileges {
    name: String,
    owner: String,
    owner_is_superuser: bool,
    /// Whether the user is the owner, or a member of the owner's role.
    is_ours: bool,
    /// Whether the user may read and write it.
    is_usable: bool,
}

impl Connection {
    /// Adds the statements that help to an error about missing privileges. `tables` are the names
    /// of our tables and of an older server's.
    pub(super) fn with_advice(&mut self, error: Error, tables: &[&str]) -> Error {
        let Error::Forbidden(text) = error else {
            return error;
        };
        let privileges = self.repeatable(|open| read_privileges(open, tables));
        let statements =
            privileges.map(|privileges| (privileges.database.clone(), privileges.statements()));
        match statements {
            Ok((database, statements)) if !statements.is_empty() => {
                let statements = statements.join("; ");
                Error::Forbidden(format!(
                    "{text}; as the user postgres: psql -d {database} -c '{statements}'"
                ))
            }
            _ => Error::Forbidden(text),
        }
    }

    /// Refuses a database in which the server's user may not read the tables that every request
    /// needs. The rights on other tables are [warned](Connection::rights_warning) of.
    ///
    /// # Errors
    /// [`Error::Forbidden`], and those of the database.
    pub(super) fn refuse_unreadable(&mut self) -> Result<(), Error> {
        for table in ["files", "blocked_files"] {
            let may_read: bool =
                self.repeatable(|open| open.query_one(MAY_READ, &[&table])?.try_get(0))?;
            if !may_read {
                return Err(Error::Forbidden(format!(
                    "permission denied for table {table}"
                )));
            }
        }
        Ok(())
    }

    /// A sentence about privileges that the server's user lacks on its tables; `None` if it lacks
    /// none.
    ///
    /// # Errors
    /// Those of the database.
    pub(super) fn rights_warning(&mut self, tables: &[&str]) -> Result<Option<String>, Error> {
        let privileges = self.repeatable(|open| read_privileges(open, tables))?;
        let lacking = privileges.tables.iter().filter(|table| !table.is_usable);
        let lacking: Vec<&str> = lacking.map(|table| table.name.as_str()).collect();
        Ok((!lacking.is_empty()).then(|| {
            format!(
                "the user {} may not read and write {}, and requests that need it will fail; as \
                 the user postgres: psql -d {} -c '{}'",
                privileges.user,
                lacking.join(", "),
                privileges.database,
                grant(&lacking, &privileges.user)
            )
        }))
    }
}

impl Privileges {
    /// The statements with which a superuser gives the server's user the missing privileges. The
    /// role of a superuser is never granted, because that would make the server a superuser.
    fn statements(&self) -> Vec<String> {
        let user = quoted(&self.user);
        let mut statements = Vec::new();
        let is_older = !self
            .tables
            .iter()
            .any(|table| table.name == "schema_version");
        let mut owners: Vec<&str> = Vec::new();
        let mut lacking: Vec<&str> = Vec::new();
        for table in self.tables.iter().filter(|table| !table.is_ours) {
            if table.owner_is_superuser {
                statements.push(format!("ALTER TABLE {} OWNER TO {user}", table.name));
            } else if is_older && !owners.contains(&table.owner.as_str()) {
                owners.push(&table.owner);
            } else if !is_older && !table.is_usable {
                lacking.push(&table.name);
            }
        }
        let revoked = self.tables.iter().filter(|t| t.is_ours && !t.is_usable);
        lacking.extend(revoked.map(|table| table.name.as_str()));
        let acts_for = |owner: &&str| format!("GRANT {} TO {user}", quoted(owner));
        statements.extend(owners.iter().map(acts_for));
        if !lacking.is_empty() {
            statements.push(grant(&lacking, &self.user));
        }
        // A member of the older server's role may get the privilege to create tables from it.
        if !self.can_create && owners.is_empty() {
            statements.push(if self.owner_has_schema {
                format!("ALTER DATABASE {} OWNER TO {user}", quoted(&self.database))
            } else {
                let schema = quoted(&self.schema);
                format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {user}")
            });
        }
        statements
    }
}

/// The statement that grants access to tables.
fn grant(tables: &[&str], user: &str) -> String {
    let tables = tables.join(", ");
    format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {}",
        quoted(user)
    )
}

fn read_privileges(
    open: &mut OpenConnection,
    tables: &[&str],
) -> Result<Privileges, postgres::Error> {
    let row = open.query_one(SELECT_DATABASE, &[])?;
    let read = |row: &Row| {
        Ok(TablePrivileges {
            name: row.try_get(0)?,
            owner: row.try_get(1)?,
            owner_is_superuser: row.try_get(2)?,
            is_ours: row.try_get(3)?,
            is_usable: row.try_get(4)?,
        })
    };
    let tables = open.query(SELECT_TABLES, &[&tables])?;
    Ok(Privileges {
        user: row.try_get(0)?,
        database: row.try_get(1)?,
        schema: row.try_get(2)?,
        can_create: row.try_get(3)?,
        owner_has_schema: row.try_get(4)?,
        tables: tables
            .iter()
            .map(read)
            .collect::<Result<_, postgres::Error>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn privileges(tables: &[(&str, &str, bool, bool)]) -> Privileges {
        Privileges {
            user: "server".into(),
            database: "files".into(),
            schema: "public".into(),
            can_create: true,
            owner_has_schema: true,
            tables: tables
                .iter()
                .map(|(name, owner, is_ours, is_usable)| TablePrivileges {
                    name: (*name).into(),
                    owner: (*owner).into(),
                    owner_is_superuser: *owner == "postgres",
                    is_ours: *is_ours,
                    is_usable: *is_usable,
                })
                .collect(),
        }
    }

    #[test]
    fn each_lack_has_its_statement_and_no_superuser_is_granted() {
        let empty = Privileges {
            can_create: false,
            ..privileges(&[])
        };
        assert_eq!(
            empty.statements(),
            [r#"ALTER DATABASE "files" OWNER TO "server""#]
        );
        let others_schema = Privileges {
            owner_has_schema: false,
            ..empty
        };
        assert_eq!(
            others_schema.statements(),
            [r#"GRANT USAGE, CREATE ON SCHEMA "public" TO "server""#]
        );
        for (tables, expected) in [
            (
                &[
                    ("files", "old", false, false),
                    ("projects", "old", false, false),
                ][..],
                &[r#"GRANT "old" TO "server""#][..],
            ),
            (
                &[("files", "postgres", false, false)],
                &[r#"ALTER TABLE files OWNER TO "server""#],
            ),
            (
                &[
                    ("files", "other", false, false),
                    ("schema_version", "other", false, true),
                ],
                &[r#"GRANT SELECT, INSERT, UPDATE, DELETE ON files TO "server""#],
            ),
            (
                &[
                    ("files", "server", true, false),
                    ("schema_version", "server", true, true),
                ],
                &[r#"GRANT SELECT, INSERT, UPDATE, DELETE ON files TO "server""#],
            ),
            (&[("files", "server", true, true)], &[]),
        ] {
            assert_eq!(privileges(tables).statements(), expected, "{tables:?}");
        }
    }
}
