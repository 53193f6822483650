//! Who may call, how much, and what the pods themselves may reach.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scalar::{Count, PortNumber};

/// Who may call, how much, and what the pods themselves may reach.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Access {
    /// Keys that callers must have; anybody who reaches the service may call if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<ApiKeys>,
    /// How much each key, or everybody together where there are none, may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Who may reach the service over the cluster's network; with `expose.direct` everybody in the namespace if empty, otherwise
    /// everybody who may reach the gateway.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allow_from: Vec<PeerFrom>,
    /// What the model pods may reach beside DNS and their own ranks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allow_to: Vec<PeerTo>,
    /// Address ranges that Jobs may fetch models from on port 443, instead of every public address: a proxy or a mirror.
    #[serde(rename = "egressCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub egress_cidrs: Vec<String>,
    /// Who may look at the service's pods, Services and state.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub viewers: Vec<Viewer>,
}

/// Keys that callers must have.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeys {
    /// Name of a Secret in the same namespace: one entry for each key, as `wharf key create` writes them.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// How much may be used.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Requests a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<Count>,
    /// Tokens a minute, of prompts and answers together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<Count>,
    /// Requests at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<Count>,
    /// Tokens a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_day: Option<Count>,
}

/// Pods that may reach the service: all of a namespace, or those of it that have `pods`' labels; or addresses outside the cluster.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "(has(self.namespace) || has(self.namespaceLabels) || has(self.pods)) != has(self.cidr)", "message": "give a namespace (by name or labels), pods, or a cidr"},
    {"rule": "!(has(self.namespace) && has(self.namespaceLabels))", "message": "give namespace or namespaceLabels, not both"}
]))]
pub struct PeerFrom {
    /// Name of the namespace; the service's own if only `pods` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels of the namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_labels: Option<BTreeMap<String, String>>,
    /// Labels of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<BTreeMap<String, String>>,
    /// Range of addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
}

/// Something that model pods may reach.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.namespace) != has(self.cidr)", "message": "give either namespace or cidr"}
]))]
pub struct PeerTo {
    /// Name of a namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Range of addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// TCP port.
    pub port: PortNumber,
}

/// Somebody who may look.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Viewer {
    /// What the name is of.
    pub kind: ViewerKind,
    /// The name.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Namespace of a service account; the service's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Subjects of RBAC.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ViewerKind {
    /// A person.
    User,
    /// A group of persons.
    Group,
    /// A program.
    ServiceAccount,
}

impl ViewerKind {
    /// As RBAC has it.
    pub fn name(self) -> &'static str {
        match self {
            ViewerKind::User => "User",
            ViewerKind::Group => "Group",
            ViewerKind::ServiceAccount => "ServiceAccount",
        }
    }
}
