//! From `LLMService` and `Model` to Kubernetes objects.
//!
//! A pure function of the object, the installation's settings and, for a service, the versions that there are of it: the operator
//! applies what `wharf render` prints. Labels, ports and names are said once, in `names`; a child object is one file in
//! `children` and one line in a list; an engine is one file in `launch`. Nothing here talks to a cluster.

mod artifacts;
mod children;
mod facts;
mod launch;
mod merge;
pub mod names;
mod places;
mod process;
mod recipe;
mod settings;
mod stored;
mod version;

use serde_json::Value;
use wharf_spec::{LLMService, Model};

pub use children::print_yaml;
pub use facts::Facts;
pub use launch::{Config, Launch};
pub use merge::strategic_merge;
pub use places::Places;
pub use process::{Process, process, revision};
pub use recipe::Step;
pub use settings::{Peer, Settings};
pub use stored::{Stored, is_made, made_in, model_makes, model_needs, service_needs};
pub use version::{Colour, State, Version};

/// Who else is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Wharf's operator and gateway: traffic goes through the gateway, and the operator scales and releases.
    Managed,
    /// Nobody: Services select the pods, autoscalers scale Deployments.
    Standalone,
    /// No cluster: processes of one machine, behind a gateway.
    Local,
}

/// A service cannot be rendered as asked.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{path}: {message}")]
pub struct RenderError {
    /// The field at fault.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// The objects of a service, in the order in which they are best applied.
///
/// # Errors
/// When the service asks for something that `mode` does not have. A service that [`wharf_spec::check()`] has found faults in
/// gives objects that Kubernetes may refuse.
pub fn service(
    object: &LLMService,
    state: &State,
    settings: &Settings,
    mode: Mode,
) -> Result<Vec<Value>, RenderError> {
    let facts = Facts::new(object, state, settings, mode, Places::pod())?;
    let mut objects = children::of_service(&facts);
    for (kind, patch) in object.spec.overrides.patches() {
        for object in objects.iter_mut().filter(|object| object["kind"] == kind) {
            strategic_merge(object, &Value::Object(patch.clone()));
        }
    }
    Ok(objects)
}

/// The objects of a model, in the order in which they are best applied.
pub fn model(object: &Model, settings: &Settings, mode: Mode) -> Vec<Value> {
    children::of_model(object, settings, mode)
}

/// Where a model is when its Jobs are done: the name of the claim, and the path in it. Another source or recipe is another path.
pub fn model_place(object: &Model) -> (String, String) {
    children::place_of_model(object)
}

/// The Job of a Model that removes what nothing needs any more. `mark` tells it from earlier ones for the same files.
pub fn removal(object: &Model, stored: &Stored, mark: &str, settings: &Settings) -> Value {
    children::removal(object, stored, mark, settings)
}

#[cfg(test)]
mod tests;
