//! `cargo xtask verify-plan`: whether what `wharf plan` forecasts for this machine's CPU is what `wharf serve` then takes and does.
//!
//! Each round plans, starts a server, and asks: a forecast and what became of it are compared within a round, because a shared machine
//! is another one a minute later. The median of the ratios counts.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::bench::served::{self, Ask, Served};
use crate::{demo_model, server, shell};

/// Compare the memory and speed that `wharf plan` forecasts with those of `wharf serve` on this machine
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask verify-plan                        the demo model, five rounds
  cargo xtask verify-plan --model other.gguf --rounds 3 --output report.json

Exits with 1 when memory is more than 10% off, or a rate more than 25%.")]
pub(crate) struct Args {
    /// A model other than the demo's
    #[arg(long, value_name = "FILE|DIR")]
    model: Option<PathBuf>,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Threads that compute; as many as there are CPUs if absent
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Longest sequence of the server.
const CONTEXT: usize = 4096;
/// Words of a prompt that nearly fills it, and tokens that are asked for then.
const LONG: (usize, usize) = (4000, 32);
/// Words of a short prompt: with the answer it is about 128 tokens long in the mean, as the forecast for a short context has it.
const SHORT: (usize, usize) = (64, 128);
/// Words of the prompt whose prefill is timed.
const PROMPT: usize = 512;

/// What is compared, with the bar in percent.
const FIGURES: [(&str, &str, f64); 4] = [
    ("memory", "bytes", 10.0),
    ("prefill", "tokens/s", 25.0),
    ("decode at 128", "tokens/s", 25.0),
    ("decode at 4,096", "tokens/s", 25.0),
];

/// One round: forecast and measured, in the order of [`FIGURES`].
type Round = [(f64, f64); 4];

#[derive(Serialize)]
struct Figure {
    what: &'static str,
    unit: &'static str,
    forecast: f64,
    measured: f64,
    /// Median of forecast by measured.
    ratio: f64,
    held: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let model = match &args.model {
        Some(model) => model.clone(),
        None => demo_model::obtain()?.path,
    };
    let wharf = server::build()?;
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    let mut rounds = Vec::new();
    for index in 0..args.rounds {
        let round = measure(&wharf, &model, threads).context("failed to measure a round")?;
        eprintln!("round {} of {}: {}", index + 1, args.rounds, describe(&round));
        rounds.push(round);
    }
    let figures = figures(&rounds);
    for Figure { what, unit, forecast, measured, ratio, held } in &figures {
        let verdict = if *held { "held" } else { "MISSED" };
        println!(
            "{what:<16} forecast {forecast:>14.1} {unit:<9} measured {measured:>14.1}  ratio {ratio:.3}  {verdict}"
        );
    }
    if let Some(path) = &args.output {
        let text = serde_json::to_string_pretty(&figures).context("failed to write the figures as JSON")?;
        std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))?;
    }
    let met = figures.iter().all(|figure| figure.held);
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn describe(round: &Round) -> String {
    let ratio = |((what, _, _), (forecast, measured)): (&(&str, &str, f64), &(f64, f64))| {
        format!("{what} {:.2}", forecast / measured)
    };
    FIGURES.iter().zip(round).map(ratio).collect::<Vec<_>>().join(", ")
}

fn figures(rounds: &[Round]) -> Vec<Figure> {
    let figure = |(index, (what, unit, percent)): (usize, &(&'static str, &'static str, f64))| {
        let of =
            |part: fn((f64, f64)) -> f64| median(rounds.iter().map(|round| part(round[index])).collect());
        let ratio = of(|(forecast, measured)| forecast / measured);
        Figure {
            what,
            unit,
            forecast: of(|(forecast, _)| forecast),
            measured: of(|(_, measured)| measured),
            ratio,
            held: (ratio - 1.0).abs() <= percent / 100.0,
        }
    };
    FIGURES.iter().enumerate().map(figure).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

fn measure(wharf: &Path, model: &Path, threads: usize) -> anyhow::Result<Round> {
    let threads = threads.to_string();
    let plan = Plan::make(wharf, model, &threads)?;
    let log = shell::target()?.join("verify-plan.log");
    let mut command = Command::new(wharf);
    command.args(["serve", "--threads", &threads, "--host", "127.0.0.1", "--model-name", served::MODEL]);
    command.args(["--max-model-len", &CONTEXT.to_string(), "--max-num-seqs", "1", "--speculation", "off"]);
    command.arg("--model").arg(model);
    let mut server = Served::start(command, &log, |port| {
        vec!["--port".into(), port.to_string(), "--metrics-port".into(), "0".into()]
    })?;
    // The first answer waits for the server to load.
    server.ask(&Ask { prompt: "The capital of France is", tokens: 4 })?;
    let prefill = {
        let asked = Instant::now();
        let answer = server.ask(&Ask { prompt: &served::text(PROMPT, 1), tokens: 1 })?;
        answer.usage.prompt_tokens as f64 / (answer.first - asked).as_secs_f64()
    };
    let short = decode(&mut server, SHORT, 2)?;
    let long = decode(&mut server, LONG, 3)?;
    let memory = server.peak_megabytes()? * 1e6;
    let Plan { memory: planned, prefill: planned_prefill, short: planned_short, long: planned_long } = plan;
    Ok([(planned, memory), (planned_prefill, prefill), (planned_short, short), (planned_long, long)])
}

/// Tokens a second after the first.
fn decode(server: &mut Served, (words, tokens): (usize, usize), seed: usize) -> anyhow::Result<f64> {
    let answer = server.ask(&Ask { prompt: &served::text(words, seed), tokens })?;
    Ok((tokens - 1) as f64 / answer.first.elapsed().as_secs_f64())
}

/// What a plan says that a server can be compared with.
#[derive(Debug, PartialEq)]
struct Plan {
    memory: f64,
    prefill: f64,
    short: f64,
    long: f64,
}

impl Plan {
    fn make(wharf: &Path, model: &Path, threads: &str) -> anyhow::Result<Plan> {
        let mut command = Command::new(wharf);
        command.arg("plan").arg(model).args(["--threads", threads, "--output", "json"]);
        command.args(["--context", &CONTEXT.to_string(), "--streams", "1"]);
        Plan::read(&shell::output(&mut command)?)
    }

    fn read(json: &str) -> anyhow::Result<Plan> {
        #[derive(Deserialize)]
        struct Report {
            placements: Vec<Placement>,
        }
        #[derive(Deserialize)]
        struct Placement {
            footprint: Footprint,
            forecast: Forecast,
        }
        #[derive(Deserialize)]
        struct Footprint {
            peak: f64,
        }
        #[derive(Deserialize)]
        struct Forecast {
            prefill: Vec<Point>,
            decode: Vec<Point>,
        }
        #[derive(Deserialize)]
        struct Point {
            context: usize,
            tokens_per_second: f64,
        }
        let report: Report = serde_json::from_str(json).context("failed to read the plan")?;
        let [placement] = &report.placements[..] else { bail!("the plan is not for one machine") };
        let at = |points: &[Point], context: usize| {
            let point = points.iter().find(|point| point.context == context);
            let point = point.with_context(|| format!("the plan has no figure for {context} tokens"))?;
            anyhow::Ok(point.tokens_per_second)
        };
        Ok(Plan {
            memory: placement.footprint.peak,
            prefill: at(&placement.forecast.prefill, PROMPT)?,
            short: at(&placement.forecast.decode, 128)?,
            long: at(&placement.forecast.decode, CONTEXT)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_from_its_json() {
        let point =
            |context, rate| format!(r#"{{"context": {context}, "tokens_per_second": {rate}, "streams": 1}}"#);
        let json = format!(
            r#"{{"placements": [{{"footprint": {{"peak": 5}}, "forecast": {{"prefill": [{}], "decode": [{}, {}]}}}}]}}"#,
            point(512, 1),
            point(128, 2),
            point(4096, 3)
        );
        let expected = Plan { memory: 5.0, prefill: 1.0, short: 2.0, long: 3.0 };
        assert_eq!(Plan::read(&json).unwrap(), expected);
        assert!(Plan::read(&json.replace("512", "511")).is_err());
    }

    #[test]
    fn the_median_ratio_decides() {
        let rounds = [1.0, 5.0, 1.09].map(|memory| [(memory, 1.0), (0.75, 1.0), (1.25, 1.0), (1.3, 1.0)]);
        let held: Vec<bool> = figures(&rounds).iter().map(|figure| figure.held).collect();
        assert_eq!(held, [true, true, true, false]);
    }
}
