//! `serve`: puts the modules together, from the listening socket to the timer thread.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::app::App;
use super::check_system;
use crate::config::{Config, ConfigSource, Shares};
use crate::db::Settings;
use crate::handover::{Handover, ListeningSocket};
use crate::machine::Limits;
use crate::server::{self, Ended, Listener, Workers};
use crate::signals::Signals;
use crate::stop::Stop;
use crate::{allocator, buffer, output, quantity, systemd};

/// How often the server checks whether it still receives requests, unless systemd's watchdog needs
/// it more often.
const SELF_CHECK: Duration = Duration::from_secs(5);

/// Reads the configuration from `file`, or from its default path, and runs the server.
///
/// # Errors
/// A sentence for the operator.
pub fn start(file: Option<&Path>, allow_root: bool) -> Result<(), String> {
    if !allow_root && is_root() {
        return Err(
            "will not serve as root: run it as a user of its own, or give --allow-root".into(),
        );
    }
    // Before the configuration is read, because a pipe can be read only once.
    let restarted = allocator::return_large_buffers();
    let no_handover = |error| format!("what the server left to itself can't be taken: {error}");
    let (source, inherited) = match Handover::take().map_err(no_handover)? {
        Some(left) => (
            ConfigSource::decode(&left.configuration).map_err(no_handover)?,
            Some(left.sockets),
        ),
        None => (ConfigSource::read(file)?, None),
    };
    let config = source.config()?;
    output::start_logging(config.log_level);
    if let Err(error) = restarted {
        // The server works all the same, but needs more memory.
        log::debug!("not started once more: {error}");
    }
    serve(config, &source, inherited)
}

/// Runs the server until a signal stops it ([`crate::signals`]), and then finishes the requests in
/// flight. `source` is the configuration's text, which is handed over if the server restarts
/// itself; `inherited` are the listening sockets that were handed over by the previous server.
///
/// # Errors
/// A sentence for the operator.
fn serve(
    config: Config,
    source: &ConfigSource,
    inherited: Option<Vec<ListeningSocket>>,
) -> Result<(), String> {
    for warning in config.warnings() {
        log::warn!("{warning}");
    }
    server::quieten_tiny_http();
    let config = Arc::new(config);
    let no_signals = |error| format!("cannot wait for signals: {error}");
    let signals = Signals::catch().map_err(no_signals)?;
    let shares = divide_memory(&config);
    let listeners = Listener::open_all(&config, inherited)?;
    let withdraw = || listeners.iter().for_each(Listener::withdraw);
    let workers = affordable_workers(&config, listeners.len()).inspect_err(|_| withdraw())?;
    let metrics = Listener::open_metrics(&config).inspect_err(|_| withdraw())?;
    let addresses: Vec<String> = listeners.iter().map(|l| l.address().to_string()).collect();
    let stop = Stop::default();
    let signalled = signals.watch(&stop).map_err(no_signals)?;
    let unusable = Arc::new(AtomicBool::new(false));
    let app = App::start(&config, addresses.join(" and "), &stop, &unusable).inspect_err(|_| {
        withdraw();
        metrics.iter().for_each(Listener::withdraw);
    })?;
    if let Some(metrics) = &metrics {
        log::info!("metrics are served on {}", metrics.address());
    }
    log::info!(
        "listening on {}, with {workers} workers",
        addresses.join(" and ")
    );
    systemd::ready();
    let pause = systemd::watchdog().map_or(SELF_CHECK, |patience| SELF_CHECK.min(patience / 3));
    let (service, workers) = (Arc::new(app), Workers::of(workers, config.writers));
    let outcome = server::run(listeners, metrics, workers, &shares, pause, service, &stop);
    let ended = outcome.map_err(|error| format!("no more requests can be accepted: {error}"))?;
    if let Ended::ToStartAnew(sockets) = ended {
        // After a stop signal the server doesn't restart itself.
        if !signalled.load(Ordering::SeqCst) {
            return Err(restart(sockets, source));
        }
    }
    log::info!("stopped");
    if unusable.load(Ordering::SeqCst) {
        return Err("the database can't be used as it is; see above".into());
    }
    Ok(())
}

/// How many of the wanted workers there are threads for, beside those that the rest needs.
fn affordable_workers(config: &Config, addresses: usize) -> Result<usize, String> {
    let replicas = config.replicas.as_ref();
    let for_replicas = replicas.map_or(0, Settings::watching_threads);
    let for_hosts = usize::from(config.database.has_several_hosts());
    server::affordable_workers(config.workers, addresses, for_replicas + for_hosts)
}

/// Divides the memory for files, and warns if it is more than this process may have.
fn divide_memory(config: &Config) -> Shares {
    let limits = Limits::read();
    let shares = config.shares(&limits);
    if let Err(misfit) = check_system::own_memory(&shares, &limits) {
        log::warn!("{misfit}");
    }
    let memory = quantity::bytes(shares.total() as u64);
    log::info!("the memory for files is {memory}");
    buffer::limit_spare(shares.spare);
    shares
}

/// Restarts the program (`exec`). Hands over the listening sockets, and the configuration's text,
/// because its file may be a pipe, or may have changed or gone. Returns only if it fails, with
/// the reason.
fn restart(sockets: Vec<ListeningSocket>, source: &ConfigSource) -> String {
    let configuration = source.encode();
    let left = Handover {
        sockets,
        configuration,
    };
    let failed = std::env::current_exe().and_then(|program| {
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1));
        left.leave(&mut command)?;
        Ok(command.exec())
    });
    let (Ok(error) | Err(error)) = failed;
    format!("the server can't start anew: {error}")
}

/// Whether the program runs as root. /proc/self belongs to the process's effective user.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
