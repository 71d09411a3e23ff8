//! What the database was asked lately, kept in memory.

pub mod files;
pub mod releases;
