//! Locks that no panic poisons.
//!
//! What our locks protect is whole whenever they are free: nothing that may panic runs between
//! two changes that belong together. So a thread that has panicked with a lock in its hands has
//! left nothing half done, and the others go on.

use std::sync::{LockResult, Mutex, MutexGuard, PoisonError};

/// Waits for the lock and takes it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    unpoisoned(mutex.lock())
}

/// What a lock, or a wait that gives one back, has returned, whether somebody has panicked or
/// not.
pub fn unpoisoned<T>(result: LockResult<T>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}
