//! How a process is asked to stop: SIGTERM or SIGINT stops it in order, a second one at once.

use std::process;

use anyhow::{Context, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tracing::{info, warn};

/// Becomes true with the first signal.
pub(crate) type Stop = watch::Receiver<bool>;

/// Listens for signals from here on.
pub(crate) fn listen() -> Result<Stop> {
    let terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let (sender, stop) = watch::channel(false);
    tokio::spawn(watch_signals(terminate, interrupt, sender));
    Ok(stop)
}

async fn watch_signals(mut terminate: Signal, mut interrupt: Signal, sender: watch::Sender<bool>) {
    let mut first = true;
    loop {
        let number = tokio::select! {
            _ = terminate.recv() => 15,
            _ = interrupt.recv() => 2,
        };
        if !first {
            warn!(signal = number, "second signal, ends at once");
            process::exit(128 + number);
        }
        first = false;
        info!(signal = number, "stops");
        let _ = sender.send(true); // nobody waits yet, or any more: the value stays
    }
}

/// Waits for the first signal.
pub(crate) async fn stopped(stop: &mut Stop) {
    // an error would mean that the sender is gone, and it never is
    let _ = stop.wait_for(|stopped| *stopped).await;
}
