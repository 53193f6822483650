//! The CustomResourceDefinitions, from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{LLMService, Model};

/// The one default that the API server itself must fill in: the scale subresource reads an absent field as 0.
const KEPT_DEFAULT: &str = "/properties/spec/properties/replicas";

/// Every CustomResourceDefinition, as JSON. Other defaults than those that Kubernetes needs are left out, so that they are not
/// written into objects and an upgrade may better them.
pub fn crds() -> Vec<Value> {
    [LLMService::crd(), Model::crd()].iter().map(without_defaults).collect()
}

/// The same as YAML, for `kubectl apply`.
pub fn yaml() -> String {
    let documents = crds().into_iter().map(|crd| {
        let body = serde_saphyr::to_string(&crd).expect("JSON has a form in YAML");
        format!("---\n{body}")
    });
    documents.collect()
}

/// The schema of the objects of a kind, defaults included.
pub fn schema(kind: Kind) -> Value {
    let crd = match kind {
        Kind::LLMService => LLMService::crd(),
        Kind::Model => Model::crd(),
    };
    let crd = serde_json::to_value(crd).expect("a definition has a form in JSON");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Our kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A service.
    LLMService,
    /// A model.
    Model,
}

/// Every kind, with its name.
pub const KINDS: &[(&str, Kind)] = &[("LLMService", Kind::LLMService), ("Model", Kind::Model)];

fn without_defaults(crd: &CustomResourceDefinition) -> Value {
    let mut crd = serde_json::to_value(crd).expect("a definition has a form in JSON");
    let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let kept = schema.pointer(KEPT_DEFAULT).map(|property| property["default"].clone());
    strip(schema);
    if let (Some(kept), Some(property)) = (kept, schema.pointer_mut(KEPT_DEFAULT)) {
        property["default"] = kept;
    }
    crd
}

/// Removes `default` from every property of `schema`, however deep.
fn strip(schema: &mut Value) {
    let Value::Object(schema) = schema else { return };
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for property in properties.values_mut() {
            if let Value::Object(property) = property {
                property.remove("default");
            }
            strip(property);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(key) {
            strip(inner);
        }
    }
}

#[cfg(test)]
mod tests;
