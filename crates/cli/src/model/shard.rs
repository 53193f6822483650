//! `wharf shard`: cuts a model so that each rank of a group reads its own part alone.

use std::path::PathBuf;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use wharf_model::Model;
use wharf_model::shard::{Cut, ShardPlan, Steps, folder};

use crate::args::Output;
use crate::exit::{self, BadInput, Failure};

/// Cut a model into one file for each tensor-parallel rank
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wharf shard model.gguf --tensor 2 -o model-2
  wharf serve --model model-2 --tensor-parallel 2

DIR gets manifest.json and rank-0.weights, rank-1.weights and so on. A rank on a host of its own needs the manifest, its
own file and the small files of the tokenizer. Quantised weights are cut at their blocks, never changed.")]
pub(crate) struct Args {
    /// A GGUF file, or a folder with safetensors as Hugging Face lays it out
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Ranks to cut it for
    #[arg(long, value_name = "N")]
    tensor: usize,
    /// Folder to write; it must not exist
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Text for people, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let model = Model::open(&args.model)
        .with_context(|| format!("failed to open the model {}", args.model.display()))
        .bad_input()?;
    let steps = Steps::of(&model.config, &model.weights);
    let plan =
        ShardPlan::new(&model.config, steps, args.tensor).context("failed to cut the model").bad_input()?;
    let style = ProgressStyle::with_template("cutting {bar:32} {pos}/{len} weights, {eta} left");
    let bar = ProgressBar::new(0).with_style(style.expect("well-formed"));
    let mut progress = |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    folder::write(&model, &plan, wharf_ranks::model_digest(&model), &args.out, &mut progress).map_err(
        |error| match error {
            folder::ShardFileError::Exists(_) => Failure::BadInput(error.into()),
            error => Failure::Failed(error.into()),
        },
    )?;
    bar.finish_and_clear();
    Ok(exit::print(&report(args, &plan)?)?)
}

fn report(args: &Args, plan: &ShardPlan) -> anyhow::Result<String> {
    let sizes = (0..plan.ranks.len()).map(|rank| {
        let path = args.out.join(format!("rank-{rank}.weights"));
        let metadata = std::fs::metadata(&path);
        Ok(metadata.with_context(|| format!("failed to look at {}", path.display()))?.len())
    });
    let sizes = sizes.collect::<anyhow::Result<Vec<u64>>>()?;
    match args.output {
        Output::Json => {
            let ranks: Vec<_> = plan
                .ranks
                .iter()
                .zip(&sizes)
                .map(|(rank, bytes)| json!({"bytes": bytes, "share": rank}))
                .collect();
            Ok(format!("{}\n", json!({"folder": args.out, "ranks": ranks})))
        }
        Output::Text => {
            let lines = plan.ranks.iter().zip(&sizes).enumerate().map(|(rank, (share, bytes))| {
                let wide = |cut: &Cut| match cut {
                    Cut::Rows(range) | Cut::Columns(range) => range.len(),
                    Cut::Whole => 0,
                };
                format!(
                    "rank {rank}: {:.1} MB, query heads {:?}, KV heads {:?}, {} of the feed-forward, {} tokens\n",
                    *bytes as f64 / 1e6,
                    share.heads,
                    share.kv_heads,
                    wide(&share.cut(wharf_model::Role::Down)),
                    share.vocab.len()
                )
            });
            Ok(lines.collect())
        }
    }
}
