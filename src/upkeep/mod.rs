//! What goes on without being asked: the [`timer`] thread deletes expired files, counts and
//! notes what there is, and has the `refresher` ask [`github`] for Session's versions.

mod expiry;
mod failures;
pub mod github;
pub mod github_list;
pub mod proxy;
mod refresher;
pub mod timer;
