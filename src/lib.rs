//! The Session File Server: stores the encrypted files of Session's clients in
//! PostgreSQL, hands them out, and lets them expire.
//!
//! A request is followed from top to bottom: [`server`] receives it, [`routes`] finds
//! its handler, the handler ([`files`], [`versions`], …) asks [`db`], and the [`http`]
//! response goes back through [`server`].

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod auth;
pub mod buffer;
pub mod config;
pub mod db;
pub mod file_cache;
pub mod file_id;
pub mod files;
pub mod github;
pub mod health;
pub mod http;
pub mod import;
pub mod keys;
pub mod maintenance;
pub mod onion;
pub mod output;
pub mod quantity;
pub mod releases;
pub mod routes;
pub mod serve;
pub mod server;
pub mod signals;
pub mod statistics;
pub mod status;
pub mod systemd;
pub mod token_info;
pub mod versions;
