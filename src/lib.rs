//! The Session File Server: stores the encrypted files of Session's clients in PostgreSQL,
//! hands them out, and lets them expire.
//!
//! This is a tour of the house in the order in which data flows. Folders are layers: each uses
//! those that come after it here and none before it, which `tests/layers.rs` holds.
//!
//! 1. [`commands`]: what the command line asks for. `serve` puts the other rooms together;
//!    `import`, `status`, `init-db` and the rest use the database alone.
//! 2. [`api`]: the table of endpoints, and the handlers, each a function from a request and
//!    what a worker has to a response.
//! 3. [`upkeep`]: the timer thread, which deletes expired files and has GitHub asked.
//! 4. [`server`]: HTTP in and out. It gives complete requests to the workers and sends their
//!    answers. Nobody else knows tiny_http, and nobody in it knows what an endpoint does.
//! 5. [`cache`]: recent files, and what is known of Session's releases.
//! 6. [`config`]: `config.toml` becomes one checked structure; the files of the keys.
//! 7. [`db`]: every SQL statement, and a connection for each worker.
//! 8. [`protocol`]: what is on the wire, without I/O: requests and responses, file ids, keys,
//!    signatures, versions, and the onion.
//! 9. What all of them stand on: [`buffer`]s for bodies, [`lock`]s, the wish to [`stop`],
//!    [`signals`], [`descriptors`], the [`handover`] at a restart, [`output`], [`statistics`], [`quantity`] in words, [`systemd`], and what
//!    the [`allocator`] keeps.
//!
//! `ARCHITECTURE.md` follows single requests through these rooms.

#![forbid(unsafe_code)]
#![warn(missing_docs)]
// The documentation is for readers of the source, and made with private items.
#![allow(rustdoc::private_intra_doc_links)]

pub mod allocator;
pub mod api;
pub mod buffer;
pub mod cache;
pub mod commands;
pub mod config;
pub mod db;
pub mod descriptors;
pub mod handover;
pub mod lock;
pub mod output;
pub mod protocol;
pub mod quantity;
pub mod server;
pub mod signals;
pub mod statistics;
pub mod stop;
pub mod systemd;
pub mod upkeep;
