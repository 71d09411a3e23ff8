//! The program's reactions to signals.
//!
//! While the server runs, SIGTERM, SIGINT and SIGQUIT let it finish the requests in flight, and
//! a second one ends it at once. Signals that other programs use for requests of their own (read
//! the configuration again, rotate the log) are ignored, because their default action would end
//! the server and lose uploads.

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

/// Signals that stop the server.
const STOP_SIGNALS: [c_int; 3] = [SIGTERM, SIGINT, SIGQUIT];
/// Signals whose default action would end the program, and that are ignored instead.
const IGNORED_SIGNALS: [c_int; 7] = [SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO];

/// A second stop signal within this time counts as a repetition of the first and doesn't end the
/// server at once: a terminal sends SIGINT to a script and to the server, and then the script
/// sends SIGTERM to the server.
const REPEAT_WINDOW: Duration = Duration::from_secs(1);

/// How long the signal thread waits for its line to be written to the log.
const LOG_TIMEOUT: Duration = Duration::from_millis(200);
/// The number of lines that may wait to be written. Further ones are dropped.
const MAX_WAITING_LINES: usize = 8;

/// The signals that arrive while the server runs.
pub struct Signals(iterator::Signals);

impl Signals {
    /// Catches signals from now on. [`Signals::watch`] handles them.
    ///
    /// # Errors
    /// When the system has no descriptors to spare.
    pub fn catch() -> io::Result<Signals> {
        let signals = STOP_SIGNALS.into_iter().chain(IGNORED_SIGNALS);
        iterator::Signals::new(signals).map(Signals)
    }

    /// Starts a thread that requests `stop` when a stop signal arrives. The returned flag tells
    /// whether one has arrived.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn watch(mut self, stop: &Stop) -> io::Result<Arc<AtomicBool>> {
        let stop = stop.clone();
        let stopping = Arc::<AtomicBool>::default();
        let is_stopping = stopping.clone();
        let log_writer = LogWriter::start()?;
        let watch = move || {
            let mut first = None;
            for signal in self.0.forever() {
                let name = name(signal);
                if IGNORED_SIGNALS.contains(&signal) {
                    log_writer.log(Level::Info, ignored(signal));
                } else if let Some(first) = first {
                    stop_sooner(signal, first, &log_writer);
                } else {
                    first = Some(Instant::now());
                    is_stopping.store(true, Ordering::SeqCst);
                    stop.request();
                    systemd::stopping();
                    log_writer.log(Level::Info, format!("{name}: finishing what is in flight"));
                }
            }
        };
        thread::Builder::new().name("signals".into()).spawn(watch)?;
        Ok(stopping)
    }
}

/// Writes to the log from a thread of its own, because signals must be handled even while
/// writing blocks: on a terminal that is held, or a pipe whose reader is busy.
struct LogWriter {
    lines: SyncSender<(Level, String)>,
    written: Receiver<()>,
}

impl LogWriter {
    fn start() -> io::Result<LogWriter> {
        let (lines, to_write) = sync_channel::<(Level, String)>(MAX_WAITING_LINES);
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
        Ok(LogWriter { lines, written })
    }

    /// Hands over a line, and waits until it is written, but no longer than [`LOG_TIMEOUT`].
    fn log(&self, level: Level, line: String) {
        // Confirmations of earlier lines, which came after the timeout.
        while self.written.try_recv().is_ok() {}
        if self.lines.try_send((level, line)).is_ok() {
            let _ = self.written.recv_timeout(LOG_TIMEOUT);
        }
    }
}

/// Catches SIGXFSZ, which would end the program when a file that it writes, such as its log,
/// reaches the size limit. Writing then fails instead, as it does on a full disk.
///
/// # Errors
/// When the system refuses.
pub fn survive_file_size_limit() -> io::Result<()> {
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

fn stop_sooner(signal: c_int, first: Instant, log_writer: &LogWriter) {
    let name = name(signal);
    if first.elapsed() < REPEAT_WINDOW {
        let line = "finishing what is in flight already; a later signal ends the server at once";
        log_writer.log(Level::Info, format!("{name}: {line}"));
    } else {
        log_writer.log(Level::Warn, format!("{name}: ending at once"));
        end_at_once(signal);
    }
}

/// Ends the program by the signal's default action, so that shells and systemd see it. SIGQUIT
/// exits instead, because a core dump would hold the server's key.
fn end_at_once(signal: c_int) -> ! {
    if signal != SIGQUIT {
        let _ = low_level::emulate_default_handler(signal);
    }
    low_level::exit(128 + signal)
}

fn name(signal: c_int) -> &'static str {
    low_level::signal_name(signal).unwrap_or("a signal")
}
