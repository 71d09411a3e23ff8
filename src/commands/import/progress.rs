//! The display of an import's progress: a bar on a terminal, otherwise lines in the log.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::report::Report;
use crate::quantity;

/// How often the bar is updated.
const BAR_INTERVAL: Duration = Duration::from_millis(100);
/// How often a line is logged.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// The template of the bar.
const BAR: &str = "{bar:30} {percent:>3} %  {human_pos} of {human_len} files, {msg}, {eta} left";

/// The thread that shows the progress of an import.
pub struct ProgressDisplay {
    ended: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl ProgressDisplay {
    /// Starts the thread. `total` is the number of files, and `report` counts those that are done.
    pub fn start(total: u64, report: &Arc<Report>) -> ProgressDisplay {
        let (ended, end) = channel();
        let report = report.clone();
        let show = move || {
            let display = Style::new(total);
            let started = Instant::now();
            while end.recv_timeout(display.interval()) == Err(RecvTimeoutError::Timeout) {
                display.show(&report, started.elapsed());
            }
            display.clear();
        };
        let thread = std::thread::Builder::new().name("progress".into());
        ProgressDisplay {
            ended,
            // The import goes on even if the thread can't be started.
            thread: thread.spawn(show).ok(),
        }
    }

    /// Ends the thread, which clears the bar.
    pub fn finish(self) {
        drop(self.ended);
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
    }
}

/// The style of the display.
enum Style {
    /// A bar, for a terminal.
    Bar(ProgressBar),
    /// Lines in the log; with the number of files.
    Lines(u64),
}

impl Style {
    fn new(total: u64) -> Style {
        if !std::io::stderr().is_terminal() {
            return Style::Lines(total);
        }
        let bar = ProgressBar::new(total);
        // If the template were invalid, the library's own would be used.
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style);
        }
        Style::Bar(bar)
    }

    fn interval(&self) -> Duration {
        match self {
            Style::Bar(_) => BAR_INTERVAL,
            Style::Lines(_) => LINE_INTERVAL,
        }
    }

    fn show(&self, report: &Report, elapsed: Duration) {
        let (files, bytes) = report.progress();
        let rate = (bytes as f64 / elapsed.as_secs_f64()) as u64;
        let amount = format!("{}, {}/s", quantity::bytes(bytes), quantity::bytes(rate));
        match self {
            Style::Bar(bar) => {
                bar.set_position(files);
                bar.set_message(amount);
            }
            Style::Lines(total) => {
                let total = quantity::count(*total, "file");
                log::info!("{} of {total}, {amount}", quantity::number(files));
            }
        }
    }

    fn clear(&self) {
        if let Style::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
