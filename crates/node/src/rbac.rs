//! The rights that the agent needs of a cluster: its node's labels, and no more.

use serde_json::{Value, json};

/// The ClusterRole of the agent, as Kubernetes takes it. Nodes have no narrower right: a ValidatingAdmissionPolicy can bind it to its own.
pub fn cluster_role(name: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "wharf"}},
        "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"]}],
    })
}
