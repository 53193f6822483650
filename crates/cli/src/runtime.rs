//! The asynchronous runtime of commands that wait for others and compute nothing.

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

/// One thread, with sockets and time.
///
/// # Errors
/// When the operating system gives no sockets to wait with.
pub(crate) fn one_thread() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("failed to start the asynchronous runtime")
}
