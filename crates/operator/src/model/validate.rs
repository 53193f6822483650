//! From what is written to what is wanted: the children of a model and where its files will be. Calls nobody.

use kube::api::DynamicObject;
use serde_json::Value;
use wharf_manifests::{Mode, Stored, model, model_makes, model_place};
use wharf_spec::service::{ModelState, ModelStatus};
use wharf_spec::{Model, Object};

use crate::apply::own;
use crate::context::Context;
use crate::live::mark;
use crate::service::{Refusal, checked};

/// What is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) model: Box<Model>,
    pub(super) generation: i64,
    /// Where the files are in their volume when all Jobs are done.
    pub(super) path: String,
    /// To be applied in this order.
    pub(super) children: Vec<Value>,
    /// What each Job makes, in their order.
    pub(super) makes: Vec<Stored>,
    /// To be started one after the other; none where the files are there already.
    pub(super) jobs: Vec<Value>,
    /// What was made lies in another volume than what is wanted.
    pub(super) moves: bool,
    /// The status as it is.
    pub(super) before: ModelStatus,
}

pub(super) fn validate(context: &Context, object: &DynamicObject) -> Result<Wanted, Refusal> {
    let Object::Model(written) = checked(context, object)? else {
        return Err(Refusal { reason: "InvalidSpec", message: "it is no Model".to_owned() });
    };
    let before = before(object);
    let ((claim, path), makes) = (model_place(&written), model_makes(&written));
    let moves = moves(&before, &claim);
    let mut all = model(&written, &context.settings, Mode::Managed);
    for child in &mut all {
        own(object, child);
        mark(child);
    }
    let (mut jobs, children): (Vec<Value>, Vec<Value>) =
        all.into_iter().partition(|child| child["kind"] == "Job");
    // An upgrade of Wharf gives Jobs other names; what was made and judged is not made again.
    if before.phase == Some(ModelState::Ready) && before.path.as_deref() == Some(&path) && !moves {
        jobs.clear();
    }
    let generation = object.metadata.generation.unwrap_or(0);
    Ok(Wanted { model: written, generation, path, children, makes, jobs, moves, before })
}

/// Whether what is served lies in another claim than this one. Where it lies an older Wharf did not say; then it has not moved.
fn moves(before: &ModelStatus, claim: &str) -> bool {
    let Some(served) = before.path.as_deref().and_then(|path| path.split('/').next()) else { return false };
    let lies = before.artifacts.iter().filter(|artifact| artifact.name == served);
    let claims: Vec<&str> = lies.map(|artifact| artifact.claim.as_str()).collect();
    !claims.is_empty() && !claims.contains(&claim)
}

/// The status as it is; what cannot be read of it is made anew.
pub(super) fn before(object: &DynamicObject) -> ModelStatus {
    serde_json::from_value(object.data["status"].clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use wharf_spec::service::ArtifactStatus;

    use super::*;

    #[test]
    fn a_model_moves_when_its_claim_is_another_than_that_of_its_files() {
        let lies = |claim: &str, name: &str| ArtifactStatus {
            claim: claim.to_owned(),
            name: name.to_owned(),
            ..ArtifactStatus::default()
        };
        let status = |artifacts: Vec<ArtifactStatus>| ModelStatus {
            path: Some("source-1/a.gguf".to_owned()),
            artifacts,
            ..ModelStatus::default()
        };
        assert!(!moves(&status(vec![]), "new"));
        assert!(!moves(&status(vec![lies("new", "source-1")]), "new"));
        assert!(!moves(&status(vec![lies("old", "source-2")]), "new"));
        assert!(moves(&status(vec![lies("old", "source-1")]), "new"));
        assert!(!moves(&status(vec![lies("old", "source-1"), lies("new", "source-1")]), "new"));
    }
}
