//! `fake-cluster`: an API server of its own process, for `kubectl` and for programs that are tested as processes.
//!
//! Its first line of output is its URL. With `--actors` Deployments, Pods, EndpointSlices and Jobs do what they do in a cluster: every
//! Pod is a [`FakeEngine`], ready at once, and every Job completes.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};
use wharf_fakes::actors::{self, Actor, Fate, JobFate};
use wharf_fakes::cluster::FakeCluster;
use wharf_fakes::engine::{EngineConfig, FakeEngine};

const HELP: &str = "\
fake-cluster [--port N] [--kubeconfig FILE] [--install GROUP].. [--actors yes]
Prints its URL as the first line, after writing the kubeconfig.";

#[derive(Default)]
struct Options {
    port: u16,
    kubeconfig: Option<String>,
    install: Vec<String>,
    actors: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("failed to serve: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> std::io::Result<()> {
    let Options { port, kubeconfig, install, actors } = options;
    let mut terminate = signal(SignalKind::terminate())?;
    let cluster = FakeCluster::start_on(port).await?;
    install.iter().for_each(|group| cluster.install(group));
    let _actors = if actors { act(&cluster) } else { Vec::new() };
    if let Some(path) = kubeconfig {
        std::fs::write(path, cluster.kubeconfig())?;
    }
    let mut output = std::io::stdout();
    writeln!(output, "{}", cluster.url())?;
    output.flush()?;
    terminate.recv().await;
    Ok(())
}

fn act(cluster: &FakeCluster) -> Vec<Actor> {
    let client = cluster.client();
    let engines: Arc<Mutex<HashMap<String, FakeEngine>>> = Arc::default();
    let kubelet = actors::kubelet(&client, move |pod| {
        let name = pod["metadata"]["name"].as_str().unwrap_or("").to_owned();
        match address(&engines, &name) {
            Some(address) => Fate::runs(address),
            None => Fate::Waits,
        }
    });
    vec![
        actors::deployments(&client),
        actors::endpoints(&client),
        actors::jobs(&client, |_| JobFate::completes()),
        kubelet,
    ]
}

/// Where a Pod's engine listens; it is started when it is first asked for.
fn address(engines: &Arc<Mutex<HashMap<String, FakeEngine>>>, pod: &str) -> Option<SocketAddr> {
    let running = engines.lock().unwrap_or_else(PoisonError::into_inner).get(pod).map(FakeEngine::address);
    if running.is_none() {
        let start = FakeEngine::start(EngineConfig::named(pod));
        // The actor asks from a task of a runtime with several threads.
        let started = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(start));
        let engine = started.ok()?;
        let address = engine.address();
        engines.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.to_owned(), engine);
        return Some(address);
    }
    running
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options::default();
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--port" => options.port = value.parse().map_err(|e| format!("{flag} {value}: {e}"))?,
            "--kubeconfig" => options.kubeconfig = Some(value),
            "--install" => options.install.push(value),
            "--actors" => options.actors = value == "yes",
            _ => return Err(format!("no flag is called {flag}")),
        }
    }
    Ok(options)
}
