//! `wharf crd`: prints the CustomResourceDefinitions.

use anyhow::Context;

use crate::args::Output;
use crate::exit::{self, Failure};

/// Print the CustomResourceDefinitions of LLMService and Model
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wharf crd | kubectl apply --server-side -f -
  wharf crd --output json")]
pub(crate) struct Args {
    /// YAML for kubectl, or a JSON list
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let text = match args.output {
        Output::Text => wharf_spec::crd::yaml(),
        Output::Json => {
            let json = serde_json::to_string_pretty(&wharf_spec::crd::crds());
            json.context("failed to write the definitions as JSON")? + "\n"
        }
    };
    Ok(exit::print(&text)?)
}
