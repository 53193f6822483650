//! `wharf bench serve`: puts load on an OpenAI endpoint and reports what it delivers.
//!
//! This file decides what the command accepts. `workload` decides what is asked and when, `load` sends it,
//! `report` turns samples into numbers, `plot` draws them.

mod load;
mod plot;
mod progress;
mod report;
pub(crate) mod scale;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::ArgGroup;

use self::report::Report;
use self::workload::{Lengths, Pace, Workload};
use crate::Env;
use crate::args::Output;
use crate::exit::{self, BadInput, Failure};
use crate::openai::{self, Client};

/// Measure a server under load: time to first token, latency between tokens, throughput
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, allow_negative_numbers = true, group = ArgGroup::new("pace"), group = ArgGroup::new("end").multiple(true))]
pub(crate) struct Args {
    /// Address of any server with an OpenAI API
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Name of the model to ask for; needed only when the server has several
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,
    /// Closed loop: so many requests at a time, the next one when one ends [default: 8]
    #[arg(long, value_name = "N", group = "pace")]
    concurrency: Option<usize>,
    /// Open loop: requests per second on average, at random times, however slowly the server answers
    #[arg(long, value_name = "R", group = "pace")]
    rate: Option<f64>,
    /// Send so many requests [default: 100, unless --duration is given]
    #[arg(long, value_name = "N", group = "end")]
    requests: Option<usize>,
    /// Send requests for so many seconds
    #[arg(long, value_name = "S", group = "end")]
    duration: Option<f64>,
    /// Words per prompt, about a token each: `128`, `64..256` (uniform) or `128~32` (normal, mean~deviation)
    #[arg(long, value_name = "LENGTHS", default_value = "128")]
    prompt_tokens: Lengths,
    /// Tokens to generate per answer, in the same forms
    #[arg(long, value_name = "LENGTHS", default_value = "64")]
    output_tokens: Lengths,
    /// Words that all prompts begin with, in addition, to exercise prefix caching
    #[arg(long, value_name = "N", default_value_t = 0)]
    shared_prefix: usize,
    /// Let answers end early instead of asking for exactly so many tokens (`ignore_eos` is an extension that
    /// some servers refuse)
    #[arg(long)]
    natural_end: bool,
    /// Requests sent before measuring, one after the other
    #[arg(long, value_name = "N", default_value_t = 1)]
    warmup: usize,
    /// Repeats the same prompts, lengths and times
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Give up on a request after so many seconds
    #[arg(long, value_name = "S", default_value_t = 600.0)]
    timeout: f64,
    /// File whose first line is the API key [default: the variable OPENAI_API_KEY, if set]
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// A table, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    /// Also draw the latency distributions and the throughput over time
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  wharf bench serve                                        8 at a time, 100 requests, this machine's server
  wharf bench serve --concurrency 32 --requests 500 --plot load.svg
  wharf bench serve --rate 4 --duration 60 --prompt-tokens 64..512 --output-tokens 128~32
  wharf bench serve https://llm.example.com --shared-prefix 1000 --output json > load.json

With --rate a request's latency counts from the moment at which it should have been sent, so a slow server
cannot make itself look fast by delaying the load. The exit code is 1 when every request failed.";

/// Runs the command to its end.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    let workload = workload(args).bad_input()?;
    let timeout = seconds("--timeout", args.timeout).bad_input()?;
    let key = openai::read_api_key(args.api_key_file.as_deref(), env).bad_input()?;
    let client = Client::new(&args.url, key, Some(timeout)).bad_input()?;
    if let Some(path) = &args.plot {
        // Half an hour of load must not be lost to a mistyped folder.
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("failed to create the plot {}", path.display()))
            .bad_input()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the asynchronous runtime")?;
    let (report, interrupted) = runtime.block_on(async {
        let model = openai::choose_model(&client, args.model_name.as_deref()).await?;
        let run = load::run(&client, &model, &workload, args.warmup).await?;
        let report = Report::new(client.base(), &model, &workload, &run);
        anyhow::Ok((report, run.interrupted))
    })?;
    match args.output {
        Output::Text => exit::print(&report.table())?,
        Output::Json => {
            let document =
                serde_json::to_string_pretty(&report).context("failed to write the report as JSON")?;
            exit::print(&format!("{document}\n"))?;
        }
    }
    if let Some(path) = &args.plot {
        plot::draw(&report, path)?;
        eprintln!("drew {}", path.display());
    }
    if interrupted {
        return Err(Failure::Interrupted);
    }
    if report.requests.succeeded == 0 {
        return Err(anyhow!("none of {} requests succeeded", report.requests.sent).into());
    }
    Ok(())
}

fn workload(args: &Args) -> anyhow::Result<Workload> {
    let pace = match (args.rate, args.concurrency) {
        (Some(rate), _) if rate.is_finite() && rate > 0.0 => Pace::Open { rate },
        (Some(rate), _) => return Err(anyhow!("--rate must be a positive number, not {rate}")),
        (None, Some(0)) => return Err(anyhow!("--concurrency must be at least 1")),
        (None, concurrency) => Pace::Closed { concurrency: concurrency.unwrap_or(8) },
    };
    let duration = args.duration.map(|s| seconds("--duration", s)).transpose()?;
    let requests = match (args.requests, duration) {
        (Some(0), _) => return Err(anyhow!("--requests must be at least 1")),
        (None, None) => Some(100),
        (requests, _) => requests,
    };
    Ok(Workload {
        pace,
        requests,
        duration,
        prompt_words: args.prompt_tokens,
        output_tokens: args.output_tokens,
        shared_prefix: args.shared_prefix,
        ignore_eos: !args.natural_end,
        seed: args.seed,
    })
}

fn seconds(flag: &str, given: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(given)
        .ok()
        .filter(|d| !d.is_zero())
        .ok_or_else(|| anyhow!("{flag} must be a positive number of seconds, not {given}"))
}
