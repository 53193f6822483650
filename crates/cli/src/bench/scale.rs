//! `wharf bench scale`: scaling policies against traffic, in simulation. Decides what can be said on the command line; the simulator is
//! `wharf_autoscaler::sim`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use wharf_autoscaler::sim::{Scenario, Traffic, simulate};

use crate::args::Output;
use crate::exit::{self, BadInput, Failure};

/// Simulate how policies of scaling follow traffic: replicas, waiting, what came too late
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// File with a scenario; see --print-scenario
    #[arg(value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Policy to simulate: native, hpa, kpa, static; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    policy: Vec<String>,
    /// Traffic in a file: a line for each request with seconds, prompt tokens and answer tokens, separated by commas
    #[arg(long, value_name = "FILE.csv")]
    trace: Option<PathBuf>,
    /// Hours to simulate
    #[arg(long, value_name = "H")]
    hours: Option<f64>,
    /// Repeats the same requests and start times
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Fewest replicas
    #[arg(long, value_name = "N")]
    min: Option<u32>,
    /// Most replicas
    #[arg(long, value_name = "N")]
    max: Option<u32>,
    /// A table, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    /// Also draw replicas, queue and late answers over time
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print the scenario as JSON, to be changed and given back, and stop
    #[arg(long)]
    print_scenario: bool,
}

const EXAMPLES: &str = "\
Examples:
  wharf bench scale                                   an hour of chat traffic, all policies
  wharf bench scale --policy native --policy hpa --hours 2 --plot scale.svg
  wharf bench scale --print-scenario > mine.json && wharf bench scale mine.json
  wharf bench scale --trace requests.csv --max 20 --output json

The traffic is made from published statistics of real services; the guide autoscaling.md tells which.";

/// Runs the command to its end.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let scenario = scenario(args).bad_input()?;
    if args.print_scenario {
        let text = serde_json::to_string_pretty(&scenario).context("failed to write the scenario")?;
        return Ok(exit::print(&format!("{text}\n"))?);
    }
    let report = simulate(&scenario).bad_input()?;
    let text = match args.output {
        Output::Text => report.table(),
        Output::Json => report.to_json() + "\n",
    };
    exit::print(&text)?;
    if let Some(path) = &args.plot {
        let svg = report.svg().context("failed to draw the report")?;
        std::fs::write(path, svg).with_context(|| format!("failed to write {}", path.display()))?;
        eprintln!("drew {}", path.display());
    }
    Ok(())
}

fn scenario(args: &Args) -> anyhow::Result<Scenario> {
    let mut scenario = match &args.scenario {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("failed to read the scenario {}", path.display()))?;
            serde_json::from_str(&text)
                .with_context(|| format!("failed to understand the scenario {}", path.display()))?
        }
        None => Scenario::default(),
    };
    if let Some(path) = &args.trace {
        scenario.traffic = Traffic::Trace { path: path.clone() };
    }
    if let Some(hours) = args.hours {
        scenario.duration = Duration::try_from_secs_f64(hours * 3600.0)
            .ok()
            .filter(|duration| !duration.is_zero())
            .with_context(|| format!("--hours must be a positive number, not {hours}"))?;
    }
    scenario.seed = args.seed.unwrap_or(scenario.seed);
    scenario.policy.min = args.min.unwrap_or(scenario.policy.min);
    scenario.policy.max = args.max.unwrap_or(scenario.policy.max);
    if !args.policy.is_empty() {
        scenario.compare.clone_from(&args.policy);
    }
    Ok(scenario)
}
