//! The rights that the metrics API needs, beside the code that uses them: tests compare them with the calls that it makes.

use serde_json::{Value, json};

use crate::apis::Api;

/// The ClusterRole of a server that serves these APIs. Its own role is called `name`: it may read that to become its APIServices' owner.
pub fn cluster_role(name: &str, apis: &[Api]) -> Value {
    let rule = |group: &str, kinds: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": kinds, "verbs": verbs});
    let named = |group: &str, kinds: &[&str], names: &[String], verbs: &[&str]| {
        let mut rule = rule(group, kinds, verbs);
        rule["resourceNames"] = json!(names);
        rule
    };
    let services: Vec<String> = apis.iter().map(|api| api.service_name()).collect();
    let mut rules = vec![
        rule("", &["pods"], &["list", "watch"]),
        rule("wharf.dev", &["llmservices"], &["list", "watch"]),
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"]),
        // What is created cannot be restricted to a name. One that is there is only ever changed by these.
        rule("apiregistration.k8s.io", &["apiservices"], &["create"]),
        named("apiregistration.k8s.io", &["apiservices"], &services, &["get", "patch"]),
        named("rbac.authorization.k8s.io", &["clusterroles"], &[name.to_owned()], &["get"]),
    ];
    if apis.contains(&Api::Resource) {
        rules.push(rule("", &["nodes"], &["list", "watch"]));
        // Kubelets ask for it before they tell what pods use.
        rules.push(rule("", &["nodes/metrics"], &["get"]));
    }
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "wharf"}},
        "rules": rules,
    })
}

/// The Role in its own namespace, of the server behind `service`: its certificate.
pub fn role_at_home(name: &str, namespace: &str, service: &str) -> Value {
    let secret = crate::look::secret_name(service);
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": "wharf"}},
        "rules": [
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret], "verbs": ["get", "update"]},
        ],
    })
}
