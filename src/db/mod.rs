//! The database: every SQL statement of the program, and one connection per worker, or two with
//! `database.read_url`.
//!
//! All threads share a [`Database`], from which each makes its own [`Connection`]. A connection
//! opens itself when first needed, and is replaced when it breaks. Statements stand beside the
//! structures that they fill.

pub mod files;
pub mod import;
pub mod older_files;
pub mod schema;

mod blocked;
mod capacity;
mod cleanup;
mod collation;
mod connection;
mod database;
mod deadline;
mod distribution;
mod driver_socket;
mod error;
mod examination;
mod file_copy;
mod fitness;
mod host_choice;
mod hosts;
mod identifier;
mod layout;
mod lineage;
mod locks;
mod old_primary;
mod older;
mod open;
mod outage;
mod passwords;
mod permissions;
mod pooling;
mod probe;
mod rebuild;
mod replicas;
mod retry;
mod servers;
mod session;
mod settings;
mod shared_session;
mod stored_bytes;
mod text;
mod tls;
mod token_info;
mod totals;
mod url;
mod verifier;
mod versions;
mod writes;

pub use blocked::{Block, KnownFile, Removed};
pub use capacity::Capacity;
pub use collation::IdOrder;
pub use connection::{CONNECTION_DESCRIPTORS, Connection};
pub use database::Database;
pub use error::Error;
pub use files::{Fetched, FileInfo, Refreshed, StoredFile};
pub use layout::SCHEMA_VERSION;
pub use older::Leftovers;
pub use probe::Probe;
pub use rebuild::{Canceller, RebuildPlan};

pub use replicas::{ReplicaReport, ReplicaState, Replicas};
pub use servers::{NotedServer, ServerRow};
pub use settings::{DEFAULT_URL, Settings};
pub use token_info::{TokenHistory, TokenInfo};
pub use totals::Totals;
pub use versions::{Claim, KnownReleases};
