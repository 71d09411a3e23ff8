//! The cache of releases: what the database knows of Session's versions, so that a popular
//! minute of version checks is not a minute of joins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::db::{Connection, Error, KnownReleases};
use crate::lock::lock;

/// How long another server's check may go unnoticed.
const CACHE_LIFE: Duration = Duration::from_secs(15);

/// What is known of each project. An entry is stale when this server has learnt something newer,
/// or after [`CACHE_LIFE`], when another one may have.
#[derive(Default)]
pub struct ReleaseCache {
    loaded: Mutex<HashMap<String, (Instant, Arc<KnownReleases>)>>,
}

impl ReleaseCache {
    /// Must be called when a project's releases were written.
    pub fn forget(&self, project: &str) {
        lock(&self.loaded).remove(project);
    }

    /// What is known of a project.
    ///
    /// # Errors
    /// Those of the database.
    pub fn known(&self, project: &str, db: &mut Connection) -> Result<Arc<KnownReleases>, Error> {
        let cached = lock(&self.loaded).get(project).cloned();
        if let Some((loaded, known)) = cached {
            if loaded.elapsed() < CACHE_LIFE {
                return Ok(known);
            }
        }
        // Not under the lock: the database may take its time. What is written meanwhile is
        // newer than what is read here, for `CACHE_LIFE` at most.
        let loaded = Instant::now();
        let known = Arc::new(db.known_releases(project)?);
        let mut cache = lock(&self.loaded);
        cache.insert(project.to_string(), (loaded, known.clone()));
        Ok(known)
    }
}
