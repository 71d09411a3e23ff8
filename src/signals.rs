//! What signals do to the program.
//!
//! While it serves, SIGTERM, SIGINT and SIGQUIT let it finish what is in flight, and a further
//! one ends it at once. Signals that other programs use for a request of their own (read the
//! configuration again, rotate the log) end nothing: an upload would be lost by them.

use std::ffi::c_int;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use log::Level;
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXFSZ,
};
use signal_hook::iterator;
use signal_hook::low_level;

use crate::stop::Stop;
use crate::systemd;

/// These stop the server.
const STOPPING: [c_int; 3] = [SIGTERM, SIGINT, SIGQUIT];
/// These would end a program that doesn't know them.
const IGNORED: [c_int; 7] = [SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO];

/// A stopping signal that follows the first one as quickly as this tells the same wish once
/// more: a terminal sends SIGINT to a script and to the server, and the script SIGTERM to the
/// server.
const SAME_WISH: Duration = Duration::from_secs(1);

/// How long a signal waits for its line to be written to the log.
const LINE_TIMEOUT: Duration = Duration::from_millis(200);
/// Lines that may wait to be written; further ones are dropped.
const MAX_LINES: usize = 8;

/// The signals that come while the server runs.
pub struct Signals(iterator::Signals);

impl Signals {
    /// Catches signals from now on; [`Signals::watch`] does what they ask for.
    ///
    /// # Errors
    /// When the system has no descriptors to spare.
    pub fn catch() -> io::Result<Signals> {
        let signals = STOPPING.into_iter().chain(IGNORED);
        iterator::Signals::new(signals).map(Signals)
    }

    /// Starts a thread that requests `stop` when a stopping signal comes; whether one has come.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn watch(mut self, stop: &Stop) -> io::Result<Arc<AtomicBool>> {
        let stop = stop.clone();
        let stopping = Arc::<AtomicBool>::default();
        let came = stopping.clone();
        let scribe = Scribe::start()?;
        let watch = move || {
            let mut first = None;
            for signal in self.0.forever() {
                let name = name(signal);
                if IGNORED.contains(&signal) {
                    scribe.log(Level::Info, ignored(signal));
                } else if let Some(first) = first {
                    stop_sooner(signal, first, &scribe);
                } else {
                    first = Some(Instant::now());
                    came.store(true, Ordering::SeqCst);
                    stop.request();
                    systemd::stopping();
                    scribe.log(Level::Info, format!("{name}: finishing what is in flight"));
                }
            }
        };
        thread::Builder::new().name("signals".into()).spawn(watch)?;
        Ok(stopping)
    }
}

/// Writes to the log from a thread of its own. Writing waits for as long as a terminal is held
/// or the reader of a pipe does something else, and signals must be obeyed then, too.
struct Scribe {
    lines: SyncSender<(Level, String)>,
    written: Receiver<()>,
}

impl Scribe {
    fn start() -> io::Result<Scribe> {
        let (lines, to_write) = sync_channel::<(Level, String)>(MAX_LINES);
        let (tell, written) = channel();
        let write = move || {
            for (level, line) in to_write {
                log::log!(level, "{line}");
                let _ = tell.send(());
            }
        };
        thread::Builder::new()
            .name("signal-log".into())
            .spawn(write)?;
        Ok(Scribe { lines, written })
    }

    /// Waits until the line is written, but no longer than [`LINE_TIMEOUT`].
    fn log(&self, level: Level, line: String) {
        // Those that are waited for no more.
        while self.written.try_recv().is_ok() {}
        if self.lines.try_send((level, line)).is_ok() {
            let _ = self.written.recv_timeout(LINE_TIMEOUT);
        }
    }
}

/// Lets the program go on where a file that it writes, as its log, has reached the limit of its
/// size: writing fails then, as it does on a full disk.
///
/// # Errors
/// When the system refuses.
pub fn survive_full_files() -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(drop)
}

fn ignored(signal: c_int) -> String {
    let name = name(signal);
    match signal {
        SIGHUP => format!(
            "{name}: nothing is done; restart the server to let it read the configuration again"
        ),
        _ => format!("{name}: nothing is done"),
    }
}

fn stop_sooner(signal: c_int, first: Instant, scribe: &Scribe) {
    let name = name(signal);
    if first.elapsed() < SAME_WISH {
        let line = "finishing what is in flight already; a later signal ends the server at once";
        scribe.log(Level::Info, format!("{name}: {line}"));
    } else {
        scribe.log(Level::Warn, format!("{name}: ending at once"));
        end_at_once(signal);
    }
}

/// Ends the program as the signal by itself would have done, so that shells and systemd see it;
/// but SIGQUIT without an image of the memory on disk, in which the server's key would be.
fn end_at_once(signal: c_int) -> ! {
    if signal != SIGQUIT {
        let _ = low_level::emulate_default_handler(signal);
    }
    low_level::exit(128 + signal)
}

fn name(signal: c_int) -> &'static str {
    low_level::signal_name(signal).unwrap_or("a signal")
}
