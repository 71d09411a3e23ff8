//! The database: every SQL statement of the program, and one connection per worker.
//!
//! [`Database`] is what all threads share; each makes its own [`Connection`] from it,
//! which opens itself when first needed and is replaced when it breaks. The statements
//! lie beside the structures that they fill.

pub mod files;
pub mod import;
pub mod schema;

mod collation;
mod connection;
mod error;
mod fitness;
mod locks;
mod older;
mod passwords;
mod permissions;
mod probe;
mod rebuild;
mod servers;
mod settings;
mod text;
mod tls;
mod token_info;
mod url;
mod verifier;
mod versions;

pub use collation::IdOrder;
pub use connection::{Connection, Database};
pub use error::Error;
pub use files::{FileInfo, StoredFile, Totals};
pub use older::Leftovers;
pub use probe::Probe;
pub use rebuild::{Canceller, RebuildPlan};
pub use servers::{NotedServer, ServerRow};
pub use settings::{DEFAULT_URL, Settings};
pub use token_info::{TokenHistory, TokenInfo};
pub use versions::{Claim, KnownReleases};
