//! Asks a running supervisor.

use std::path::Path;

use anyhow::anyhow;
use wharf_local::{ControlError, Order, Reply, order};

use crate::exit::Failure;
use crate::runtime;

/// Gives an order to the supervisor of a folder and waits for its answer.
///
/// # Errors
/// Bad input when nothing runs there or it refuses; a failure when it does not answer.
pub(super) fn ask(folder: &Path, what: &Order) -> Result<Reply, Failure> {
    let runtime = runtime::one_thread()?;
    match runtime.block_on(order(folder, what)) {
        Ok(Reply::Refused(why)) => Err(Failure::BadInput(anyhow!(why))),
        Ok(reply) => Ok(reply),
        Err(error @ ControlError::Nobody { .. }) => Err(Failure::BadInput(error.into())),
        Err(error @ ControlError::Talk { .. }) => Err(Failure::Failed(error.into())),
    }
}

/// Gives an order and prints what became of it.
///
/// # Errors
/// As [`ask`].
pub(super) fn tell(folder: &Path, what: &Order) -> Result<(), Failure> {
    match ask(folder, what)? {
        Reply::Done(message) => Ok(crate::exit::print(&format!("{message}\n"))?),
        Reply::Overview(_) | Reply::Refused(_) | Reply::Log(_) => {
            Err(Failure::Failed(anyhow!("the supervisor gave the answer to another question")))
        }
    }
}
