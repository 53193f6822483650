//! `cargo xtask demo`: from nothing to a streamed answer of a real model.

use std::io::Write;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, bail};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::demo_model::{self, DemoModel};
use crate::server::{self, Server};

/// Obtain a small model, build, serve it, ask it a question, keep serving
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask demo                     serve until Ctrl-C
  cargo xtask demo --once              exit after the answer
  WHARF_DEMO_MODEL=model.gguf cargo xtask demo

The model is downloaded once into WHARF_CACHE (default: wharf in the user's cache folder).")]
pub(crate) struct Args {
    /// Exit after the answer
    #[arg(long)]
    once: bool,
}

const QUESTION: &str = "What is the capital of France?";
const ANSWER: &str = "Paris";
/// Without it this small model likes to answer questions about France in French, and then at random.
const SYSTEM: &str = "Answer in English.";

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let model = demo_model::obtain()?;
    let wharf = server::build()?;
    show(&wharf, &model, args.once)
}

/// Serves, asks, and with `once` stops; else serves on until Ctrl-C.
pub(crate) fn show(wharf: &Path, model: &DemoModel, once: bool) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
        let mut hangup = signal(SignalKind::hangup()).context("failed to listen for SIGHUP")?;
        let mut server = Server::start(wharf, model)?;
        let shown = tokio::select! {
            shown = ask_and_serve(&mut server, wharf, model, once) => shown.map(|()| ExitCode::SUCCESS),
            _ = interrupt.recv() => Ok(interrupted(once)),
            _ = terminate.recv() => Ok(interrupted(once)),
            _ = hangup.recv() => Ok(interrupted(once)),
        };
        let stopped = server.stop().await;
        // The first error is the one to tell.
        shown.and_then(|code| stopped.map(|()| code))
    })
}

/// Ending an endless demo is its normal end; cutting off `--once` is not.
fn interrupted(once: bool) -> ExitCode {
    eprintln!("\nstopping the server");
    if once { ExitCode::from(130) } else { ExitCode::SUCCESS }
}

async fn ask_and_serve(
    server: &mut Server,
    wharf: &Path,
    model: &DemoModel,
    once: bool,
) -> anyhow::Result<()> {
    let took = server.ready().await?;
    eprintln!("ready after {:.2} s at {}", took.as_secs_f64(), server.url());
    println!("\n({SYSTEM})\n> {QUESTION}");
    let answer = ask(wharf, &server.url()).await.with_context(|| server.log_tail())?;
    if model.pinned && !answer.contains(ANSWER) {
        bail!("the answer to \"{QUESTION}\" does not mention {ANSWER}");
    }
    println!("\nTry it yourself:\n{}\n", curl(&server.url()));
    if once {
        return Ok(());
    }
    println!("Or talk to it: {} chat {}\nServing until Ctrl-C.", wharf.display(), server.url());
    let status = server.ended().await?;
    bail!("the server ended by itself with {status}\n{}", server.log_tail())
}

/// Streams one answer to the terminal; `wharf chat` prints its speed after it.
async fn ask(wharf: &Path, url: &str) -> anyhow::Result<String> {
    let args =
        ["chat", url, "--system", SYSTEM, "--prompt", QUESTION, "--max-tokens", "80", "--temperature", "0"];
    let mut chat = Command::new(wharf)
        .args(args)
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
         -d '{{\"messages\": [{{\"role\": \"user\", \"content\": \"Name three rivers.\"}}], \"stream\": true}}'"
    )
}

/// One thread is enough to look after two children.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the asynchronous runtime")
}
