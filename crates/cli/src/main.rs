//! The `wharf` binary: parses the command line, runs one command, turns its outcome into an exit code.
//!
//! Nothing is decided here. The environment is read once and handed on as a map, and the TLS provider is
//! installed once, for the client and the server alike.

mod args;
mod bench;
mod chat;
mod distill;
mod doctor;
mod epp;
mod exit;
mod fetch;
mod gateway;
mod job;
mod key;
mod manifest;
mod meter;
mod metrics_api;
mod model;
mod node_agent;
mod openai;
mod operator;
mod optimize;
mod plan;
#[cfg(test)]
mod reference;
mod runtime;
mod serve;
mod stop;
mod traces;
mod up;

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{BenchCommand, Cli, Command};
use crate::exit::Failure;

/// The process environment as text; variables that are not UTF-8 cannot be configuration of ours.
pub(crate) type Env = BTreeMap<String, String>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("nothing installs a TLS provider before main does");
    let env: Env = std::env::vars_os()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .collect();
    exit::report(run(cli, &env))
}

fn run(cli: Cli, env: &Env) -> Result<(), Failure> {
    match cli.command {
        Command::Up(args) => up::run(*args, env),
        Command::Ps(args) => up::ps(&args, env),
        Command::Logs(args) => up::logs(&args, env),
        Command::Scale(args) => up::scale(&args, env),
        Command::Rollout(args) => up::rollout(&args, env),
        Command::Down(args) => up::down(&args, env),
        Command::RunChild(args) => up::run_child(&args),
        Command::Serve(args) => serve::run(&args, env),
        Command::Gateway(args) => gateway::run(&args, env),
        Command::Operator(args) => operator::run(&args, env),
        Command::NodeAgent(args) => node_agent::run(&args, env),
        Command::MetricsApi(args) => metrics_api::run(&args, env),
        Command::Doctor(args) => doctor::run(&args),
        Command::Epp(args) => epp::run(&args),
        Command::Key(args) => key::run(&args),
        Command::Chat(args) => chat::run(&args, env),
        Command::Validate(args) => manifest::validate::run(&args, env),
        Command::Render(args) => manifest::render::run(&args),
        Command::Crd(args) => manifest::crd::run(&args),
        Command::Fetch(args) => fetch::run(&args, env),
        Command::Inspect(args) => model::inspect::run(&args),
        Command::Plan(args) => plan::run(&args, env),
        Command::Quantize(args) => optimize::quantize::run(&args),
        Command::Eval(args) => optimize::eval::run(&args),
        Command::Shard(args) => model::shard::run(&args),
        Command::Distill(args) => distill::run(&args),
        Command::Bench(args) => match args.command {
            BenchCommand::Serve(args) => bench::run(&args, env),
            BenchCommand::Scale(args) => bench::scale::run(&args),
        },
    }
}
