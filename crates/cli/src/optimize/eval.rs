//! `wharf eval`: how good models are on a text, alone or beside a reference.

use std::path::PathBuf;

use anyhow::Context;
use wharf_engine::cpu::CpuOptions;
use wharf_optimize::eval::EvalReport;

use super::judge::{self, Bench, Text};
use crate::args::Output;
use crate::exit::{self, BadInput as _, Failure};
use crate::stop;

/// Judge models on a text: perplexity, and beside a reference KL divergence and agreement
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Models to judge: GGUF files or Hugging Face folders
    #[arg(value_name = "MODEL", required = true)]
    models: Vec<PathBuf>,
    /// Text to judge on [default: a short one that is built in]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Compare with this model, usually the one that the others were made from
    #[arg(long, value_name = "MODEL")]
    reference: Option<PathBuf>,
    /// Tokens that are read from an empty context; the second half of them is judged
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = window)]
    window: usize,
    /// Judge on so many windows at most
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    windows: Option<usize>,
    /// Threads that compute [default: one per core]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
    /// Text for people, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    /// Also write a page that compares the models
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  wharf eval model.gguf --text wiki.test.txt
  wharf eval q8.gguf q4.gguf --reference f16.gguf --text wiki.test.txt --html compare.html
  wharf eval ./model-int8 --reference ./model --windows 50 --output json

Windows, judged tokens and metrics are those of llama.cpp's llama-perplexity, so that figures can be compared.
± is a standard error.";

pub(super) fn at_least_one(given: &str) -> Result<usize, String> {
    given.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected a whole number from 1 on".to_owned())
}

pub(super) fn window(given: &str) -> Result<usize, String> {
    given.parse().ok().filter(|n| *n >= 4).ok_or_else(|| "expected a whole number from 4 on".to_owned())
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let text = Text::read(args.text.as_deref())?;
    // Every path is looked at before the first model takes minutes.
    let models = args.models.iter().map(|path| judge::open(path)).collect::<Result<Vec<_>, _>>()?;
    let reference = args.reference.as_deref().map(judge::open).transpose()?;
    let first = reference.as_ref().unwrap_or(&models[0]);
    let windows = text.windows(first, args.window, args.windows)?;
    if let Some(path) = &args.html {
        std::fs::File::create(path)
            .with_context(|| format!("failed to create the page {}", path.display()))
            .bad_input()?;
    }
    let stop = stop::flag()?;
    let bench =
        Bench { windows, threads: args.threads.unwrap_or(CpuOptions::default().threads), stop: &stop };
    let mut reference = reference.map(|model| bench.load(model)).transpose()?;
    let mut report = EvalReport {
        text: text.name.clone(),
        window: bench.windows.size(),
        windows: bench.windows.iter().len(),
        reference: args.reference.as_ref().map(|path| path.display().to_string()),
        models: Vec::new(),
    };
    for (path, model) in args.models.iter().zip(models) {
        let bytes = model.info.bytes;
        let mut backend = bench.load(model)?;
        report.models.push(bench.judge(
            &path.display().to_string(),
            bytes,
            &mut backend,
            reference.as_mut(),
        )?);
    }
    match args.output {
        Output::Text => exit::print(&report.to_string())?,
        Output::Json => {
            let document =
                serde_json::to_string_pretty(&report).context("failed to write the report as JSON")?;
            exit::print(&format!("{document}\n"))?;
        }
    }
    if let Some(path) = &args.html {
        std::fs::write(path, report.html())
            .with_context(|| format!("failed to write the page {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}
