//! Brings to a node what its pods will want: runs commands, one after the other, each until it has succeeded once.
//!
//! What they do is the configuration's business, such as `wharf fetch` into a folder of the node. A command is run again after every start of the
//! agent, so it should be quick where its work is done already, as `wharf fetch` is.

use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::sleep;

use crate::board::{Board, Part};
use crate::config::Preload;

/// A command that failed is run again after this, and then less and less often.
const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_AT_MOST: Duration = Duration::from_secs(600);

/// Runs all commands. Dropping it ends the one that runs.
pub(crate) async fn run(board: &Arc<Board>) {
    let all = &board.config.preload;
    for (at, preload) in all.iter().enumerate() {
        board.say(Part::Preload, false, "Running", format!("{} ({} of {})", preload.name, at + 1, all.len()));
        let mut pause = AGAIN.min(Duration::from_secs_f64(board.config.health.check));
        while let Err(why) = once(preload).await {
            board.say(Part::Preload, false, "Failed", format!("{}: {why}; trying again", preload.name));
            sleep(pause).await;
            pause = (pause * 2).min(AGAIN_AT_MOST);
        }
    }
    let names: Vec<&str> = all.iter().map(|preload| preload.name.as_str()).collect();
    board.say(Part::Preload, true, "Done", names.join(", "));
}

async fn once(preload: &Preload) -> Result<(), String> {
    let Some((program, arguments)) = preload.command.split_first() else {
        return Err("there is no command".to_owned());
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true);
    match command.status().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program} ended with {status}")),
        Err(error) => Err(format!("failed to run {program}: {error}")),
    }
}
