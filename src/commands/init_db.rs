//! `init-db`: creates missing tables, and upgrades older layouts of the database.

use super::explain::explain;
use super::import;
use crate::config::Config;
use crate::db::{Connection, Database, Error};
use crate::output::{self, printable};
use crate::quantity;

/// Prepares the database, and prints what an older server has left there.
///
/// # Errors
/// A sentence for the operator.
pub fn run(config: &Config) -> Result<(), String> {
    let mut db = Database::new(config.database.clone()).connection();
    let leftovers = db.apply_schema();
    let leftovers = leftovers.map_err(|error| explain(&error, config))?;
    let mut text = format!(
        "the database {} is ready\n",
        config.database.database_name()
    );
    text += &order_advice(&mut db).map_err(|error| explain(&error, config))?;
    if leftovers.checks > 0 {
        let checks = quantity::count(leftovers.checks, "version check");
        text += &format!("{checks} of the older server were copied\n");
    }
    if leftovers.without_bytes > 0 {
        let files = quantity::count(leftovers.without_bytes, "file");
        text += &format!(
            "{files} of the older server can't be served yet, because their bytes lie in its folder \
             (FILE_BASE_PATH) and not in the database; take them over with\n  \
             session-file-server import pools FOLDER\n"
        );
    }
    text += &import::describe_tables(&leftovers.tables_of_files, "import database");
    if let Some(statement) = leftovers.removal() {
        text += &format!(
            "what else the older server has there is kept, so that you can go back to it; \
             when you won't:\n  {statement}\n"
        );
    }
    output::mention(&printable(&text));
    Ok(())
}

/// Advice about ids whose order may change, or has changed, with the operating system.
fn order_advice(db: &mut Connection) -> Result<String, Error> {
    let order = db.id_order()?;
    Ok(match order.warning() {
        Some(warning) => format!("warning: {warning}\n"),
        None if order.is_bytewise() => String::new(),
        None => format!(
            "ids are sorted by the collation {}, whose order may change with the operating \
             system: files would not be found then; init-db --rebuild-ids sorts them as bytes, \
             in about 10 seconds for each million files, while they are served\n",
            order.collation
        ),
    })
}
