//! Whether the database answers: asked from a thread of its own, because a database that
//! hangs holds the one who asks.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::time::Duration;

use super::{Connection, Database};

/// Askers who may wait at once; a database that hangs gathers no more.
const MAX_ASKERS: usize = 256;

/// Asks the database for a sign of life.
#[derive(Debug)]
pub struct Probe {
    askers: SyncSender<Sender<bool>>,
}

impl Probe {
    /// Starts the thread; it ends when the probe is dropped.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn start(database: &Arc<Database>) -> std::io::Result<Probe> {
        let (askers, waiting) = mpsc::sync_channel(MAX_ASKERS);
        let connection = database.connection();
        std::thread::Builder::new()
            .name("probe".into())
            .spawn(move || run(connection, &waiting))?;
        Ok(Probe { askers })
    }

    /// Whether the database answers within `patience`.
    pub fn answers_within(&self, patience: Duration) -> bool {
        let (reply, answer) = mpsc::channel();
        self.askers.try_send(reply).is_ok() && answer.recv_timeout(patience) == Ok(true)
    }
}

fn run(mut connection: Connection, waiting: &Receiver<Sender<bool>>) {
    while let Ok(first) = waiting.recv() {
        // Those who came while the last answer was on its way get this one together.
        let others: Vec<_> = waiting.try_iter().collect();
        let alive = connection.is_alive();
        for asker in others.into_iter().chain([first]) {
            // An asker who lost patience is gone.
            let _ = asker.send(alive);
        }
    }
}

impl Connection {
    fn is_alive(&mut self) -> bool {
        let answer = self.repeatable(|open| open.query_one("SELECT 1", &[]));
        if let Err(error) = &answer {
            log::debug!("the database gives no sign of life: {error}");
        }
        answer.is_ok()
    }
}
