//! Names of objects.

use super::Findings;
use crate::scalar::LabelName;
use crate::{LLMService, Model};

/// Last words that parts of a service have: a service whose own name ended in one could take another's place. The CRD's rule has
/// the same list.
pub(crate) const RESERVED: &[&str] = &[
    "pods", "direct", "external", "metrics", "blue", "green", "cache", "fetch", "workers", "epp", "viewers",
];

pub(super) fn service(object: &LLMService, findings: &mut Findings<'_>) {
    name(object.metadata.name.as_deref(), findings);
    let name = object.metadata.name.as_deref().unwrap_or_default();
    if let Some((_, last)) = name.rsplit_once('-')
        && RESERVED.contains(&last)
    {
        let message = format!("must not end in \"-{last}\": Wharf gives that name to a part of a service");
        findings.error("metadata.name", message);
    }
}

pub(super) fn model(object: &Model, findings: &mut Findings<'_>) {
    name(object.metadata.name.as_deref(), findings);
}

fn name(name: Option<&str>, findings: &mut Findings<'_>) {
    match name.map(LabelName::parse) {
        None => findings.error("metadata.name", "is required"),
        Some(Err(message)) => findings.error("metadata.name", message),
        Some(Ok(_)) => {}
    }
}
