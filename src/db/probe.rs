//! The probe, which tells whether the database answers. It asks from a thread of its own, because
//! asking blocks while the database hangs.

use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::deadline::Patience;
use super::{Connection, Database};
use crate::lock::lock;

/// The number of callers that may wait at once. Further ones get a negative answer at once.
const MAX_ASKERS: usize = 256;

/// A thread that asks the database whether it answers.
#[derive(Debug)]
pub struct Probe {
    askers: SyncSender<Sender<bool>>,
    /// When the question was asked that has no answer yet.
    unanswered: Arc<Mutex<Option<Instant>>>,
}

impl Probe {
    /// Starts the thread. It ends when the probe is dropped.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn start(database: &Arc<Database>) -> std::io::Result<Probe> {
        let (askers, waiting) = mpsc::sync_channel(MAX_ASKERS);
        let connection = database.patient_connection(Patience::Probe);
        let unanswered = Arc::<Mutex<_>>::default();
        let noted = unanswered.clone();
        std::thread::Builder::new()
            .name("probe".into())
            .spawn(move || run(connection, &waiting, &noted))?;
        Ok(Probe { askers, unanswered })
    }

    /// Whether the database answers within `timeout`. If it has kept another question waiting for
    /// so long, this is known at once.
    pub fn answers_within(&self, timeout: Duration) -> bool {
        let asked = *lock(&self.unanswered);
        if asked.is_some_and(|asked| asked.elapsed() >= timeout) {
            return false;
        }
        let (reply, answer) = mpsc::channel();
        self.askers.try_send(reply).is_ok() && answer.recv_timeout(timeout) == Ok(true)
    }
}

fn run(
    mut connection: Connection,
    waiting: &Receiver<Sender<bool>>,
    unanswered: &Mutex<Option<Instant>>,
) {
    while let Ok(first) = waiting.recv() {
        // Callers that came while the last question was in flight share the next answer.
        let others: Vec<_> = waiting.try_iter().collect();
        *lock(unanswered) = Some(Instant::now());
        let alive = connection.is_alive();
        *lock(unanswered) = None;
        for asker in others.into_iter().chain([first]) {
            // The receiver is gone after the caller's timeout.
            let _ = asker.send(alive);
        }
    }
}

impl Connection {
    fn is_alive(&mut self) -> bool {
        let answer = self.look_whether_read_only();
        if let Err(error) = &answer {
            log::debug!("the database gives no sign of life: {error}");
        }
        answer.is_ok()
    }
}
