//! The cache of releases: what the database knows of Session's versions. Without it, each version
//! check would cost a join.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::db::{Connection, Error, KnownReleases};
use crate::lock::lock;

/// How long an entry is used. Releases that another server on the same database has written in
/// the meantime go unnoticed for that long.
const ENTRY_LIFETIME: Duration = Duration::from_secs(15);

/// The known releases of each project. An entry is dropped when this server has written new
/// releases, and after [`ENTRY_LIFETIME`], because another server may have.
#[derive(Default)]
pub struct ReleaseCache {
    loaded: Mutex<HashMap<String, (Instant, Arc<KnownReleases>)>>,
}

impl ReleaseCache {
    /// Drops a project's entry. Must be called after its releases were written.
    pub fn forget(&self, project: &str) {
        lock(&self.loaded).remove(project);
    }

    /// The known releases of a project, from the cache or the database.
    ///
    /// # Errors
    /// Those of the database.
    pub fn known(&self, project: &str, db: &mut Connection) -> Result<Arc<KnownReleases>, Error> {
        let cached = lock(&self.loaded).get(project).cloned();
        if let Some((loaded, known)) = cached {
            if loaded.elapsed() < ENTRY_LIFETIME {
                return Ok(known);
            }
        }
        // Outside the lock, because the database may be slow. If releases are written while this
        // reads, the entry is outdated for `ENTRY_LIFETIME` at most.
        let loaded = Instant::now();
        let known = Arc::new(db.known_releases(project)?);
        let mut cache = lock(&self.loaded);
        cache.insert(project.to_string(), (loaded, known.clone()));
        Ok(known)
    }
}
