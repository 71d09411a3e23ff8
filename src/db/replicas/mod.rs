//! Replicas: standbys of the primary, from which files are read.
//!
//! One thread asks the primary each second how far its log goes, and one for each replica whether
//! that has followed ([`watch`], [`lag`]). What they find, and failures of requests, decide whether a
//! replica is used ([`standing`]). A request reads by [`reading`].

mod connection;
mod ids;
mod lag;
mod reader;
mod reading;
mod report;
mod shared;
mod standing;
mod watch;

pub(super) use reader::Reader;
pub use report::{ReplicaReport, ReplicaState};
pub use shared::Replicas;
