//! Reported files: deleting and blocking them.
//!
//! The table `blocked_files` has the blocked ids. The statements of [`files`](super::files) look
//! ids up there themselves, so that no request needs a further statement.
//!
//! The table `removed_files` has the ids that were deleted or blocked lately. Every server reads it
//! each second and drops these files from its memory. Rows that are older than [`REMOVED_KEPT_FOR`]
//! are deleted.

use std::time::{Duration, SystemTime};

use postgres::Row;

use super::connection::Connection;
use super::error::Error;
use super::text::TextForm;
use crate::protocol::file_id::FileId;

/// How long rows of `removed_files` are kept, which is longer than any server reads back.
const REMOVED_KEPT_FOR: Duration = Duration::from_secs(600);
/// The most removed ids that are read at once, which are about half a megabyte.
const MAX_REMOVED_READ: usize = 10_000;
/// The number of ids whose files one statement looks for.
const LOOK_BATCH: usize = 1_000;
/// The number of blocked ids that one statement selects.
const LIST_BATCH: i64 = 1_000;

/// Deletes a file, and notes its removal in the same transaction. The time is the clock's rather
/// than the transaction's, because the statement may have waited for a lock.
const DELETE_FILE: &str = "WITH deleted AS ( \
         DELETE FROM files WHERE id = $1 RETURNING coalesce(length(data), 0) AS bytes), \
     noted AS ( \
         INSERT INTO removed_files (id, removed) VALUES ($1, clock_timestamp()) \
         ON CONFLICT (id) DO UPDATE SET removed = excluded.removed) \
     SELECT sum(bytes)::int8 FROM deleted";

/// Does the same as [`DELETE_FILE`], and blocks the id. If it is blocked already, the time of the
/// block stays, and so does the reason unless there is a new one.
const BLOCK_FILE: &str = "WITH deleted AS ( \
         DELETE FROM files WHERE id = $1 RETURNING coalesce(length(data), 0) AS bytes), \
     noted AS ( \
         INSERT INTO removed_files (id, removed) VALUES ($1, clock_timestamp()) \
         ON CONFLICT (id) DO UPDATE SET removed = excluded.removed), \
     blocked AS ( \
         INSERT INTO blocked_files (id, reason) VALUES ($1, $2) \
         ON CONFLICT (id) DO UPDATE SET reason = coalesce(excluded.reason, blocked_files.reason)) \
     SELECT sum(bytes)::int8 FROM deleted";

const UNBLOCK_FILE: &str = "DELETE FROM blocked_files WHERE id = $1";

/// Selects size and times of a stored file, expired or not.
const SELECT_STORED: &str =
    "SELECT length(data), uploaded, expiry FROM files WHERE id = $1 AND data IS NOT NULL";

const SELECT_BLOCK: &str = "SELECT blocked, reason FROM blocked_files WHERE id = $1";

const SELECT_BLOCKED_AFTER: &str = "SELECT id::text, blocked, reason FROM blocked_files \
     WHERE id > $1 ORDER BY id LIMIT $2";

const COUNT_BLOCKED: &str = "SELECT count(*) FROM blocked_files";

const SELECT_REMOVED: &str = "SELECT id::text FROM removed_files \
     WHERE removed > now() - make_interval(secs => $1) LIMIT $2";

/// Selects the ids that were blocked lately. Their files may have been stored since, by uploads
/// that began before the block.
const SELECT_REMOVED_BLOCKED: &str =
    "SELECT id::text FROM removed_files JOIN blocked_files USING (id) LIMIT $1";

/// Selects those among some ids that have a row.
const SELECT_PRESENT: &str = "SELECT id::text FROM files WHERE id = ANY($1)";

/// Deletes a file whose id is blocked. The block is checked again, because it may have been lifted
/// since the id was selected.
const DELETE_BLOCKED: &str = "DELETE FROM files WHERE id = $1 \
     AND EXISTS (SELECT FROM blocked_files WHERE blocked_files.id = $1)";

const FORGET_REMOVED: &str =
    "DELETE FROM removed_files WHERE removed < now() - make_interval(secs => $1)";

/// What is known of an id.
#[derive(Clone, Debug)]
pub struct KnownFile {
    /// The file, if it is stored; it may have expired and not be deleted yet.
    pub stored: Option<KnownTimes>,
    /// The block, if the id is blocked.
    pub block: Option<Block>,
}

/// A stored file's size and times.
#[derive(Clone, Copy, Debug)]
pub struct KnownTimes {
    /// The size, bytes.
    pub size: u64,
    /// When it was last uploaded.
    pub uploaded: SystemTime,
    /// When it expires.
    pub expires: SystemTime,
}

/// The block of an id.
#[derive(Clone, Debug)]
pub struct Block {
    /// When the id was blocked.
    pub since: SystemTime,
    /// The reason, in the operator's words.
    pub reason: Option<String>,
}

/// The files that were deleted or blocked lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The files with these ids.
    Files(Vec<FileId>),
    /// More than [`MAX_REMOVED_READ`].
    Many,
}

impl Connection {
    /// Deletes a file. Returns how many bytes it had, or `None` if it wasn't stored.
    ///
    /// # Errors
    /// Those of the database. The file may have been deleted all the same.
    pub fn delete_file(&mut self, id: &FileId) -> Result<Option<u64>, Error> {
        // Not repeatable: a second run would find nothing.
        self.once(|open| read_bytes(&open.query_one(DELETE_FILE, &[&id.as_str()])?))
    }

    /// Blocks an id, and deletes its file. Returns how many bytes that had, or `None` if it wasn't
    /// stored.
    ///
    /// # Errors
    /// Those of the database. The id may have been blocked all the same.
    pub fn block_file(&mut self, id: &FileId, reason: Option<&str>) -> Result<Option<u64>, Error> {
        // Not repeatable: a second run would find no file.
        self.once(|open| {
            let form = TextForm::of(open)?;
            let reason = reason.map(|reason| form.store(reason));
            read_bytes(&open.query_one(BLOCK_FILE, &[&id.as_str(), &reason])?)
        })
    }

    /// Lifts the block of an id. Returns whether it was blocked.
    ///
    /// # Errors
    /// Those of the database. The id may have been unblocked all the same.
    pub fn unblock_file(&mut self, id: &FileId) -> Result<bool, Error> {
        // Not repeatable: a second run would find nothing.
        let unblocked = self.once(|open| open.execute(UNBLOCK_FILE, &[&id.as_str()]))?;
        Ok(unblocked > 0)
    }

    /// Reads what is known of an id.
    ///
    /// # Errors
    /// Those of the database.
    pub fn known_file(&mut self, id: &FileId) -> Result<KnownFile, Error> {
        self.repeatable(|open| {
            let form = TextForm::of(open)?;
            let stored = open.query_opt(SELECT_STORED, &[&id.as_str()])?;
            let block = open.query_opt(SELECT_BLOCK, &[&id.as_str()])?;
            Ok(KnownFile {
                stored: stored.as_ref().map(read_stored).transpose()?,
                block: block.map(|row| read_block(&row, 0, form)).transpose()?,
            })
        })
    }

    /// Reads some of the blocked ids that follow `after` in the order of bytes; none if there are
    /// no more.
    ///
    /// # Errors
    /// Those of the database.
    pub fn blocked_files(&mut self, after: &str) -> Result<Vec<(String, Block)>, Error> {
        self.repeatable(|open| {
            let form = TextForm::of(open)?;
            let read = |row: &Row| Ok((row.try_get(0)?, read_block(row, 1, form)?));
            let rows = open.query(SELECT_BLOCKED_AFTER, &[&after, &LIST_BATCH])?;
            rows.iter().map(read).collect()
        })
    }

    /// Counts the blocked ids.
    ///
    /// # Errors
    /// Those of the database.
    pub fn count_blocked_files(&mut self) -> Result<u64, Error> {
        self.repeatable(|open| Ok(open.query_one(COUNT_BLOCKED, &[])?.try_get::<_, i64>(0)? as u64))
    }

    /// Reads which files were deleted or blocked within `time` before now.
    ///
    /// # Errors
    /// Those of the database.
    pub fn removed_files(&mut self, time: Duration) -> Result<Removed, Error> {
        let limit = MAX_REMOVED_READ as i64 + 1;
        let ids: Vec<String> = self.repeatable(|open| {
            let rows = open.query(SELECT_REMOVED, &[&time.as_secs_f64(), &limit])?;
            rows.iter().map(|row| row.try_get(0)).collect()
        })?;
        if ids.len() > MAX_REMOVED_READ {
            return Ok(Removed::Many);
        }
        let ids = ids.iter().filter_map(|id| FileId::parse(id));
        Ok(Removed::Files(ids.collect()))
    }

    /// Deletes the files that were stored while their ids were being blocked, and the rows of
    /// `removed_files` that no server needs any more.
    ///
    /// # Errors
    /// Those of the database.
    pub fn finish_removals(&mut self) -> Result<(), Error> {
        let blocked: Vec<String> = self.repeatable(|open| {
            let rows = open.query(SELECT_REMOVED_BLOCKED, &[&(MAX_REMOVED_READ as i64)])?;
            rows.iter().map(|row| row.try_get(0)).collect()
        })?;
        for batch in blocked.chunks(LOOK_BATCH) {
            let present: Vec<String> = self.repeatable(|open| {
                let rows = open.query(SELECT_PRESENT, &[&batch])?;
                rows.iter().map(|row| row.try_get(0)).collect()
            })?;
            for id in present {
                self.repeatable(|open| open.execute(DELETE_BLOCKED, &[&id]))?;
            }
        }
        self.repeatable(|open| open.execute(FORGET_REMOVED, &[&REMOVED_KEPT_FOR.as_secs_f64()]))?;
        Ok(())
    }
}

fn read_bytes(row: &Row) -> Result<Option<u64>, postgres::Error> {
    let bytes: Option<i64> = row.try_get(0)?;
    Ok(bytes.map(|bytes| bytes as u64))
}

fn read_stored(row: &Row) -> Result<KnownTimes, postgres::Error> {
    Ok(KnownTimes {
        size: row.try_get::<_, i32>(0)? as u64,
        uploaded: row.try_get(1)?,
        expires: row.try_get(2)?,
    })
}

/// Reads a block, whose time is in that column and whose reason is in the next.
fn read_block(row: &Row, column: usize, form: TextForm) -> Result<Block, postgres::Error> {
    let reason: Option<String> = row.try_get(column + 1)?;
    Ok(Block {
        since: row.try_get(column)?,
        reason: reason.map(|reason| form.read(reason)),
    })
}
