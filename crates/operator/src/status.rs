//! What the status of an object says, and writing it. The sentences are decided here, purely; [`write`] is the one thing that calls.

use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use wharf_cluster::api;
use wharf_spec::service::{Condition, ConditionStatus};

use crate::MANAGER;
use crate::context::{Context, Followed};
use crate::error::Error;

/// Something that holds, or does not, and why.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Says {
    pub(crate) kind: &'static str,
    pub(crate) holds: bool,
    /// In one word.
    pub(crate) reason: String,
    /// In a sentence.
    pub(crate) message: String,
}

impl Says {
    pub(crate) fn new(
        kind: &'static str,
        holds: bool,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Says {
        Says { kind, holds, reason: reason.into(), message: message.into() }
    }
}

/// Conditions as they are to be written: those that hold as they did keep their time.
pub(crate) fn conditions(
    before: &[Condition],
    says: Vec<Says>,
    generation: i64,
    now_ms: u64,
) -> Vec<Condition> {
    let condition = |says: Says| {
        let status = if says.holds { ConditionStatus::True } else { ConditionStatus::False };
        let same = before.iter().find(|before| before.kind == says.kind && before.status == status);
        Condition {
            kind: says.kind.to_owned(),
            status,
            reason: says.reason,
            message: says.message,
            last_transition_time: same
                .map_or_else(|| rfc3339(now_ms), |same| same.last_transition_time.clone()),
            observed_generation: Some(generation),
        }
    };
    says.into_iter().map(condition).collect()
}

/// A moment as Kubernetes writes it, in seconds.
pub(crate) fn rfc3339(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).unwrap_or(0);
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

/// What the last look could not do, for everybody to read.
pub(crate) fn applied(trouble: Option<&(String, String)>) -> Option<Says> {
    trouble.map(|(reason, message)| Says::new("Applied", false, reason.clone(), message.clone()))
}

/// Whether the watch still shows what was there before our last write. Acting on it would repeat what is done, or undo it.
pub(crate) fn is_stale(context: &Context, object: &DynamicObject) -> bool {
    let (Some(uid), Some(version)) = (&object.metadata.uid, &object.metadata.resource_version) else {
        return false;
    };
    let mut memory = context.memory();
    match memory.written.get(uid) {
        Some((before, _)) if before == version => true,
        Some(_) => {
            memory.written.remove(uid);
            false
        }
        None => false,
    }
}

/// Writes the status of an object that nobody has changed since it was read.
///
/// # Errors
/// With code 409 when somebody has, and whatever else the API server says.
pub(crate) async fn write(
    context: &Context,
    followed: &Followed,
    object: &DynamicObject,
    status: &Value,
) -> Result<(), Error> {
    let resource = &followed.resource;
    let metadata = &object.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    let body = json!({
        "apiVersion": resource.api_version, "kind": resource.kind,
        "metadata": {"name": name, "namespace": metadata.namespace, "resourceVersion": metadata.resource_version},
        "status": status,
    });
    let api = api(&context.client, metadata.namespace.as_deref(), resource);
    let params = PatchParams::apply(MANAGER).force();
    let written = api
        .patch_status(name, &params, &Patch::Apply(&body))
        .await
        .map_err(|error| Error::call("write the status of", &resource.kind, name, error))?;
    let versions = (metadata.resource_version.clone(), written.metadata.resource_version);
    if let (Some(uid), (Some(before), Some(after))) = (&metadata.uid, versions)
        && before != after
    {
        context.memory().written.insert(uid.clone(), (before, after));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_holds_as_before_keeps_its_time() {
        let says = |holds| vec![Says::new("Ready", holds, "Word", "a sentence")];
        let first = conditions(&[], says(false), 1, 1_000);
        assert_eq!(first[0].last_transition_time, "1970-01-01T00:00:01Z");
        let second = conditions(&first, says(false), 2, 5_000);
        assert_eq!(second[0].last_transition_time, first[0].last_transition_time);
        let third = conditions(&second, says(true), 2, 9_000);
        assert_eq!(third[0].last_transition_time, "1970-01-01T00:00:09Z");
    }
}
