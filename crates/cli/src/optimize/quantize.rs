//! `wharf quantize`: a smaller file of the same model, kept only if it is good enough.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, anyhow};
use serde::Serialize;
use wharf_engine::cpu::CpuOptions;
use wharf_model::Model;
use wharf_optimize::eval::{EvalReport, Judged, Windows};
use wharf_optimize::quantize::{
    self, Calibrates, Plan, Progress, Report, RunError, RunOptions, SCHEMES, Scheme, Written,
};
use wharf_spec::job::{JobResult, REFUSED};
use wharf_spec::service::Quality;

use super::eval::{at_least_one, window};
use super::gate::{Gate, Share};
use super::judge::{self, Bench, Text};
use crate::args::Output;
use crate::exit::{self, BadInput as _, Failure};
use crate::job;
use crate::meter::Meter;
use crate::stop;

/// Make a model smaller: fewer bits for each weight, and a check of what that costs
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model: a GGUF file, or a folder with safetensors as Hugging Face lays it out
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// Where the new model goes; nothing may be there
    #[arg(short, long, value_name = "OUT")]
    out: PathBuf,
    /// What the weights become
    #[arg(long, value_name = "SCHEME", value_parser = scheme, help = scheme_help())]
    scheme: Scheme,
    /// Look first at what this text sends into each matrix, and round by that [text default: a text that is built in]
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    calibrate: Option<Option<PathBuf>>,
    /// For a job that may be started again: succeed when OUT is there
    #[arg(long)]
    retry: bool,
    /// Compare the new model with the old one on this text
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Keep nothing if perplexity rises by more than this: 2% or 0.02 [text default: a short one that is built in]
    #[arg(long, value_name = "SHARE")]
    gate_ppl: Option<Share>,
    /// Keep nothing if the mean KL divergence from the old model is larger, in nats
    #[arg(long, value_name = "NATS", value_parser = nats)]
    gate_kl: Option<f64>,
    /// Tokens of a window of the comparison
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = window)]
    window: usize,
    /// Compare on so many windows at most
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    windows: Option<usize>,
    /// Threads that compute [default: one per core]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
    #[command(flatten)]
    job: job::JobArgs,
    /// Text for people, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

const EXAMPLES: &str = "\
Examples:
  wharf quantize model-f16.gguf -o model-q8.gguf --scheme q8_0
  wharf quantize model-f16.gguf -o model-q4.gguf --scheme q4_k_m --text wiki.test.txt
  wharf quantize model-f16.gguf -o model-q4.gguf --scheme q4_k_m --calibrate --gate-ppl 2% --gate-kl 0.02
  wharf quantize ./model -o ./model-int8 --scheme int8

q… make a GGUF file, the others a folder that vLLM reads. Until it is whole and good enough it is called OUT.partial. The same command goes on where it was stopped.
A gate that is missed ends with exit code 1 and leaves nothing.";

fn scheme(name: &str) -> Result<Scheme, String> {
    name.parse::<Scheme>().map_err(|error| error.to_string())
}

fn scheme_help() -> String {
    let names: Vec<&str> = SCHEMES.iter().map(|(name, _)| *name).collect();
    format!("What the weights become: {}", names.join(", "))
}

fn nats(given: &str) -> Result<f64, String> {
    let number = given.parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0);
    number.ok_or_else(|| "expected a number that is not negative".to_owned())
}

/// Everything that is known in the end.
#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    report: Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    evaluation: Option<EvalReport>,
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if args.retry && args.out.exists() {
        eprintln!("{} is there already", args.out.display());
        return Ok(());
    }
    args.job.open()?;
    let model = judge::open(&args.source)?;
    let gate = Gate { perplexity: args.gate_ppl, divergence: args.gate_kl };
    let threads = args.threads.unwrap_or(CpuOptions::default().threads);
    let stop = stop::flag()?;
    let bench = match args.text.is_some() || !gate.is_open() {
        // The text is cut first: one that is too short must not cost the time of quantising.
        true => {
            let text = Text::read(args.text.as_deref())?;
            let windows = text.windows(&model, args.window, args.windows)?;
            Some((text.name, Bench { windows, threads, stop: &stop }))
        }
        false => None,
    };
    let plan = Plan::new(&model, args.scheme)
        .with_context(|| format!("failed to plan {} for {}", args.scheme, args.source.display()))
        .bad_input()?;
    let started = Instant::now();
    let windows = calibration(args, &model)?;
    let options = RunOptions { threads, calibration: windows.as_ref(), stop: &stop };
    let written = write(args, &model, &plan, options)?;
    let report = Report::new(args.scheme, &model, &written, started.elapsed());
    let evaluation = bench.map(|(text, bench)| compare(args, model, &written, text, &bench)).transpose()?;
    let wrong =
        evaluation.as_ref().map(|evaluation| gate.refuse(&evaluation.models[0].metrics)).unwrap_or_default();
    let refused = !wrong.is_empty();
    let result = result(&report, evaluation.as_ref());
    let finish = if refused { written.discard() } else { written.commit() };
    finish.with_context(|| format!("failed to finish {}", args.out.display()))?;
    let outcome = Outcome { report, evaluation };
    match args.output {
        Output::Text => {
            exit::print(&outcome.report.to_string())?;
            if let Some(evaluation) = &outcome.evaluation {
                exit::print(&format!("\n{evaluation}"))?;
            }
        }
        Output::Json => {
            let document =
                serde_json::to_string_pretty(&outcome).context("failed to write the report as JSON")?;
            exit::print(&format!("{document}\n"))?;
        }
    }
    match refused {
        true => Err(anyhow!("{} {REFUSED}: {}", args.out.display(), wrong.join("; ")).into()),
        false => args.job.done(&result),
    }
}

/// What whoever runs this as a Job wants to know.
fn result(report: &Report, evaluation: Option<&EvalReport>) -> JobResult {
    let metrics = evaluation.map(|evaluation| &evaluation.models[0].metrics);
    let comparison = metrics.and_then(|metrics| metrics.comparison.as_ref());
    let quality = |perplexity, kl_divergence| Quality { perplexity, kl_divergence };
    JobResult {
        bytes: i64::try_from(report.bytes_after).ok(),
        before: comparison.map(|comparison| quality(comparison.reference_perplexity.value, None)),
        after: metrics.map(|metrics| {
            quality(metrics.perplexity.value, comparison.map(|comparison| comparison.kl_mean.value))
        }),
    }
}

/// What the scheme is calibrated on; `None` for nothing.
fn calibration(args: &Args, model: &Model) -> Result<Option<Windows>, Failure> {
    let path = match (args.scheme.calibrates(), &args.calibrate) {
        (Calibrates::Never, Some(_)) => {
            let error = anyhow!("--calibrate changes nothing for {}; leave it out", args.scheme);
            return Err(Failure::BadInput(error));
        }
        (Calibrates::Never | Calibrates::IfGiven, None) => return Ok(None),
        (Calibrates::Always, None) => None,
        (_, Some(path)) => path.as_deref(),
    };
    Text::read(path)?.windows(model, args.window, args.windows).map(Some)
}

fn write(args: &Args, model: &Model, plan: &Plan, options: RunOptions<'_>) -> Result<Written, Failure> {
    let mut meter = Meter::new("quantising");
    let started = Instant::now();
    let mut first = None;
    let outcome = quantize::run(model, plan, &args.out, options, &mut |progress| {
        let Progress { what, done, total } = progress;
        let since = done - *first.get_or_insert(done);
        meter.set(done, total, || {
            let millions = since as f64 / 1e6 / started.elapsed().as_secs_f64();
            format!("{millions:.1} M weights/s, {what}")
        });
    });
    drop(meter);
    outcome.map_err(|error| {
        let bad_input =
            matches!(error, RunError::Exists { .. } | RunError::NotFinite { .. } | RunError::Calibration(_));
        let stopped = matches!(error, RunError::Stopped { .. });
        if stopped {
            eprintln!("{error}");
            return Failure::Interrupted;
        }
        let error =
            anyhow::Error::from(error).context(format!("failed to quantise {}", args.source.display()));
        if bad_input { Failure::BadInput(error) } else { Failure::Failed(error) }
    })
}

fn compare(
    args: &Args,
    model: Model,
    written: &Written,
    text: String,
    bench: &Bench<'_>,
) -> Result<EvalReport, Failure> {
    let new = judge::open(written.path())?;
    let bytes = new.info.bytes;
    let mut reference = bench.load(model)?;
    let mut backend = bench.load(new)?;
    let judged: Judged =
        bench.judge(&args.out.display().to_string(), bytes, &mut backend, Some(&mut reference))?;
    Ok(EvalReport {
        text,
        window: bench.windows.size(),
        windows: bench.windows.iter().len(),
        reference: Some(args.source.display().to_string()),
        models: vec![judged],
    })
}
