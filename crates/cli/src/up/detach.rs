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

/// Exit code for what the user gave.
const BAD_INPUT: i32 = 2;

/// Starts this very command again without `--detach`, and returns when it can be asked.
pub(super) fn detach(folder: &Path) -> Result<(), Failure> {
    let program = std::env::current_exe().context("failed to find the program to go on with")?;
    let logs = folder.join("logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("failed to make {}", logs.display()))?;
    let path = logs.join("up.log");
    let opening = || format!("failed to open {}", path.display());
    let log = OpenOptions::new().create(true).append(true).open(&path).with_context(opening)?;
    let errors = log.try_clone().with_context(opening)?;
    // What earlier ones said is in the same file.
    let before = log.metadata().with_context(opening)?.len();
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
            let text = std::fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(text.get(before as usize..).unwrap_or_default());
            let why = anyhow!("it ended at once ({status}): {}; see {}", said(&text), path.display());
            return Err(match status.code() {
                Some(BAD_INPUT) => Failure::BadInput(why),
                _ => Failure::Failed(why),
            });
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

/// The last error of a log with its causes.
fn said(log: &str) -> String {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let error = lines.iter().rposition(|line| line.starts_with("error: "));
    error.map_or_else(|| "it said nothing".to_owned(), |at| lines[at..].join(" ").replacen("error: ", "", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_end_is_told_with_is_the_last_error_and_its_causes() {
        let log =
            "API http://127.0.0.1:1\nerror: an old one\nerror: failed to listen\n  because: address in use\n";
        assert_eq!(said(log), "failed to listen because: address in use");
        assert_eq!(said("API http://127.0.0.1:1\n"), "it said nothing");
    }
}
