//! The manifests of the guide to LLMs on Kubernetes, each beside the spec that gives an equivalent or better one.
//!
//! The table is checked field by field, and printed as `docs/guide-coverage.md`.

use std::fmt::Write as _;

use serde_json::json;

use super::*;

/// A manifest of the guide.
struct Row {
    section: &'static str,
    manifest: &'static str,
    /// The lines of a spec that produce ours.
    spec: &'static str,
    mode: Mode,
    /// Kind, name, JSON pointer and value of every field that matters.
    fields: &'static [(&'static str, &'static str, &'static str, &'static str)],
    /// What is different, and why.
    better: &'static str,
}

const CONTAINER: &str = "/spec/template/spec/containers/0";

const ROWS: &[Row] = &[
    Row {
        section: "3.3",
        manifest: "Pod with GPU requests and limits",
        spec: "model: {source: pvc://models/llm_model}
runtime: {engine: custom, image: registry.example.com/llm-model:v1.0, ports: {http: 8080}}
resources:
  gpu: {count: 2}
  requests: {cpu: 8, memory: 32Gi}
  limits: {cpu: 16, memory: 64Gi}",
        mode: Mode::Standalone,
        fields: &[
            ("Deployment", "assistant-blue", "@/image", r#""registry.example.com/llm-model:v1.0""#),
            (
                "Deployment",
                "assistant-blue",
                "@/resources/requests",
                r#"{"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "2"}"#,
            ),
            (
                "Deployment",
                "assistant-blue",
                "@/resources/limits",
                r#"{"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "2"}"#,
            ),
            ("Deployment", "assistant-blue", "@/ports/0/containerPort", "8080"),
            (
                "Deployment",
                "assistant-blue",
                "@/env/0",
                r#"{"name": "MODEL_PATH", "value": "/models/llm_model"}"#,
            ),
        ],
        better: "A Deployment, which replaces a lost pod. `CUDA_VISIBLE_DEVICES` is left to the device plugin, which knows which \
                 GPUs the pod was given.",
    },
    Row {
        section: "4.1",
        manifest: "Deployment with probes",
        spec: "model: {source: pvc://models/gpt, name: gpt-3.5-turbo}
runtime: {engine: custom, image: registry.example.com/llm-inference-server:v1.0, ports: {http: 8080}}
resources:
  gpu: {count: 1}
  requests: {cpu: 4, memory: 16Gi}
  limits: {cpu: 8, memory: 32Gi}
server: {defaults: {maxTokens: 2048}}
replicas: 3
scaling: {mode: none}",
        mode: Mode::Standalone,
        fields: &[
            ("Deployment", "assistant-blue", "/spec/replicas", "3"),
            ("Deployment", "assistant-blue", "@/ports/0/containerPort", "8080"),
            ("Deployment", "assistant-blue", "@/readinessProbe/httpGet/path", r#""/health""#),
            ("Deployment", "assistant-blue", "@/livenessProbe/httpGet/path", r#""/health""#),
            (
                "Deployment",
                "assistant-blue",
                "@/env/1",
                r#"{"name": "MODEL_NAME", "value": "gpt-3.5-turbo"}"#,
            ),
            ("Deployment", "assistant-blue", "@/env/2", r#"{"name": "MAX_TOKENS", "value": "2048"}"#),
            ("Deployment", "assistant-blue", "@/startupProbe/failureThreshold", "360"),
        ],
        better: "A startup probe instead of fixed delays: a large model is not killed while it loads, and a small one is not waited for. \
                 With Wharf's own engine readiness is `/ready`, which also fails while a pod drains.",
    },
    Row {
        section: "4.2",
        manifest: "Services inside and outside the cluster",
        spec: "model: {source: pvc://models/gpt}
expose: {type: LoadBalancer, direct: true, tls: {secretName: assistant-tls}}",
        mode: Mode::Managed,
        fields: &[
            ("Service", "assistant", "/spec/type", r#""ClusterIP""#),
            ("Service", "assistant", "/spec/ports/0/port", "80"),
            ("Service", "assistant", "/spec/ports/1/port", "443"),
            ("Service", "assistant", "/spec/selector/wharf.dev~1service", r#""assistant""#),
            (
                "Deployment",
                "assistant-blue",
                "@/ports/0",
                r#"{"name": "http", "containerPort": 8080, "protocol": "TCP"}"#,
            ),
            (
                "Deployment",
                "assistant-blue",
                "@/ports/1",
                r#"{"name": "https", "containerPort": 8081, "protocol": "TCP"}"#,
            ),
            ("Service", "assistant-external", "/spec/type", r#""LoadBalancer""#),
            ("Service", "assistant-external", "/spec/ports/0/port", "80"),
        ],
        better: "Ports are found by name, so Service and pod cannot disagree. Without `direct` the Service stands for the gateway, and keys \
                 and limits hold for everyone.",
    },
    Row {
        section: "4.3",
        manifest: "ConfigMap and Secret",
        spec: "model: {source: pvc://models/gpt, name: gpt-3.5-turbo}
server:
  maxWorkers: 4
  defaults: {maxTokens: 2048, temperature: 0.7, topP: 0.9, frequencyPenalty: 0, presencePenalty: 0}
access: {apiKeys: {secretName: llm-secrets}}",
        mode: Mode::Standalone,
        fields: &[
            ("ConfigMap", "*", "/data/model_config.json#/max_tokens", "2048"),
            ("ConfigMap", "*", "/data/model_config.json#/temperature", "0.7"),
            ("ConfigMap", "*", "/data/model_config.json#/top_p", "0.9"),
            ("ConfigMap", "*", "/data/model_config.json#/model_name", r#""gpt-3.5-turbo""#),
            ("ConfigMap", "*", "/data/server_config.yaml~max_workers: 4", "true"),
            ("ConfigMap", "*", "/data/server_config.yaml~port: 8080", "true"),
            ("ConfigMap", "*", "/immutable", "true"),
            (
                "Deployment",
                "assistant-blue",
                "@/env/0/valueFrom/secretKeyRef",
                r#"{"name": "llm-secrets", "key": "api_key"}"#,
            ),
        ],
        better: "The ConfigMap is named by its content and never changes, so a running pod never sees a file change under it. Secrets are \
                 referred to and never written.",
    },
    Row {
        section: "5.1",
        manifest: "HorizontalPodAutoscaler on CPU and memory",
        spec: "model: {source: pvc://models/gpt}
resources: {requests: {cpu: 4, memory: 16Gi}}
scaling: {mode: hpa, min: 2, max: 20, target: {cpu: 70, memory: 80}}",
        mode: Mode::Standalone,
        fields: &[
            ("HorizontalPodAutoscaler", "assistant", "/spec/minReplicas", "2"),
            ("HorizontalPodAutoscaler", "assistant", "/spec/maxReplicas", "20"),
            ("HorizontalPodAutoscaler", "assistant", "/spec/scaleTargetRef/name", r#""assistant-blue""#),
            (
                "HorizontalPodAutoscaler",
                "assistant",
                "/spec/metrics/0/resource",
                r#"{"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}"#,
            ),
            (
                "HorizontalPodAutoscaler",
                "assistant",
                "/spec/metrics/1/resource",
                r#"{"name": "memory", "target": {"type": "Utilization", "averageUtilization": 80}}"#,
            ),
        ],
        better: "One autoscaler with every metric: the guide's two on one Deployment disable each other. `validate` refuses a memory target \
                 that the weights alone exceed.",
    },
    Row {
        section: "5.2",
        manifest: "HorizontalPodAutoscaler on requests per second",
        spec: "model: {source: pvc://models/gpt}
scaling: {mode: hpa, min: 2, max: 25, target: {requestsPerSecond: 100}}",
        mode: Mode::Standalone,
        fields: &[
            ("HorizontalPodAutoscaler", "assistant", "/spec/minReplicas", "2"),
            ("HorizontalPodAutoscaler", "assistant", "/spec/maxReplicas", "25"),
            (
                "HorizontalPodAutoscaler",
                "assistant",
                "/spec/metrics/0/pods",
                r#"{"metric": {"name": "requests_per_second"}, "target": {"type": "AverageValue", "averageValue": "100"}}"#,
            ),
            (
                "HorizontalPodAutoscaler",
                "assistant",
                "/spec/behavior/scaleDown",
                r#"{"stabilizationWindowSeconds": 300, "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]}"#,
            ),
        ],
        better: "The behaviour is the default; `scaling.behavior` takes another. In mode `native` Wharf scales by itself, to zero and back.",
    },
    Row {
        section: "6.1",
        manifest: "ServiceMonitor",
        spec: "model: {source: pvc://models/gpt}
observability: {serviceMonitor: true}",
        mode: Mode::Standalone,
        fields: &[
            ("ServiceMonitor", "assistant", "/spec/endpoints/0/port", r#""metrics""#),
            ("ServiceMonitor", "assistant", "/spec/endpoints/0/interval", r#""30s""#),
            ("ServiceMonitor", "assistant", "/spec/endpoints/0/path", r#""/metrics""#),
            (
                "Service",
                "assistant-pods",
                "/spec/ports/1",
                r#"{"name": "metrics", "port": 8082, "targetPort": "metrics", "protocol": "TCP"}"#,
            ),
        ],
        better: "The guide's Service has no port called `metrics`, so its monitor finds nothing; here a test compares them. The collector on 9100 \
                 is open, see below.",
    },
    Row {
        section: "7.1",
        manifest: "NetworkPolicy",
        spec: "model: {source: pvc://models/gpt}
expose: {direct: true}
access:
  allowFrom: [{namespaceLabels: {name: frontend-namespace}}]
  allowTo: [{namespace: external-api-namespace, port: 443}]",
        mode: Mode::Managed,
        fields: &[
            ("NetworkPolicy", "assistant", "/spec/policyTypes", r#"["Ingress", "Egress"]"#),
            (
                "NetworkPolicy",
                "assistant",
                "/spec/ingress/0",
                r#"{"from": [{"namespaceSelector": {"matchLabels": {"name": "frontend-namespace"}}}], "ports": [{"protocol": "TCP", "port": 8080}]}"#,
            ),
            (
                "NetworkPolicy",
                "assistant",
                "/spec/egress/1",
                r#"{"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "external-api-namespace"}}}], "ports": [{"protocol": "TCP", "port": 443}]}"#,
            ),
            ("NetworkPolicy", "assistant", "/spec/egress/0/ports/0", r#"{"protocol": "UDP", "port": 53}"#),
        ],
        better: "Pods can resolve names, which the guide's policy forbids them; namespaces are known by the label that the API server sets; \
                 Prometheus is let through to metrics alone.",
    },
    Row {
        section: "7.2",
        manifest: "Role and RoleBinding",
        spec: "model: {source: pvc://models/gpt}
access: {viewers: [{kind: User, name: llm-user}]}",
        mode: Mode::Managed,
        fields: &[
            (
                "Role",
                "assistant-viewers",
                "/rules/0",
                r#"{"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["get", "list", "watch"]}"#,
            ),
            (
                "RoleBinding",
                "assistant-viewers",
                "/subjects/0",
                r#"{"kind": "User", "name": "llm-user", "apiGroup": "rbac.authorization.k8s.io"}"#,
            ),
            (
                "RoleBinding",
                "assistant-viewers",
                "/roleRef",
                r#"{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "assistant-viewers"}"#,
            ),
        ],
        better: "Viewers also see the service's own state. The pods' account has no right and no token.",
    },
    Row {
        section: "8.1",
        manifest: "Tuned pod with a cache",
        spec: "model: {source: pvc://models/gpt}
runtime: {engine: vllm}
resources:
  gpu: {count: 1}
  requests: {cpu: 2, memory: 8Gi}
  limits: {cpu: 4, memory: 16Gi}",
        mode: Mode::Standalone,
        fields: &[
            (
                "Deployment",
                "assistant-blue",
                "@/resources/limits",
                r#"{"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}"#,
            ),
            ("Deployment", "assistant-blue", "@/env?OMP_NUM_THREADS", r#""2""#),
            ("Deployment", "assistant-blue", "@/env?CUDA_LAUNCH_BLOCKING", r#""0""#),
            ("Deployment", "assistant-blue", "@/env?TORCH_CUDNN_V8_API_ENABLED", r#""1""#),
            (
                "Deployment",
                "assistant-blue",
                "@/volumeMounts/1",
                r#"{"name": "cache", "mountPath": "/cache"}"#,
            ),
            (
                "Deployment",
                "assistant-blue",
                "/spec/template/spec/volumes/1",
                r#"{"name": "cache", "emptyDir": {}}"#,
            ),
        ],
        better: "Root is read-only and nobody is root. Wharf's own engine counts the cores of its container and needs no variable.",
    },
    Row {
        section: "8.2",
        manifest: "Blue and green Deployments",
        spec: "model: {source: pvc://models/gpt}
replicas: 3
scaling: {mode: none}
rollout: {strategy: BlueGreen}",
        mode: Mode::Managed,
        fields: &[
            ("Deployment", "assistant-blue", "/spec/replicas", "3"),
            ("Deployment", "assistant-blue", "/spec/selector/matchLabels/wharf.dev~1colour", r#""blue""#),
            ("Deployment", "assistant-blue", "/spec/template/metadata/labels/wharf.dev~1colour", r#""blue""#),
        ],
        better: "The other colour is made when something changes, is warmed up and measured, and takes over or is taken back by itself.",
    },
    Row {
        section: "8.3",
        manifest: "Variables of the CUDA cache",
        spec: "model: {source: pvc://models/gpt}
runtime: {engine: vllm}
resources: {gpu: {count: 1}}
placement: {cudaCache: /var/cache/wharf/cuda}",
        mode: Mode::Standalone,
        fields: &[
            ("Deployment", "assistant-blue", "@/env?CUDA_CACHE_MAXSIZE", r#""2147483648""#),
            ("Deployment", "assistant-blue", "@/env?CUDA_CACHE_DISABLE", r#""0""#),
        ],
        better: "Kernels that were compiled once are kept on the node (`placement.cudaCache`), so that the next pod does not compile them again; without it they are kept in \
                 the pod. Modules are loaded when they are first used (`CUDA_MODULE_LOADING`).",
    },
];

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    if name == "*" { only(objects, kind) } else { named(objects, kind, name) }
}

/// The value at a place; `@` stands for the first container, `#` enters JSON in a text, `~` after a name asks whether a text has a line,
/// and `?` finds a variable.
fn at(object: &Value, place: &str) -> Value {
    let place = place.replacen('@', CONTAINER, 1);
    if let Some((list, name)) = place.split_once('?') {
        let list = object.pointer(list).and_then(Value::as_array).unwrap();
        return list.iter().find(|one| one["name"] == name).map_or(Value::Null, |one| one["value"].clone());
    }
    if let Some((text, pointer)) = place.split_once('#') {
        let text = object.pointer(text).and_then(Value::as_str).unwrap();
        return serde_json::from_str::<Value>(text).unwrap().pointer(pointer).cloned().unwrap_or_default();
    }
    if let Some((text, line)) = place.split_once("yaml~") {
        let text = object.pointer(&format!("{text}yaml")).and_then(Value::as_str).unwrap();
        return json!(text.lines().any(|one| one.trim() == line));
    }
    object.pointer(&place).cloned().unwrap_or_default()
}

#[test]
fn every_manifest_of_the_guide_has_an_equal_or_better_one() {
    for row in ROWS {
        let service = service(&format!("\n{}", indent(row.spec)));
        let objects = render(&service, row.mode);
        for (kind, name, place, expected) in row.fields {
            let expected: Value = serde_json::from_str(expected).unwrap();
            assert_eq!(
                at(find(&objects, kind, name), place),
                expected,
                "{}: {kind} {name} {place}",
                row.section
            );
        }
    }
}

#[test]
fn a_release_of_the_guide_has_both_colours() {
    let old = service("{model: {source: pvc://models/v1}, replicas: 3, scaling: {mode: none}}");
    let new = service("{model: {source: pvc://models/v2}, replicas: 3, scaling: {mode: none}}");
    let objects =
        crate::service(&new, &State::releasing(&old, &new), &Settings::default(), Mode::Managed).unwrap();
    for colour in ["blue", "green"] {
        let deployment = named(&objects, "Deployment", &format!("assistant-{colour}"));
        assert_eq!(deployment["spec"]["replicas"], 3);
        assert_eq!(deployment["spec"]["template"]["metadata"]["labels"]["wharf.dev/colour"], colour);
    }
}

fn indent(spec: &str) -> String {
    spec.lines().map(|line| format!("  {line}\n")).collect()
}

#[test]
fn the_page_is_fresh() {
    let mut page = String::from(
        "# Coverage of the guide\n\n\
         Generated by a test of `crates/manifests` that compares every field shown with what is rendered; renew with \
         `UPDATE_EXPECT=1 cargo test -p wharf-manifests`.\n\n\
         Each manifest of the guide to LLMs on Kubernetes, and the lines of an `LLMService`, or of the chart's values, that give an equal or better one. The service is \
         called `assistant`. No section is open.\n",
    );
    for row in ROWS {
        let objects = render(&service(&format!("\n{}", indent(row.spec))), row.mode);
        let standalone = if row.mode == Mode::Standalone { " --standalone" } else { "" };
        write!(
            page,
            "\n## {} {}\n\n```yaml\nspec:\n{}```\n\n{}\n\n| `wharf render{standalone}` | field | value |\n|---|---|---|\n",
            row.section,
            row.manifest,
            indent(row.spec),
            row.better
        )
        .unwrap();
        for (kind, name, place, expected) in row.fields {
            let name = find(&objects, kind, name)["metadata"]["name"].as_str().unwrap();
            let place = place.replacen('@', CONTAINER, 1).trim_start_matches('/').replace("~1", "\u{0}");
            let place = place.replace('/', ".").replace('\u{0}', "/");
            writeln!(page, "| {kind} `{name}` | `{place}` | `{expected}` |").unwrap();
        }
    }
    page.push_str(&guide_chart::page());
    expect_test::expect_file!["../../../../docs/guide-coverage.md"].assert_eq(&page);
}
