//! An InferencePool of the pods with an endpoint picker of its own, for gateways that know the Gateway API's inference extension
//! (inference.networking.k8s.io/v1).

use serde_json::{Value, json};

use super::network;
use super::pod::{container_security, pod_security};
use crate::facts::Facts;
use crate::names::{self, PICKER, PICKER_HEALTH, Part, SERVICE};

pub(super) fn objects(facts: &Facts<'_>) -> Vec<Value> {
    if !facts.spec.expose.inference_pool {
        return Vec::new();
    }
    let name = names::child(facts.name, "epp");
    let object = |api: &str, kind: &str, name: &str| {
        names::object(api, kind, name, facts.namespace, names::labels(SERVICE, facts.name))
    };
    let selector = names::selector(SERVICE, facts.name, Part::Picker);

    let mut pool = object("inference.networking.k8s.io/v1", "InferencePool", facts.name);
    pool["spec"] = json!({
        "selector": {"matchLabels": names::selector(SERVICE, facts.name, Part::Server)},
        "targetPorts": [{"number": facts.launch().http}],
        "endpointPickerRef": {"group": "", "kind": "Service", "name": name, "port": {"number": PICKER}, "failureMode": "FailOpen"},
    });

    let account = object("v1", "ServiceAccount", &name);
    let mut role = object("rbac.authorization.k8s.io/v1", "Role", &name);
    let look = json!(["get", "list", "watch"]);
    role["rules"] = json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": look},
        {"apiGroups": ["inference.networking.k8s.io"], "resources": ["inferencepools"], "verbs": look},
    ]);
    let mut binding = object("rbac.authorization.k8s.io/v1", "RoleBinding", &name);
    binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name});
    binding["subjects"] = json!([{
        "kind": "ServiceAccount", "name": name, "namespace": facts.namespace.unwrap_or("default"),
    }]);

    let mut service = object("v1", "Service", &name);
    service["spec"] = json!({
        "type": "ClusterIP",
        "ports": [{"name": "grpc", "port": PICKER, "targetPort": "grpc", "protocol": "TCP"}],
        "selector": selector,
    });

    let mut deployment = object("apps/v1", "Deployment", &name);
    let args =
        ["epp", "--pool", facts.name, "--host", "0.0.0.0", "--port", &PICKER.to_string()].map(str::to_owned);
    deployment["spec"] = json!({
        "replicas": 1,
        "selector": {"matchLabels": selector},
        "template": {
            "metadata": {"labels": names::pod_labels(SERVICE, facts.name, Part::Picker)},
            "spec": {
                "serviceAccountName": name,
                "securityContext": pod_security(),
                "containers": [{
                    "name": "epp",
                    "image": facts.settings.image,
                    "command": ["wharf"],
                    "args": args,
                    "ports": [
                        {"name": "grpc", "containerPort": PICKER, "protocol": "TCP"},
                        {"name": "health", "containerPort": PICKER_HEALTH, "protocol": "TCP"},
                    ],
                    // The other port speaks TLS, which kubelet's probe does not.
                    "readinessProbe": {"grpc": {"port": PICKER_HEALTH, "service": "readiness"}, "periodSeconds": 5},
                    "livenessProbe": {"grpc": {"port": PICKER_HEALTH, "service": "liveness"}, "periodSeconds": 10},
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
                    "securityContext": container_security(),
                }],
            },
        },
    });
    vec![account, role, binding, network::of_picker(facts), service, deployment, pool]
}
