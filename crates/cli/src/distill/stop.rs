//! Decides what Ctrl-C means while training: once asks to stop after the step and keep a checkpoint, twice leaves at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// A flag that the first interrupt or termination sets.
#[expect(clippy::disallowed_methods, reason = "a second Ctrl-C leaves at once; files are whole at any time")]
pub(super) fn on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to prepare for signals")?;
    let mut signals = {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).context("failed to listen for signals");
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
    };
    let flag = Arc::clone(&stop);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = signals.0.recv() => {}
                        _ = signals.1.recv() => {}
                    }
                    if flag.swap(true, Ordering::Relaxed) {
                        std::process::exit(130);
                    }
                }
            });
        })
        .context("failed to start the thread that listens for signals")?;
    Ok(stop)
}
