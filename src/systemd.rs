//! What systemd is told (`man sd_notify`). Without systemd nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

/// The server listens.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The server is alive and has done that much: the line that `systemctl status` shows.
pub fn alive(status: &str) {
    notify(&[NotifyState::Watchdog, NotifyState::Status(status)]);
}

/// The server finishes what is in flight.
pub fn stopping() {
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("finishing what is in flight"),
    ]);
}

/// How long systemd waits for a sign of life, if it waits for any.
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
