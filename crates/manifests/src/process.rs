//! A service as processes of one machine: how its model is made and how its engine is started, from the same recipe and launch as its pods.

use serde_json::{Value, json};
use wharf_spec::LLMService;

use crate::artifacts::Store;
use crate::children::pod_template;
use crate::facts::Facts;
use crate::launch::Launch;
use crate::names::{Part, digest_of};
use crate::recipe::{self, Step};
use crate::{Colour, Mode, Places, RenderError, Settings, State};

/// How a service runs without a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// What makes its model, in order.
    pub steps: Vec<Step>,
    /// Where the model is then.
    pub model: String,
    /// How its engine is started.
    pub launch: Launch,
}

/// A service as processes, with its files in `places`. A `ref` must have been replaced by what its Model says.
///
/// # Errors
/// When the service asks for something that one machine does not have.
pub fn process(object: &LLMService, places: Places) -> Result<Process, RenderError> {
    let spec = &object.spec;
    let error =
        |path: &str, message: &str| Err(RenderError { path: path.to_owned(), message: message.to_owned() });
    let Some(source) = &spec.model.source else {
        return error("spec.model.ref", "names a Model that is in none of the files");
    };
    if spec.parallelism.nodes > 1 {
        return error("spec.parallelism.nodes", "one machine is one node; leave it out, or use a cluster");
    }
    let (settings, state) = (Settings::default(), State::fresh(object));
    let facts = Facts::new(object, &state, &settings, Mode::Local, places)?;
    let (store, digest) = (Store(&facts.places), spec.model.digest.as_ref().map(|digest| digest.as_str()));
    let optimize = spec.model.optimize.as_ref();
    let mut steps = recipe::steps(store, source, digest, optimize, &facts.artifact);
    // What lies in a volume is served where it lies.
    steps.retain(|step| step.verb != "copy");
    steps
        .extend(spec.model.adapters.iter().filter_map(|adapter| recipe::fetch(store, &adapter.source, None)));
    Ok(Process { steps, model: facts.artifact.path.clone(), launch: facts.launch().clone() })
}

/// Stands for everything of a service whose change restarts its processes; scaling, access and observability are not in it.
///
/// # Errors
/// As [`process`].
pub fn revision(object: &LLMService, settings: &Settings, mode: Mode) -> Result<String, RenderError> {
    let state = State::fresh(object);
    let facts = Facts::new(object, &state, settings, mode, Places::pod())?;
    let model = &object.spec.model;
    let config: Option<&Value> = facts.launch().config.as_ref().map(|config| &config.data);
    let template = pod_template(&facts, Colour::Blue, Part::Server);
    Ok(digest_of(&json!([template, model.source, model.digest, config])))
}
