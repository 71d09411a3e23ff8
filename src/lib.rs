//! The Session File Server: stores the encrypted files of Session's clients in PostgreSQL,
//! hands them out, and lets them expire.
//!
//! This is a tour of the modules in the order in which data flows. Folders are layers: each uses
//! those that come after it here and none before it; `tests/layers.rs` checks this.
//!
//! 1. [`commands`]: one module per command of the command line. `serve` puts the other modules
//!    together; `import`, `status`, `init-db` and the rest use the database alone.
//! 2. [`api`]: the table of endpoints and their handlers. A handler is a function from a
//!    request, and what a worker lends it, to a response.
//! 3. [`upkeep`]: the timer thread, which deletes expired files and asks GitHub for releases.
//! 4. [`server`]: HTTP in and out. It gives complete requests to the workers and sends their
//!    responses. No other module uses tiny_http, and this one knows no endpoint.
//! 5. [`cache`]: recent files, and the known releases of Session.
//! 6. [`config`]: turns `config.toml` into one checked structure, and reads the key files.
//! 7. [`db`]: every SQL statement, and a connection for each worker.
//! 8. [`protocol`]: the formats on the wire, without I/O: requests and responses, file ids,
//!    keys, signatures, versions, and onion requests.
//! 9. The modules that all others may use: [`buffer`]s for bodies, [`lock`]s, what memory the
//!    [`machine`] has, the [`stop`] flag, [`signals`], [`descriptors`], the [`handover`] at a
//!    restart, [`output`], [`statistics`] with its [`request_counts`], the [`exposition`] of
//!    metrics, [`quantity`] for readable numbers, [`systemd`], and the settings of the
//!    [`allocator`].
//!
//! `ARCHITECTURE.md` follows single requests through these modules.

#![forbid(unsafe_code)]
#![warn(missing_docs)]
// The documentation is for readers of the source, and is built with private items.
#![allow(rustdoc::private_intra_doc_links)]

pub mod allocator;
pub mod api;
pub mod buffer;
pub mod cache;
pub mod commands;
pub mod config;
pub mod db;
pub mod descriptors;
pub mod exposition;
pub mod handover;
pub mod lock;
pub mod machine;
pub mod output;
pub mod protocol;
pub mod quantity;
pub mod request_counts;
pub mod server;
pub mod signals;
pub mod statistics;
pub mod stop;
pub mod systemd;
pub mod upkeep;
