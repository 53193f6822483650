//! What an override may not change: what other objects find a child by.

use super::Findings;
use crate::LLMService;

/// Paths that hold a set of objects together.
const FIXED: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata/name",
    "metadata/namespace",
    "metadata/ownerReferences",
    "spec/selector",
];

pub(super) fn service(object: &LLMService, findings: &mut Findings<'_>) {
    let Ok(serde_json::Value::Object(all)) = serde_json::to_value(&object.spec.overrides) else { return };
    for (field, patch) in &all {
        for fixed in FIXED {
            let path = format!("spec.overrides.{field}.{}", fixed.replace('/', "."));
            let given = patch.pointer(&format!("/{fixed}")).is_some();
            findings.require(!given, &path, "cannot be overridden: other objects rely on it");
        }
    }
}
