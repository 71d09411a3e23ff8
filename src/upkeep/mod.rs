//! Regular work in the background: the [`timer`] thread deletes expired files, counts the stored
//! ones, writes the server's row of statistics, and runs the `refresher`, which asks [`github`]
//! for Session's releases.

mod expiry;
mod failures;
pub mod github;
pub mod github_list;
mod other_servers;
pub mod proxy;
mod refresher;
mod removals;
pub mod timer;
