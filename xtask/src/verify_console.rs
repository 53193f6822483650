//! `cargo xtask verify-console`: the console in a real browser, before a service of a real model.
//!
//! The checks are `tests/console`; this command provides gateway, model, packages and screenshots.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::server::{self, Server};
use crate::{demo, demo_model, environment, shell};

/// Drive the console with a browser, before `wharf up` with the demo model
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask verify-console
  CHROMIUM=/usr/bin/chromium cargo xtask verify-console --shots screenshots

Needs node with npm, and Chromium (Debian's package chromium). Exits with 1 when a test fails.")]
pub(crate) struct Args {
    /// Folder for screenshots
    #[arg(long, value_name = "DIR")]
    shots: Option<PathBuf>,
}

const TESTS: &str = "tests/console";
/// The small model does not know when to end.
const SHORT: &str = "  server: {defaults: {maxTokens: 160}}\n";

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let model = demo_model::obtain()?;
    let wharf = server::build()?;
    let folder = shell::target()?.join("verify-console");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("failed to empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    // Packages are installed beside a copy: nothing is added to the sources.
    let tests = folder.join("tests");
    let from = environment::root().join(TESTS);
    shell::run(Command::new("cp").arg("-r").arg(&from).arg(&tests))?;
    shell::run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&tests))?;
    let shots = args.shots.clone().unwrap_or_else(|| folder.join("shots"));
    std::fs::create_dir_all(&shots).with_context(|| format!("failed to make {}", shots.display()))?;
    let shots = shots.canonicalize().with_context(|| format!("failed to find {}", shots.display()))?;
    let file = demo::write_object(&model, demo::AWAKE, &folder)?;
    let mut object =
        std::fs::OpenOptions::new().append(true).open(&file).context("failed to open the object")?;
    object.write_all(SHORT.as_bytes()).context("failed to write the object")?;
    demo::runtime()?.block_on(async {
        let mut up = Server::up(&wharf, &file, &folder)?;
        let tested = match up.ready().await {
            Ok(_) => {
                let mut test = Command::new("npm");
                test.arg("test").current_dir(&tests).env("WHARF_URL", up.url()).env("WHARF_SHOTS", &shots);
                test.status().context("failed to start npm test")
            }
            Err(error) => Err(error),
        };
        let stopped = up.stop().await;
        let tested = tested.and_then(|status| stopped.map(|()| status))?;
        eprintln!("screenshots are in {}", shots.display());
        Ok(if tested.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
