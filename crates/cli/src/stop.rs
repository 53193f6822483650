//! Decides what a signal means to work that computes: the first asks it to stop where it can be gone on with, the second ends it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::exit::Failure;

/// Interrupts from the terminal and termination by others, from the moment of listening on.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Must be called within a runtime.
    pub(crate) fn listen() -> anyhow::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).context("failed to listen for Ctrl-C")?,
            terminate: signal(SignalKind::terminate()).context("failed to listen for termination")?,
        })
    }

    /// Waits for the next one. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Runs a server: the first signal asks it to end in order, the second ends it at once. `serve` gets what tells it to end.
///
/// # Errors
/// [`Failure::Interrupted`] at the second signal, else what the server ends with.
pub(crate) async fn serve<F, E>(
    serve: impl FnOnce(oneshot::Receiver<()>) -> F,
    failure: impl Fn(E) -> Failure,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), E>>,
{
    let mut signals = Signals::listen()?;
    let (told, first) = oneshot::channel();
    let mut served = std::pin::pin!(serve(first));
    tokio::select! {
        ended = &mut served => return ended.map_err(failure),
        () = signals.next() => {}
    }
    // The server holds the receiver until it has ended.
    let _ = told.send(());
    tokio::select! {
        ended = served => ended.map_err(failure),
        () = signals.next() => Err(Failure::Interrupted),
    }
}

/// A flag that is set by the first signal. Listening ends with the program.
#[expect(clippy::disallowed_methods, reason = "a second Ctrl-C leaves at once; files are whole at any time")]
pub(crate) fn flag() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("failed to start listening for signals")?;
    let mut signals = runtime.block_on(async { Signals::listen() })?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                signals.next().await;
                set.store(true, Ordering::Relaxed);
                signals.next().await;
                std::process::exit(130);
            });
        })
        .context("failed to start listening for signals")?;
    Ok(flag)
}
