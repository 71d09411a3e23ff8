//! The endpoints: which there are ([`routes`]), and a handler for each.

pub mod context;
pub mod files;
pub mod health;
pub mod routes;
pub mod token_info;
pub mod versions;
