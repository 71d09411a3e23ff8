//! The metrics of the server itself: what waits, works and is open now, and what was refused. They
//! follow the metrics of the service.

use std::sync::atomic::Ordering;

use super::Service;
use super::door::Door;
use super::guard::memory::resident;
use crate::exposition::{Exposition, Kind};

impl<S: Service> Door<S> {
    /// All metrics, as text. No lock is held for longer than it takes to count a list.
    pub fn metrics(&self) -> String {
        let mut exposition = Exposition::default();
        self.service.expose(&mut exposition);
        let help = "Complete requests that wait for a worker.";
        exposition.gauge("queue_length", help, self.jobs.length());
        let help = "The most requests that may wait for a worker.";
        exposition.gauge("queue_limit", help, self.jobs.limit());
        let help = "Threads that answer requests.";
        exposition.gauge("workers", help, self.workers);
        let help = "Threads that answer a request now.";
        exposition.gauge("workers_busy", help, self.busy.load(Ordering::Relaxed));
        let help = "Requests that are being received, wait, or are being answered.";
        exposition.gauge("requests_in_flight", help, self.guard.in_flight());
        self.guard.expose(&mut exposition);
        self.expose_memory(&mut exposition);
        exposition.into_text()
    }

    fn expose_memory(&self, exposition: &mut Exposition) {
        let budgets = [
            ("received", self.received()),
            ("sent", self.senders.budget()),
        ];
        let help = "Bytes of large bodies that are being received, and of large answers.";
        let mut family = exposition.family("bytes_in_flight", Kind::Gauge, help);
        for (direction, budget) in budgets {
            family.sample(&[("direction", direction)], budget.taken());
        }
        let help = "The most bytes of either kind, beyond which requests are refused.";
        let mut family = exposition.family("bytes_in_flight_limit", Kind::Gauge, help);
        for (direction, budget) in budgets {
            family.sample(&[("direction", direction)], budget.total());
        }
        let help = "What the process has of the machine's memory.";
        exposition
            .standard_family("process_resident_memory_bytes", Kind::Gauge, help)
            .sample(&[], resident());
    }
}
