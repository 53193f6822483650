//! From what is written to what is wanted: the children of a model and where its files will be. Calls nobody.

use kube::api::DynamicObject;
use serde_json::Value;
use wharf_manifests::{Mode, model, model_place};
use wharf_spec::Object;
use wharf_spec::service::{ModelState, ModelStatus};

use crate::apply::own;
use crate::context::Context;
use crate::live::mark;
use crate::service::{Refusal, checked};

/// What is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) generation: i64,
    /// Where the files are in their volume when all Jobs are done.
    pub(super) path: String,
    /// To be applied in this order.
    pub(super) children: Vec<Value>,
    /// To be started one after the other; none where the files are there already.
    pub(super) jobs: Vec<Value>,
    /// The status as it is.
    pub(super) before: ModelStatus,
}

pub(super) fn validate(context: &Context, object: &DynamicObject) -> Result<Wanted, Refusal> {
    let Object::Model(written) = checked(context, object)? else {
        return Err(Refusal { reason: "InvalidSpec", message: "it is no Model".to_owned() });
    };
    let before = before(object);
    let (_, path) = model_place(&written);
    let mut all = model(&written, &context.settings, Mode::Managed);
    for child in &mut all {
        own(object, child);
        mark(child);
    }
    let (mut jobs, children): (Vec<Value>, Vec<Value>) =
        all.into_iter().partition(|child| child["kind"] == "Job");
    // An upgrade of Wharf gives Jobs other names; what was made and judged is not made again.
    if before.phase == Some(ModelState::Ready) && before.path.as_deref() == Some(&path) {
        jobs.clear();
    }
    Ok(Wanted { generation: object.metadata.generation.unwrap_or(0), path, children, jobs, before })
}

/// The status as it is; what cannot be read of it is made anew.
pub(super) fn before(object: &DynamicObject) -> ModelStatus {
    serde_json::from_value(object.data["status"].clone()).unwrap_or_default()
}
