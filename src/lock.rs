//! Mutexes whose poisoning is ignored.
//!
//! The data behind our mutexes is consistent even if a thread panics while it holds one, because
//! nothing that may panic runs between two changes that belong together. So the other threads
//! can go on with the data.

use std::sync::{LockResult, Mutex, MutexGuard, PoisonError};

/// Locks the mutex, whether or not it is poisoned.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    unpoisoned(mutex.lock())
}

/// The guard in the result of locking a mutex, or of waiting with one, poisoned or not.
pub fn unpoisoned<T>(result: LockResult<T>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}
