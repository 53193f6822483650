//! `wharf validate`: says everything that is wrong with objects, at once.

use std::fmt::Write as _;

use anyhow::{Context, anyhow};
use wharf_api::source::SourceUrl;
use wharf_fetch::Settings;
use wharf_spec::check::memory_target;
use wharf_spec::{Object, Severity};

use super::input::{Files, Objects};
use crate::Env;
use crate::args::Output;
use crate::exit::{self, BadInput, Failure};
use crate::plan;

/// Check LLMService and Model objects: every problem at once, each with its file, line, field and what to do
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wharf validate -f llm.yaml
  wharf validate -f deploy/ -R
  kustomize build . | wharf validate -f -
  wharf validate -f llm.yaml --output json
  wharf validate -f llm.yaml --online

Objects of other groups are left alone. Warnings do not fail unless --strict is given.")]
pub(crate) struct Args {
    #[command(flatten)]
    files: Files,
    /// Also read the headers of models over the network, for what only their size tells: whether weights exceed a memory target
    #[arg(long)]
    online: bool,
    /// Fail on warnings too
    #[arg(long)]
    strict: bool,
    /// Text for people, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    let mut found = args.files.read().bad_input()?;
    weights(args, env, &mut found)?;
    let (errors, warnings) = (found.count(Severity::Error), found.count(Severity::Warning));
    let text = match args.output {
        Output::Text => text(&found),
        Output::Json => {
            let json = serde_json::json!({
                "documents": found.documents.len(), "objects": found.objects.len(), "errors": errors,
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
            counted(found.documents.len(), "document")
        )));
    }
    Ok(())
}

/// Adds what the size of models tells, where it can be known: of files of this machine always, of other sources when asked to.
fn weights(args: &Args, env: &Env, found: &mut Objects) -> Result<(), Failure> {
    for (index, object) in found.objects.iter().enumerate() {
        let Object::Service(service) = object else { continue };
        let spec = &service.spec;
        let (Some(source), Some(_)) = (&spec.model.source, spec.scaling.target.memory) else { continue };
        let local = matches!(source.url(), SourceUrl::File(_));
        if !local && !args.online {
            continue;
        }
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let settings = Settings::from_env(env).bad_input()?;
        let header = plan::header(source.as_str(), &settings)
            .with_context(|| format!("failed to size the model of {name}"))?;
        let scheme = spec.model.optimize.as_ref().and_then(|optimize| optimize.quantize);
        let bytes = plan::weight_bytes(&header, scheme.map(|scheme| scheme.name()))?;
        let pods = u64::from(spec.parallelism.nodes);
        if let Some(sentence) = memory_target(service, bytes / pods) {
            found
                .problems
                .push(found.documents[found.places[index]].error("spec.scaling.target.memory", sentence));
        }
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
