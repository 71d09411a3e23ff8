//! The wish to stop, shared by all threads.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Requested once, then for ever.
#[derive(Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Asks every thread to stop.
    pub fn request(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Whether anybody asked.
    pub fn is_requested(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps for `time`, or until somebody asks; whether somebody did.
    pub fn wait(&self, time: Duration) -> bool {
        let requested = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .0
            .1
            .wait_timeout_while(requested, time, |requested| !*requested);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Does `action` when somebody asks.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub(super) fn on_request(&self, action: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let stop = self.clone();
        thread::Builder::new().name("stop".into()).spawn(move || {
            while !stop.wait(Duration::from_secs(3600)) {}
            action();
        })?;
        Ok(())
    }
}
