//! Notifications to systemd (sd_notify(3)). Without systemd these functions do nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// Tells systemd that the server listens.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Feeds the watchdog, and sets the line that `systemctl status` shows.
pub fn alive(status: &str) {
    notify(&[NotifyState::Watchdog, NotifyState::Status(status)]);
}

/// Tells systemd that the server is stopping and finishes requests in flight.
pub fn stopping() {
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("finishing what is in flight"),
    ]);
}

/// The watchdog's timeout: systemd restarts a server from which it hears nothing for so long.
/// `None` without a watchdog.
pub fn watchdog() -> Option<Duration> {
    let mut microseconds = 0;
    sd_notify::watchdog_enabled(false, &mut microseconds)
        .then(|| Duration::from_micros(microseconds))
}

fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(false, state) {
        log::debug!("systemd can't be told: {error}");
    }
}
