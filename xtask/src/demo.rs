//! `cargo xtask demo`: from nothing to a service of a real model that answers, falls asleep and wakes, with its console.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::demo_model::{self, DemoModel};
use crate::server::{self, Server};
use crate::{environment, shell};

/// Obtain a small model, build, run it as a service, ask it a question, keep it running
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask demo                     run until Ctrl-C: chat in the console, watch it fall asleep and wake
  cargo xtask demo --once              exit after it has answered, slept and woken
  WHARF_DEMO_MODEL=model.gguf cargo xtask demo

The model is downloaded once into WHARF_CACHE (default: wharf in the user's cache folder).")]
pub(crate) struct Args {
    /// Exit after it has answered, slept and woken
    #[arg(long)]
    once: bool,
}

const QUESTION: &str = "What is the capital of France?";
/// What the pinned model answers with.
pub(crate) const ANSWER: &str = "Paris";
/// Without it this small model likes to answer questions about France in French, and then at random.
const SYSTEM: &str = "Answer in English.";
/// What the demonstration serves, but for where the model comes from.
const OBJECT: &str = "examples/quickstart.yaml";
/// Seconds after which nobody has called: long enough to read, short enough to see it.
const IDLE_AFTER: (u32, u32) = (30, 2);
/// Seconds that outlast any test.
pub(crate) const AWAKE: u32 = 3600;
/// How long it may take to fall asleep.
const ASLEEP_WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let model = demo_model::obtain()?;
    let wharf = server::build()?;
    show(&wharf, &model, args.once)
}

/// Runs the service, asks, and with `once` stops after it has slept; else runs on until Ctrl-C.
pub(crate) fn show(wharf: &Path, model: &DemoModel, once: bool) -> anyhow::Result<ExitCode> {
    let idle_after = if once { IDLE_AFTER.1 } else { IDLE_AFTER.0 };
    let folder = folder()?;
    let file = write_object(model, idle_after, &folder)?;
    runtime()?.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
        let mut hangup = signal(SignalKind::hangup()).context("failed to listen for SIGHUP")?;
        let mut up = Server::up(wharf, &file, &folder, &[])?;
        let demo = Demo { wharf, state: folder.join("state"), model, once };
        let shown = tokio::select! {
            shown = demo.ask_and_run(&mut up) => shown.map(|()| ExitCode::SUCCESS),
            _ = interrupt.recv() => Ok(interrupted(once)),
            _ = terminate.recv() => Ok(interrupted(once)),
            _ = hangup.recv() => Ok(interrupted(once)),
        };
        let stopped = up.stop().await;
        // The first error is the one to tell.
        shown.and_then(|code| stopped.map(|()| code))
    })
}

/// Where the demonstration keeps its state.
fn folder() -> anyhow::Result<PathBuf> {
    let folder = shell::target()?.join("demo");
    // What an earlier demonstration released is not gone on with.
    let state = folder.join("state");
    if state.exists() {
        std::fs::remove_dir_all(&state).with_context(|| format!("failed to empty {}", state.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    Ok(folder)
}

/// Writes what is served into a folder.
pub(crate) fn write_object(model: &DemoModel, idle_after: u32, folder: &Path) -> anyhow::Result<PathBuf> {
    let file = folder.join("llm.yaml");
    std::fs::write(&file, object(model, idle_after)?)
        .with_context(|| format!("failed to write {}", file.display()))?;
    Ok(file)
}

/// The object of the example with another source, which may fall asleep.
fn object(model: &DemoModel, idle_after: u32) -> anyhow::Result<String> {
    let path = environment::root().join(OBJECT);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let model =
        model.path.canonicalize().with_context(|| format!("failed to find {}", model.path.display()))?;
    let mut object = String::new();
    for line in text.lines() {
        match line.split_once("source: ") {
            Some((indent, _)) => object.push_str(&format!("{indent}source: file://{}\n", model.display())),
            None => object.push_str(&format!("{line}\n")),
        }
    }
    object.push_str(&format!(
        "  scaling: {{min: 0, max: 2, target: {{concurrency: 8}}, idleAfter: {idle_after}s}}\n"
    ));
    Ok(object)
}

/// Ending an endless demo is its normal end; cutting off `--once` is not.
fn interrupted(once: bool) -> ExitCode {
    eprintln!("\nletting the service end");
    if once { ExitCode::from(130) } else { ExitCode::SUCCESS }
}

struct Demo<'a> {
    wharf: &'a Path,
    state: PathBuf,
    model: &'a DemoModel,
    once: bool,
}

impl Demo<'_> {
    async fn ask_and_run(&self, up: &mut Server) -> anyhow::Result<()> {
        let took = up.ready().await?;
        eprintln!("the gateway answers after {:.2} s at {}", took.as_secs_f64(), up.url());
        println!("\n({SYSTEM})\n> {QUESTION}");
        let answer = ask(self.wharf, &up.url()).await.with_context(|| up.log_tail())?;
        if self.model.pinned && !answer.contains(ANSWER) {
            bail!("the answer to \"{QUESTION}\" does not mention {ANSWER}");
        }
        if self.once {
            return self.sleep_and_wake(up).await;
        }
        println!("\nConsole:  {}/console", up.url());
        println!("Try it yourself:\n{}\n", curl(&up.url()));
        println!(
            "Or talk to it: {} chat {}\nIt falls asleep after {} s without a request, and wakes with the next one. Ctrl-C ends it.",
            self.wharf.display(),
            up.url(),
            IDLE_AFTER.0,
        );
        let status = up.ended().await?;
        bail!("the service ended by itself with {status}\n{}", up.log_tail())
    }

    /// Waits until the service has no replica, and asks again.
    async fn sleep_and_wake(&self, up: &Server) -> anyhow::Result<()> {
        let began = Instant::now();
        while !self.is_asleep().await? {
            if began.elapsed() > ASLEEP_WITHIN {
                bail!("it did not fall asleep within {} s\n{}", ASLEEP_WITHIN.as_secs(), up.log_tail());
            }
            sleep(Duration::from_millis(100)).await;
        }
        println!("\n(asleep: no replica runs)\n> {QUESTION}");
        let asked = Instant::now();
        ask(self.wharf, &up.url()).await.with_context(|| up.log_tail())?;
        println!("\nwoken and answered in {:.2} s", asked.elapsed().as_secs_f64());
        Ok(())
    }

    /// Whether nothing of the service runs.
    async fn is_asleep(&self) -> anyhow::Result<bool> {
        let mut ps = Command::new(self.wharf);
        ps.args(["ps", "--output", "json", "--state"]).arg(&self.state);
        let output = ps.output().await.context("failed to run wharf ps")?;
        if !output.status.success() {
            bail!("wharf ps ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        let overview: Value = serde_json::from_slice(&output.stdout).context("failed to read wharf ps")?;
        let facts = &overview["services"][0]["facts"];
        Ok(facts["phase"] == "Idle" && facts["replicas"].as_array().is_some_and(Vec::is_empty))
    }
}

/// Arguments of a `wharf` that asks for one answer.
pub(crate) fn question(url: &str) -> [&str; 10] {
    ["chat", url, "--system", SYSTEM, "--prompt", QUESTION, "--max-tokens", "80", "--temperature", "0"]
}

/// Streams one answer to the terminal; `wharf chat` prints its speed after it.
async fn ask(wharf: &Path, url: &str) -> anyhow::Result<String> {
    let mut chat = Command::new(wharf)
        .args(question(url))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("failed to start wharf chat")?;
    let mut from = chat.stdout.take().expect("standard output is piped");
    let mut to = std::io::stdout();
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let n = from.read(&mut buffer).await.context("failed to read the answer")?;
        if n == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..n]);
        to.write_all(&buffer[..n]).and_then(|()| to.flush()).context("failed to print the answer")?;
    }
    let status = chat.wait().await.context("failed to wait for wharf chat")?;
    if !status.success() {
        bail!("wharf chat ended with {status}");
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn curl(url: &str) -> String {
    format!(
        "curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\\n  \
         -d '{{\"model\": \"assistant\", \"messages\": [{{\"role\": \"user\", \"content\": \"Name three rivers.\"}}], \"stream\": true}}'"
    )
}

/// One thread is enough to look after two children.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the asynchronous runtime")
}
