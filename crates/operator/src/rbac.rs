//! The rights that the operator needs, beside the code that uses them: tests compare them with the calls that it makes.

use serde_json::{Value, json};

/// A rule: group, kinds, verbs.
type Rule = (&'static str, &'static [&'static str], &'static [&'static str]);

/// Server-side apply asks for `create` too where there is nothing yet.
const CHILDREN: &[&str] = &["list", "watch", "create", "patch", "delete"];

const RULES: &[Rule] = &[
    // `get` here and below is handed on to the Roles of viewers and endpoint pickers.
    ("wharf.dev", &["llmservices", "models"], &["get", "list", "watch"]),
    // An owner reference that blocks the owner's deletion asks for it, where that is enforced.
    ("wharf.dev", &["llmservices/finalizers", "models/finalizers"], &["update"]),
    ("wharf.dev", &["llmservices/status", "models/status"], &["patch"]),
    ("wharf.dev", &["llmservices/scale"], &["patch"]),
    ("", &["pods"], &["get", "list", "watch"]),
    ("", &["services"], &["get"]),
    ("", &["serviceaccounts", "configmaps", "services"], CHILDREN),
    // What took hours to make goes only with its owner.
    ("", &["persistentvolumeclaims"], &["list", "watch", "create", "patch"]),
    ("apps", &["deployments"], CHILDREN),
    ("apps", &["deployments/scale"], &["patch"]),
    ("batch", &["jobs"], CHILDREN),
    ("discovery.k8s.io", &["endpointslices"], CHILDREN),
    ("networking.k8s.io", &["networkpolicies", "ingresses"], CHILDREN),
    ("policy", &["poddisruptionbudgets"], CHILDREN),
    ("autoscaling", &["horizontalpodautoscalers"], CHILDREN),
    ("rbac.authorization.k8s.io", &["roles", "rolebindings"], CHILDREN),
    ("leaderworkerset.x-k8s.io", &["leaderworkersets"], CHILDREN),
    ("leaderworkerset.x-k8s.io", &["leaderworkersets/scale"], &["patch"]),
    ("keda.sh", &["scaledobjects"], CHILDREN),
    ("gateway.networking.k8s.io", &["httproutes"], CHILDREN),
    ("inference.networking.k8s.io", &["inferencepools"], &["get"]),
    ("inference.networking.k8s.io", &["inferencepools"], CHILDREN),
    ("monitoring.coreos.com", &["servicemonitors", "prometheusrules"], CHILDREN),
    ("events.k8s.io", &["events"], &["create"]),
    ("coordination.k8s.io", &["leases"], &["get", "create", "update"]),
];

/// What an operator needs beside that to foresee whether a second version has room (`foreseeRoom` of the settings).
const FORESEES: &[Rule] = &[("", &["nodes"], &["list", "watch"])];

/// The ClusterRole of the operator, as Kubernetes takes it; of one that foresees room if asked.
pub fn cluster_role(name: &str, foresees: bool) -> Value {
    let rule =
        |(group, kinds, verbs): &Rule| json!({"apiGroups": [group], "resources": kinds, "verbs": verbs});
    let beside = if foresees { FORESEES } else { &[] };
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "wharf"}},
        "rules": RULES.iter().chain(beside).map(rule).collect::<Vec<Value>>(),
    })
}
