//! What an operator sees while files are taken over: a bar on a terminal, else lines.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::report::Report;
use crate::quantity;

/// How often the bar is drawn.
const BAR_PAUSE: Duration = Duration::from_millis(100);
/// How often a line is written.
const LINE_PAUSE: Duration = Duration::from_secs(10);

const BAR: &str = "{bar:30} {percent:>3} %  {human_pos} of {human_len} files, {msg}, {eta} left";

/// Shows a report while it grows.
pub struct ProgressDisplay {
    ended: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl ProgressDisplay {
    /// Starts to show; `total` is the number of files.
    pub fn start(total: u64, report: &Arc<Report>) -> ProgressDisplay {
        let (ended, end) = channel();
        let report = report.clone();
        let show = move || {
            let display = Display::new(total);
            let started = Instant::now();
            while end.recv_timeout(display.pause()) == Err(RecvTimeoutError::Timeout) {
                display.show(&report, started.elapsed());
            }
            display.clear();
        };
        let thread = std::thread::Builder::new().name("progress".into());
        ProgressDisplay {
            ended,
            // Without the thread nothing is shown, and all else goes on.
            thread: thread.spawn(show).ok(),
        }
    }

    /// Ends it, and clears the bar.
    pub fn finish(self) {
        drop(self.ended);
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
    }
}

enum Display {
    Bar(ProgressBar),
    Lines(u64),
}

impl Display {
    fn new(total: u64) -> Display {
        if !std::io::stderr().is_terminal() {
            return Display::Lines(total);
        }
        let bar = ProgressBar::new(total);
        // Without our style it has the library's own.
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style);
        }
        Display::Bar(bar)
    }

    fn pause(&self) -> Duration {
        match self {
            Display::Bar(_) => BAR_PAUSE,
            Display::Lines(_) => LINE_PAUSE,
        }
    }

    fn show(&self, report: &Report, elapsed: Duration) {
        let (files, bytes) = report.progress();
        let rate = (bytes as f64 / elapsed.as_secs_f64()) as u64;
        let amount = format!("{}, {}/s", quantity::bytes(bytes), quantity::bytes(rate));
        match self {
            Display::Bar(bar) => {
                bar.set_position(files);
                bar.set_message(amount);
            }
            Display::Lines(total) => {
                let total = quantity::count(*total, "file");
                log::info!("{} of {total}, {amount}", quantity::number(files));
            }
        }
    }

    fn clear(&self) {
        if let Display::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
