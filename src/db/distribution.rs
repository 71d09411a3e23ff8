//! A table `files` that is partitioned, or that the PostgreSQL extension Citus distributes over
//! several nodes: what it takes on all of their disks.
//!
//! Nothing here needs the extension. It isn't in Debian, so that its functions and tables are named
//! only where the database has them.

use super::connection::{Connection, OpenConnection};
use super::error::Error;

/// Selects whether the database has Citus's list of distributed tables.
const SELECT_HAS_CITUS: &str = "SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL";

/// Selects whether `files` is in that list.
const SELECT_IS_DISTRIBUTED: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition \
     WHERE logicalrelid = to_regclass('files'))";

/// Selects the size of a distributed table on all nodes, without its indexes, bytes.
const SELECT_DISTRIBUTED_SIZE: &str = "SELECT pg_catalog.citus_table_size('files')";

/// Selects the size of `files` and of its partitions, if it has any, without indexes, bytes. A
/// partitioned table itself takes nothing.
const SELECT_FILES_SIZE: &str = "SELECT (pg_table_size('files') \
         + coalesce((SELECT sum(pg_table_size(relid)) FROM pg_partition_tree('files') \
             WHERE isleaf AND relid <> 'files'::regclass), 0))::int8";

const SELECT_DATABASE_SIZE: &str = "SELECT pg_database_size(current_database())";

impl Connection {
    /// The size of the table `files` on the disk, bytes. This is about the size of the files in it,
    /// and free space that can be reused.
    ///
    /// # Errors
    /// Those of the database.
    pub fn files_disk_size(&mut self) -> Result<u64, Error> {
        self.repeatable(|open| match is_distributed(open)? {
            true => size(open, SELECT_DISTRIBUTED_SIZE),
            false => size(open, SELECT_FILES_SIZE),
        })
    }

    /// The size of the whole database on its disk, bytes. Of a database that is distributed over
    /// several nodes only the files are counted, which are nearly all of it: to ask for each node's
    /// database needs more privileges.
    ///
    /// # Errors
    /// Those of the database.
    pub fn database_size(&mut self) -> Result<u64, Error> {
        self.repeatable(|open| match is_distributed(open)? {
            true => size(open, SELECT_DISTRIBUTED_SIZE),
            false => size(open, SELECT_DATABASE_SIZE),
        })
    }
}

/// Whether Citus distributes the table `files`.
pub(super) fn is_distributed(open: &mut OpenConnection) -> Result<bool, postgres::Error> {
    let has_citus: bool = open.query_one(SELECT_HAS_CITUS, &[])?.try_get(0)?;
    Ok(has_citus && open.query_one(SELECT_IS_DISTRIBUTED, &[])?.try_get(0)?)
}

fn size(open: &mut OpenConnection, select: &'static str) -> Result<u64, postgres::Error> {
    Ok(open.query_one(select, &[])?.try_get::<_, i64>(0)? as u64)
}
