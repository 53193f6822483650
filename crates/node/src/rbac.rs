//! The rights that the agent needs of a cluster: its node's labels, and, where it tells of models, pods. No more.

use serde_json::{Value, json};

/// The ClusterRole of the agent, as Kubernetes takes it. Nodes have no narrower right: a ValidatingAdmissionPolicy can bind it to its own.
/// `serving`: with `exporter.serving`. The right to see pods cannot be kept to a node either; the agent asks for its own node's alone.
pub fn cluster_role(name: &str, serving: bool) -> Value {
    let mut rules = vec![json!({"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"]})];
    if serving {
        rules.push(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}));
    }
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "wharf"}},
        "rules": rules,
    })
}
