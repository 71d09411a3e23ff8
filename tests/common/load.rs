//! Clients that ask all the time while something happens to the server.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::eventually;

/// Starts `clients` threads for as long as `happening` runs. Each thread gets a function from
/// `client`, and calls it with 0, 1, 2 and so on. `happening` gets a function that waits until so
/// many more calls have returned.
pub fn under_load<Client: FnMut(u64), Outcome>(
    clients: u64,
    client: impl Fn(u64) -> Client + Sync,
    happening: impl FnOnce(&dyn Fn(usize)) -> Outcome,
) -> Outcome {
    let (is_over, returned) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for number in 0..clients {
            let (client, is_over, returned) = (&client, &is_over, &returned);
            scope.spawn(move || {
                let mut ask = client(number);
                for count in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    ask(count);
                    returned.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _end = End(&is_over);
        happening(&|more| {
            let before = returned.load(Ordering::Relaxed);
            eventually("load", || returned.load(Ordering::Relaxed) > before + more);
        })
    })
}

/// Lets the clients end, also when the test has failed meanwhile.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
