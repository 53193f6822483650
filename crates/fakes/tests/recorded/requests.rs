//! What is asked of both servers, in this order: what Wharf and its tests rely on.

use serde_json::{Value, json};

/// A request.
pub(crate) struct Asked {
    /// What it shows.
    pub(crate) what: &'static str,
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) content_type: &'static str,
    pub(crate) body: Value,
}

const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

fn ask(
    what: &'static str,
    method: &'static str,
    path: &str,
    content_type: &'static str,
    body: Value,
) -> Asked {
    Asked { what, method, path: path.to_owned(), content_type, body }
}

fn get(what: &'static str, path: &str) -> Asked {
    ask(what, "GET", path, JSON, Value::Null)
}

fn create(what: &'static str, path: &str, body: Value) -> Asked {
    ask(what, "POST", &format!("{path}?fieldManager=user"), JSON, body)
}

fn apply(what: &'static str, path: &str, manager: &str, body: Value) -> Asked {
    ask(what, "PATCH", &format!("{path}?fieldManager={manager}"), APPLY, body)
}

fn config(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

fn service(spec: Value) -> Value {
    json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": {"name": "a"}, "spec": spec})
}

fn pod_template() -> Value {
    let container =
        json!({"name": "server", "image": "wharf:1", "ports": [{"name": "http", "containerPort": 8080}]});
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [container]}})
}

/// Everything that is asked.
pub(crate) fn all() -> Vec<Asked> {
    let configs = "/api/v1/namespaces/demo/configmaps";
    let c = &format!("{configs}/c");
    let services = "/apis/wharf.dev/v1alpha1/namespaces/demo/llmservices";
    let a = &format!("{services}/a");
    let deployments = "/apis/apps/v1/namespaces/demo/deployments";
    let d = &format!("{deployments}/d");
    let mut all = vec![get("what is not there", c)];
    all.extend(applying(configs, c));
    all.extend(custom(services, a));
    all.extend(workloads(deployments, d));
    all.extend(small());
    all
}

/// Server-side apply, conflicts, versions.
fn applying(configs: &str, c: &str) -> Vec<Asked> {
    let stale = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "resourceVersion": "1"}, "data": {"x": "9"}});
    let wrong_uid = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}});
    let nothing = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    let forced = &format!("{c}?force=true");
    let forced = |what, manager: &str, body| {
        ask(what, "PATCH", &format!("{forced}&fieldManager={manager}"), APPLY, body)
    };
    vec![
        apply("an apply makes what is not there", c, "one", config(json!({"x": "1", "y": "1"}))),
        apply("the same apply again", c, "one", config(json!({"x": "1", "y": "1"}))),
        apply("an apply of somebody else to other fields", c, "two", config(json!({"z": "1"}))),
        apply("an apply to a field of somebody else", c, "two", config(json!({"x": "2", "z": "1"}))),
        forced("an apply by force", "two", config(json!({"x": "2", "z": "1"}))),
        apply("an apply that wants a field no longer", c, "one", nothing),
        ask(
            "a merge patch",
            "PATCH",
            &format!("{c}?fieldManager=three"),
            MERGE,
            json!({"data": {"w": "1", "z": null}}),
        ),
        ask("an update of an old version", "PUT", &format!("{c}?fieldManager=three"), JSON, stale),
        create("what is there already", configs, config(json!({}))),
        create(
            "a name that is none",
            configs,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "A_b"}}),
        ),
        get("a list by labels", &format!("{configs}?labelSelector=app%3Dnobody")),
        get("a list by name", &format!("{configs}?fieldSelector=metadata.name%3Dc")),
        ask("a deletion of another object of the name", "DELETE", c, JSON, wrong_uid),
        ask("a deletion", "DELETE", c, JSON, Value::Null),
        ask("a deletion of what is gone", "DELETE", c, JSON, Value::Null),
    ]
}

/// A custom kind: schema, rules, status and scale.
fn custom(services: &str, a: &str) -> Vec<Asked> {
    let spec = json!({"model": {"source": "pvc://models/one"}});
    let status = json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": {"name": "a"}, "status": {"phase": "Ready", "replicas": 2, "readyReplicas": 1}});
    let neither = service(json!({"model": {"name": "x"}}));
    let wrong_type = service(json!({"model": {"source": "pvc://models/one"}, "replicas": "many"}));
    vec![
        create("a rule refuses", services, neither),
        create("a schema refuses", services, wrong_type),
        apply("a custom object is applied", a, "user", service(spec.clone())),
        apply("its status is applied", &format!("{a}/status"), "wharf", status),
        apply("its spec is applied again: the status stays", a, "user", service(spec)),
        get("its scale", &format!("{a}/scale")),
        ask(
            "its scale is patched",
            "PATCH",
            &format!("{a}/scale?fieldManager=scaler"),
            MERGE,
            json!({"spec": {"replicas": 3}}),
        ),
        get("the object after that", a),
        get("a list of custom objects", services),
        ask(
            "an annotation",
            "PATCH",
            &format!("{a}?fieldManager=user2"),
            MERGE,
            json!({"metadata": {"annotations": {"k": "v"}}}),
        ),
        ask("it is deleted", "DELETE", a, JSON, Value::Null),
    ]
}

/// Defaults of Kubernetes' own kinds.
fn workloads(deployments: &str, d: &str) -> Vec<Asked> {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": pod_template()},
    });
    vec![
        apply("a deployment gets defaults", d, "wharf", deployment.clone()),
        ask(
            "its scale is patched",
            "PATCH",
            &format!("{d}/scale?fieldManager=scaler"),
            MERGE,
            json!({"spec": {"replicas": 2}}),
        ),
        apply("it is applied again: the replicas stay", d, "wharf", deployment),
        get("a list of deployments: its items do not say what they are", deployments),
        ask(
            "a selector does not change",
            "PATCH",
            &format!("{d}?fieldManager=user"),
            MERGE,
            json!({"spec": {"selector": {"matchLabels": {"app": "b"}}}}),
        ),
    ]
}

/// One request about each of the others.
fn small() -> Vec<Asked> {
    let in_demo = |path: &str| path.replace("NS", "namespaces/demo");
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "endpoints": [], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    });
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "n"},
        "spec": {"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Ingress", "Egress"], "ingress": [], "egress": []},
    });
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "a"}}},
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"selector": {"app": "a"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    });
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"},
        "spec": {"backoffLimit": 6, "template": {"spec": {
            "restartPolicy": "OnFailure", "containers": [{"name": "fetch", "image": "wharf:1", "args": ["fetch"]}],
        }}},
    });
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15, "leaseTransitions": 0},
    });
    vec![
        apply(
            "endpoints that are none",
            &in_demo("/apis/discovery.k8s.io/v1/NS/endpointslices/s"),
            "wharf",
            slice,
        ),
        apply(
            "a network policy",
            &in_demo("/apis/networking.k8s.io/v1/NS/networkpolicies/n"),
            "wharf",
            policy,
        ),
        apply("a disruption budget", &in_demo("/apis/policy/v1/NS/poddisruptionbudgets/b"), "wharf", budget),
        apply("a service", &in_demo("/api/v1/NS/services/s"), "wharf", service),
        apply("a job", &in_demo("/apis/batch/v1/NS/jobs/j"), "wharf", job),
        create("a lease", &in_demo("/apis/coordination.k8s.io/v1/NS/leases"), lease),
        get("a kind that is not served", &in_demo("/apis/example.com/v1/NS/things")),
    ]
}
