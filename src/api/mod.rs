//! The endpoints: their table ([`routes`]) and their handlers.

pub mod context;
pub mod files;
mod find;
pub mod health;
pub mod routes;
pub mod token_info;
pub mod versions;
