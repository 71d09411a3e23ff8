//! The formats on the wire, without I/O: bytes to structures and back, and the cryptography.

pub mod auth;
pub mod file_id;
pub mod http;
pub mod keys;
pub mod onion;
pub mod releases;
