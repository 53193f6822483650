//! `wharf down`: ends what `wharf up` runs.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use wharf_local::Order;

use super::ask;
use super::state::StateArg;
use crate::Env;
use crate::exit::Failure;

/// End what `wharf up` runs: requests are answered to the end, then every process goes
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wharf down
  wharf down --state /var/lib/wharf")]
pub(crate) struct Args {
    #[command(flatten)]
    state: StateArg,
    /// Seconds to wait until everything has ended
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    wait: u64,
}

/// How often it is looked whether everything has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Runs the command to its end.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    let folder = args.state.folder(env)?;
    ask::tell(&folder, &Order::Down)?;
    let deadline = Instant::now() + Duration::from_secs(args.wait);
    // The supervisor holds its folder until its last process is gone.
    while wharf_local::Folder::is_taken(&folder) {
        if Instant::now() >= deadline {
            return Err(Failure::Failed(anyhow!(
                "it has not ended after {} s; `wharf ps` shows what runs",
                args.wait
            )));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
