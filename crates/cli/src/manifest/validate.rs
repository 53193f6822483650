//! `wharf validate`: says everything that is wrong with objects, at once.

use std::fmt::Write as _;

use anyhow::{Context, anyhow};
use wharf_spec::Severity;

use super::input::{Files, Objects};
use crate::args::Output;
use crate::exit::{self, BadInput, Failure};

/// Check LLMService and Model objects: every problem at once, each with its file, line, field and what to do
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wharf validate -f llm.yaml
  wharf validate -f deploy/ -R
  kustomize build . | wharf validate -f -
  wharf validate -f llm.yaml --output json

Objects of other groups are left alone. Warnings do not fail unless --strict is given.")]
pub(crate) struct Args {
    #[command(flatten)]
    files: Files,
    /// Fail on warnings too
    #[arg(long)]
    strict: bool,
    /// Text for people, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let found = args.files.read().bad_input()?;
    let (errors, warnings) = (found.count(Severity::Error), found.count(Severity::Warning));
    let text = match args.output {
        Output::Text => text(&found),
        Output::Json => {
            let json = serde_json::json!({
                "documents": found.documents, "objects": found.objects.len(), "errors": errors,
                "warnings": warnings, "problems": found.problems, "others": found.foreign,
            });
            serde_json::to_string_pretty(&json).context("failed to write the problems as JSON")? + "\n"
        }
    };
    exit::print(&text)?;
    if errors > 0 {
        return Err(Failure::BadInput(anyhow!("{}", counted(errors, "error"))));
    }
    if args.strict && warnings > 0 {
        return Err(Failure::BadInput(anyhow!("{}, with --strict", counted(warnings, "warning"))));
    }
    if found.objects.is_empty() {
        let advice = "their apiVersion is wharf.dev/v1alpha1";
        return Err(Failure::BadInput(anyhow!(
            "no LLMService or Model among {}; {advice}",
            counted(found.documents, "document")
        )));
    }
    Ok(())
}

fn text(found: &Objects) -> String {
    let mut text = String::new();
    for problem in &found.problems {
        writeln!(text, "{problem}").expect("a string takes everything");
    }
    if found.count(Severity::Error) == 0 {
        let valid = counted(found.objects.len(), "valid object");
        let others = match found.foreign.len() {
            0 => String::new(),
            more => format!(", {} left alone", counted(more, "other")),
        };
        writeln!(text, "{valid}{others}").expect("a string takes everything");
    }
    text
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
