//! Decides what the command line looks like: one variant per command, each with its own arguments beside
//! the code that reads them.

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    bench, chat, distill, doctor, epp, fetch, gateway, key, manifest, metrics_api, model, node_agent,
    operator, optimize, plan, serve, up,
};

/// From raw weights to a served model, in one binary
#[derive(Parser)]
#[command(name = "wharf", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 success, 1 failure, 2 bad input or usage, 130 interrupted.";

#[derive(Subcommand)]
pub(crate) enum Command {
    Up(Box<up::Args>),
    Ps(up::PsArgs),
    Logs(up::LogsArgs),
    Scale(up::ScaleArgs),
    Rollout(up::RolloutArgs),
    Down(up::DownArgs),
    Serve(serve::Args),
    Gateway(gateway::Args),
    Operator(operator::Args),
    NodeAgent(node_agent::Args),
    MetricsApi(Box<metrics_api::Args>),
    Epp(epp::Args),
    Doctor(doctor::Args),
    Key(Box<key::Args>),
    Chat(chat::Args),
    Validate(manifest::validate::Args),
    Render(manifest::render::Args),
    Crd(manifest::crd::Args),
    Fetch(Box<fetch::Args>),
    Inspect(model::inspect::Args),
    Plan(Box<plan::Args>),
    Quantize(optimize::quantize::Args),
    Eval(optimize::eval::Args),
    Shard(model::shard::Args),
    Distill(Box<distill::Args>),
    Bench(BenchArgs),
    RunChild(up::ChildArgs),
}

/// Whether `kubectl wharf …` called us: then commands that steer mean the cluster.
pub(crate) fn is_kubectl_plugin() -> bool {
    let name = std::env::args_os().next();
    let name = name.as_deref().and_then(|path| std::path::Path::new(path).file_name());
    name.is_some_and(|name| name == "kubectl-wharf")
}

/// Put load on a part of Wharf and report what it delivers
#[derive(clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    Serve(bench::Args),
    Scale(bench::scale::Args),
}

/// What a command prints on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// One JSON document for programs
    Json,
}

/// How the lines of a log look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogStyle {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl From<LogStyle> for wharf_telemetry::log::Format {
    fn from(style: LogStyle) -> Self {
        match style {
            LogStyle::Text => wharf_telemetry::log::Format::Text,
            LogStyle::Json => wharf_telemetry::log::Format::Json,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        fn check(command: &clap::Command) {
            if command.get_subcommands().next().is_none() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Examples:"), "`{}` has no examples in its help", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
