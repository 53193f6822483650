//! `wharf render`: prints every Kubernetes object that follows from services and models.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use wharf_manifests::{Mode, State};
use wharf_spec::{Object, Severity};

use super::input::Files;
use crate::args::Output;
use crate::exit::{self, BadInput, Failure};
use crate::operator::settings;

/// Print every Kubernetes object that follows from LLMService and Model objects
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wharf render -f llm.yaml
  wharf render -f llm.yaml --standalone | kubectl apply -f -
  wharf render -f llm.yaml --standalone -n llm > manifests.yaml
  wharf render -f deploy/ -R --output json

The objects are those that the operator applies, in the order in which they are best applied. Nothing is read but the files: no cluster,
no model. --standalone gives a set for clusters without Wharf's operator and gateway: Services select the pods, autoscalers scale
Deployments, and Jobs and pods wait for the files that they need.")]
pub(crate) struct Args {
    #[command(flatten)]
    files: Files,
    /// Print a set that works without Wharf's operator and gateway
    #[arg(long)]
    standalone: bool,
    /// Namespace of objects that do not say theirs
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Image of Wharf itself [default: the one of this version]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// File with the installation's settings (images, gateway, DNS, scaler), in YAML
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// YAML for kubectl, or a JSON list
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut settings = args.settings.as_deref().map(settings).transpose().bad_input()?.unwrap_or_default();
    if let Some(image) = &args.image {
        settings.image.clone_from(image);
    }
    let mode = if args.standalone { Mode::Standalone } else { Mode::Managed };
    let found = args.files.read().bad_input()?;
    for problem in &found.problems {
        eprintln!("{problem}");
    }
    let errors = found.count(Severity::Error);
    if errors > 0 {
        return Err(Failure::BadInput(anyhow!("nothing is rendered before the errors above are mended")));
    }
    if found.objects.is_empty() {
        return Err(Failure::BadInput(anyhow!("no LLMService or Model in the files")));
    }
    let mut objects = Vec::new();
    for object in found.objects {
        match object {
            Object::Service(mut service) => {
                let namespace = &mut service.metadata.namespace;
                *namespace = namespace.take().or_else(|| args.namespace.clone());
                let name = service.metadata.name.clone().unwrap_or_default();
                let rendered = wharf_manifests::service(&service, &State::fresh(&service), &settings, mode);
                objects.extend(
                    rendered.with_context(|| format!("failed to render LLMService {name}")).bad_input()?,
                );
            }
            Object::Model(mut model) => {
                let namespace = &mut model.metadata.namespace;
                *namespace = namespace.take().or_else(|| args.namespace.clone());
                objects.extend(wharf_manifests::model(&model, &settings, mode));
            }
            Object::Foreign(..) => {}
        }
    }
    let text = match args.output {
        Output::Text => wharf_manifests::print_yaml(&objects),
        Output::Json => {
            serde_json::to_string_pretty(&objects).context("failed to write the objects as JSON")? + "\n"
        }
    };
    Ok(exit::print(&text)?)
}
