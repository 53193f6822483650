//! `wharf inspect`: prints what a checkpoint contains. What is worth saying is decided in `wharf_model`.

use std::path::PathBuf;

use anyhow::Context;
use wharf_model::inspect::{Report, TokenizerSummary};
use wharf_model::{Model, Tokenizer};

use super::text::TextSide;
use crate::args::Output;
use crate::exit::{self, BadInput, Failure};

/// Show what a model contains: architecture, tensors, types, sizes, tokenizer, chat template
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wharf inspect model.gguf
  wharf inspect ./Qwen2.5-0.5B-Instruct --output json")]
pub(crate) struct Args {
    /// A GGUF file, or a folder with safetensors as Hugging Face lays it out
    #[arg(value_name = "FILE|DIR")]
    model: PathBuf,
    /// Text for people, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let model = Model::open(&args.model)
        .with_context(|| format!("failed to open the model {}", args.model.display()))
        .bad_input()?;
    let mut report = Report::new(&model);
    match TextSide::read(&model.source) {
        Ok(TextSide { tokenizer, chat_template, kind }) => {
            report.tokenizer = Some(summary(&tokenizer, kind));
            report.chat_template = chat_template.map(|template| {
                let sources: Vec<&str> = template.sources().map(|(_, source)| source).collect();
                sources.join("\n\n")
            });
        }
        // The weights are worth describing even when their text side is missing or unusable.
        Err(error) => eprintln!("note: no tokenizer to describe: {error:#}"),
    }
    let text = match args.output {
        Output::Text => report.to_string(),
        Output::Json => {
            serde_json::to_string_pretty(&report).context("failed to write the report as JSON")?
        }
    };
    exit::print(&format!("{}\n", text.trim_end()))?;
    Ok(())
}

fn summary(tokenizer: &Tokenizer, kind: String) -> TokenizerSummary {
    let tokens = tokenizer.vocab_size();
    let ids = 0..u32::try_from(tokens).unwrap_or(u32::MAX);
    let special_tokens =
        ids.filter(|id| tokenizer.is_special(*id)).map(|id| tokenizer.token_text(id)).collect();
    TokenizerSummary { kind, tokens, special_tokens }
}
