//! The quickstart page as a test: every shell block of it is run, in order, in an empty folder.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::demo_model::DemoModel;
use crate::{environment, server, shell};

const PAGE: &str = "docs/guides/quickstart.md";
/// Ports that the page names; others are put in their place, since these may be taken here.
const PORTS: [&str; 2] = ["8000", "8002"];

/// Runs the page with a model called `model.gguf`; gives how many blocks there were.
pub(crate) fn run(wharf: &Path, model: &DemoModel) -> anyhow::Result<usize> {
    let page = environment::root().join(PAGE);
    let text =
        std::fs::read_to_string(&page).with_context(|| format!("failed to read {}", page.display()))?;
    let mut blocks = blocks(&text);
    for port in PORTS {
        let other = server::free_port(0)?.to_string();
        blocks.iter_mut().for_each(|block| *block = block.replace(port, &other));
    }
    let folder = shell::target()?.join("quickstart");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("failed to empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let model =
        model.path.canonicalize().with_context(|| format!("failed to find {}", model.path.display()))?;
    std::os::unix::fs::symlink(model, folder.join("model.gguf")).context("failed to link the model")?;
    let outcome = blocks.iter().try_for_each(|block| step(block, wharf, &folder));
    if outcome.is_err() {
        // Whatever runs must not outlive the test.
        let _ = step("wharf down --state state", wharf, &folder);
    }
    outcome.map(|()| blocks.len())
}

fn step(block: &str, wharf: &Path, folder: &Path) -> anyhow::Result<()> {
    println!("{}", block.trim_end());
    let bin = wharf.parent().context("wharf lies in no folder")?;
    let bin = bin.canonicalize().with_context(|| format!("failed to find {}", bin.display()))?;
    let script = format!("set -euo pipefail\nPATH={}:$PATH\n{block}", bin.display());
    let mut command = Command::new("timeout");
    command.args(["300", "bash", "-c", &script]).current_dir(folder).env("HOME", folder);
    let status = command.status().context("failed to start bash")?;
    if !status.success() {
        bail!("a step of {PAGE} ended with {status}:\n{block}");
    }
    Ok(())
}

/// Shell blocks of a page.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == "```sh" {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(block.join("\n") + "\n");
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shell_blocks_are_run() {
        let text = "a\n```sh\none\ntwo\n```\n```console\n$ no\n```\n```sh\nthree\n```\n";
        assert_eq!(blocks(text), ["one\ntwo\n", "three\n"]);
    }
}
