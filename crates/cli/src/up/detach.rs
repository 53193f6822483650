//! `wharf up --detach`: the same command in the background, once it is seen to run.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use wharf_local::{ControlError, Order, order};

use crate::exit::{self, Failure};
use crate::runtime;

/// How long the supervisor may take until it can be asked.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is asked.
const LOOK: Duration = Duration::from_millis(50);

/// Starts this very command again without `--detach`, and returns when it can be asked.
pub(super) fn detach(folder: &Path) -> Result<(), Failure> {
    let program = std::env::current_exe().context("failed to find the program to go on with")?;
    let logs = folder.join("logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("failed to make {}", logs.display()))?;
    let path = logs.join("up.log");
    let opening = || format!("failed to open {}", path.display());
    let log = OpenOptions::new().create(true).append(true).open(&path).with_context(opening)?;
    let errors = log.try_clone().with_context(opening)?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1).filter(|word| word != "--detach"))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .context("failed to start in the background")?;
    let runtime = runtime::one_thread()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().context("failed to look after what was started")? {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let said =
                text.lines().rev().find(|line| line.starts_with("error:")).unwrap_or("it said nothing");
            return Err(Failure::Failed(anyhow!(
                "it ended at once ({status}): {said}; see {}",
                path.display()
            )));
        }
        match runtime.block_on(order(folder, &Order::Overview)) {
            Ok(_) => break,
            Err(ControlError::Nobody { .. }) if Instant::now() < deadline => std::thread::sleep(LOOK),
            Err(error) => return Err(Failure::Failed(error.into())),
        }
    }
    let message =
        format!("runs in the background with process id {}; its log is {}\n", child.id(), path.display());
    Ok(exit::print(&message)?)
}
