//! Caches in memory of what was recently read from the database.

pub mod files;
pub mod releases;
