//! What a session lacks that a pooler shares between transactions ([`pooling`](super::pooling)).

use super::connection::{Connection, OpenConnection};
use super::error::Error;
use super::session;

/// Selects the settings that differ from what they should be.
const SELECT_DIFFERENT: &str = "SELECT name \
     FROM unnest($1::text[], $2::text[]) AS wanted (name, value) \
     WHERE current_setting(name, true) IS DISTINCT FROM value";

impl Connection {
    /// Fails if a pooler shares the session between transactions.
    ///
    /// # Errors
    /// [`Error::Pooler`] with what to do; those of the database.
    pub(super) fn refuse_shared(&mut self) -> Result<(), Error> {
        if self.repeatable(|open| Ok(open.is_shared()))? {
            return Err(Error::Pooler(
                "this needs a session of its own for a long time; set database.url to PostgreSQL \
                 itself for this command, in a configuration that --config names"
                    .into(),
            ));
        }
        Ok(())
    }

    /// A sentence that sessions behind a pooler lack the server's settings, if they do.
    ///
    /// # Errors
    /// Those of the database.
    pub(super) fn pooling_warning(&mut self) -> Result<Option<String>, Error> {
        let different = self.repeatable(different_settings)?;
        Ok((!different.is_empty()).then(|| {
            format!(
                "the pooler's connections to PostgreSQL lack settings of the server ({}), which \
                 doesn't set them because it shares the connections; in pgbouncer.ini let the line \
                 of the database have connect_query='{}'",
                different.join(", "),
                session::statements(session::SERVER).replace('\'', "''")
            )
        }))
    }
}

fn different_settings(open: &mut OpenConnection) -> Result<Vec<String>, postgres::Error> {
    if !open.is_shared() {
        return Ok(Vec::new());
    }
    let wanted = session::EVERY.iter().chain(session::SERVER);
    let (names, values): (Vec<&str>, Vec<&str>) = wanted.copied().unzip();
    let rows = open.query(SELECT_DIFFERENT, &[&names, &values])?;
    rows.iter().map(|row| row.try_get(0)).collect()
}
