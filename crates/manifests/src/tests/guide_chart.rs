//! Manifests of the guide to which the Helm chart has an equal or better one: what is for a cluster and not for a service.
//!
//! What is compared is the rendering that `cargo xtask chart` keeps fresh.

use std::fmt::Write as _;

use super::*;

/// A manifest of the guide, and the values of the chart that give ours.
struct Row {
    section: &'static str,
    manifest: &'static str,
    /// Of `deploy/helm/wharf/ci`.
    values: &'static str,
    rendering: &'static str,
    /// Kind, name, JSON pointer and value of every field that matters.
    fields: &'static [(&'static str, &'static str, &'static str, &'static str)],
    /// What is different, and why.
    better: &'static str,
}

const GPU_VALUES: &str = include_str!("../../../../deploy/helm/wharf/ci/gpu-values.yaml");
const GPU: &str = include_str!("../../../../deploy/helm/rendered/gpu.yaml");

const ROWS: &[Row] = &[
    Row {
        section: "3.1",
        manifest: "Labels of GPU nodes",
        values: GPU_VALUES,
        rendering: GPU,
        fields: &[
            (
                "ClusterRole",
                "wharf-node-agent",
                "/rules/0",
                r#"{"apiGroups":[""],"resources":["nodes"],"verbs":["get","patch"]}"#,
            ),
            (
                "DaemonSet",
                "wharf-node-agent",
                "@/env/NODE_NAME/valueFrom",
                r#"{"fieldRef":{"fieldPath":"spec.nodeName"}}"#,
            ),
        ],
        better: "Nobody writes labels by hand: the node agent sets `node-type: gpu`, `gpu-type` and `capacity-gpu` as in the guide, beside those of GPU feature \
             discovery, from what NVML says, and changes none that are somebody else's. The tests of `crates/node` hold it to these names.",
    },
    Row {
        section: "3.2",
        manifest: "Device plugin",
        values: GPU_VALUES,
        rendering: GPU,
        fields: &[
            ("DaemonSet", "wharf-node-agent", "/spec/updateStrategy/type", r#""RollingUpdate""#),
            (
                "DaemonSet",
                "wharf-node-agent",
                "/spec/template/spec/tolerations/0",
                r#"{"key":"nvidia.com/gpu","operator":"Exists"}"#,
            ),
            ("DaemonSet", "wharf-node-agent", "@/securityContext/allowPrivilegeEscalation", "false"),
            ("DaemonSet", "wharf-node-agent", "@/securityContext/capabilities/drop", r#"["ALL"]"#),
            (
                "DaemonSet",
                "wharf-node-agent",
                "@/volumeMounts/device-plugins",
                r#"{"name":"device-plugins","mountPath":"/var/lib/kubelet/device-plugins"}"#,
            ),
            (
                "DaemonSet",
                "wharf-node-agent",
                "/spec/template/spec/volumes/device-plugins/hostPath/path",
                r#""/var/lib/kubelet/device-plugins""#,
            ),
        ],
        better: "The plugin is Wharf's own, in the one image. It takes GPUs that threw an XID out of service and brings them back, shares, splits by MIG, and prefers GPUs that \
             are near each other. It runs in a namespace of its own and not in kube-system.",
    },
    Row {
        section: "5.3",
        manifest: "PodMetrics with GPUs",
        values: GPU_VALUES,
        rendering: GPU,
        fields: &[
            ("Deployment", "wharf-metrics-api", "@/args/2", r#""--apis=custom,external,resource""#),
            (
                "ClusterRole",
                "wharf-metrics-api",
                "/rules/8",
                r#"{"apiGroups":[""],"resources":["nodes/metrics"],"verbs":["get"]}"#,
            ),
            (
                "ClusterRole",
                "wharf-metrics-api-view",
                "/rules/1",
                r#"{"apiGroups":["metrics.k8s.io"],"resources":["pods","nodes"],"verbs":["get","list"]}"#,
            ),
        ],
        better: "PodMetrics are answers and not objects that somebody applies, and they have no `spec`: the metrics API answers them with `cpu`, `memory` and `nvidia.com/gpu` \
             (as many GPUs as the container keeps busy) where no metrics-server does. A test of `crates/metrics-api` compares an answer. Scaling on GPUs is \
             `scaling.target.gpu`, by `custom.metrics.k8s.io`.",
    },
    Row {
        section: "6.1",
        manifest: "Metrics collector on 9100",
        values: GPU_VALUES,
        rendering: GPU,
        fields: &[
            (
                "DaemonSet",
                "wharf-node-agent",
                "@/ports/metrics",
                r#"{"name":"metrics","containerPort":9100,"protocol":"TCP"}"#,
            ),
            ("ConfigMap", "wharf-node-agent", "/data/node.yaml~port: 9100", "true"),
            (
                "Deployment",
                "wharf-metrics-api",
                "@/env/PROMETHEUS_ENDPOINT/value",
                r#""http://prometheus-service.monitoring.svc:9090""#,
            ),
        ],
        better: "One on every node with GPUs, under dcgm-exporter's names, with the pods that hold the GPUs. Nothing needs a Prometheus; `PROMETHEUS_ENDPOINT` is an optional source of \
             the metrics API and of the console.",
    },
    Row {
        section: "6.2",
        manifest: "Fluentd DaemonSet to Elasticsearch",
        values: include_str!("../../../../deploy/helm/wharf/ci/fluentd-values.yaml"),
        rendering: include_str!("../../../../deploy/helm/rendered/fluentd.yaml"),
        fields: &[
            ("DaemonSet", "wharf-logs", "@/name", r#""fluentd""#),
            (
                "DaemonSet",
                "wharf-logs",
                "@/image",
                r#""fluent/fluentd-kubernetes-daemonset:v1.19.3-debian-elasticsearch8-1.1""#,
            ),
            (
                "DaemonSet",
                "wharf-logs",
                "@/volumeMounts/varlog",
                r#"{"name":"varlog","mountPath":"/var/log","readOnly":true}"#,
            ),
            (
                "DaemonSet",
                "wharf-logs",
                "@/volumeMounts/varlibdockercontainers",
                r#"{"name":"varlibdockercontainers","mountPath":"/var/lib/docker/containers","readOnly":true}"#,
            ),
            (
                "DaemonSet",
                "wharf-logs",
                "/spec/template/spec/volumes/varlog",
                r#"{"name":"varlog","hostPath":{"path":"/var/log","type":"Directory"}}"#,
            ),
            (
                "DaemonSet",
                "wharf-logs",
                "/spec/template/spec/volumes/varlibdockercontainers",
                r#"{"name":"varlibdockercontainers","hostPath":{"path":"/var/lib/docker/containers","type":"DirectoryOrCreate"}}"#,
            ),
            (
                "DaemonSet",
                "wharf-logs",
                "/spec/template/spec/tolerations/0",
                r#"{"key":"nvidia.com/gpu","operator":"Exists"}"#,
            ),
            (
                "ClusterRole",
                "wharf-logs",
                "/rules/0",
                r#"{"apiGroups":[""],"resources":["pods","namespaces"],"verbs":["get","list","watch"]}"#,
            ),
        ],
        better: "The guide's DaemonSet runs with the image's own configuration: it reads Docker's format alone, looks for an Elasticsearch that nobody \
             named, has no rights to ask which pod a line is of, keeps what waits in memory, and is not on nodes with GPUs. This one reads what containerd \
             and CRI-O write, joins cut lines, makes fields of JSON, has an account, and keeps 1 GB at most on disk. The rest of the \
             configuration is in the ConfigMap beside it; `cargo xtask verify-logs` runs it. Fluent Bit is the default: it needs no plugins and less \
             memory.",
    },
    Row {
        section: "8.3",
        manifest: "Tuning of GPUs and pre-loading",
        values: GPU_VALUES,
        rendering: GPU,
        fields: &[
            ("ConfigMap", "wharf-node-agent", "/data/node.yaml~persistence: true", "true"),
            ("ConfigMap", "wharf-node-agent", "/data/node.yaml~power: 0.8", "true"),
            ("ConfigMap", "wharf-node-agent", "/data/node.yaml~name: gpt", "true"),
            (
                "DaemonSet",
                "wharf-node-agent",
                "@/volumeMounts/models",
                r#"{"name":"models","mountPath":"/var/lib/wharf/models"}"#,
            ),
        ],
        better: "`nvidia-smi -pm 1` and `-pl` are calls of NVML, on nodes with a label, within what the card allows, and taken back when the agent ends. The power limit is a share of \
             the card's own, since 250 W mean another thing on each. Models are fetched to the node before a pod asks for them; the engine loads what it \
             serves, so nothing is loaded in Python for show. The variables of the CUDA cache are in the pods, see below.",
    },
];

/// The value at a place. `@` stands for the first container, and members of lists may be called by their names; `~` asks whether a text has
/// a line.
fn at(object: &Value, place: &str) -> Value {
    if let Some((text, line)) = place.split_once('~') {
        let text = at(object, text);
        let mut lines = text.as_str().unwrap_or_default().lines();
        return lines.any(|one| one.trim().trim_start_matches("- ") == line).into();
    }
    let place = place.replacen('@', "/spec/template/spec/containers/0", 1);
    let found = place.split('/').skip(1).fold(object, |value, step| match (value, step.parse::<usize>()) {
        (Value::Array(list), Err(_)) => list.iter().find(|one| one["name"] == step).unwrap_or(&Value::Null),
        (Value::Array(list), Ok(index)) => list.get(index).unwrap_or(&Value::Null),
        _ => &value[step],
    });
    found.clone()
}

fn objects(rendering: &str) -> Vec<Value> {
    rendering.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

#[test]
fn every_manifest_for_a_cluster_has_an_equal_or_better_one() {
    for row in ROWS {
        let objects = objects(row.rendering);
        for (kind, name, place, expected) in row.fields {
            let expected: Value = serde_json::from_str(expected).unwrap();
            assert_eq!(
                at(named(&objects, kind, name), place),
                expected,
                "{}: {kind} {name} {place}",
                row.section
            );
        }
    }
}

/// What the page says of them.
pub(super) fn page() -> String {
    let mut page = String::new();
    for row in ROWS {
        let values: String = row
            .values
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| format!("{line}\n"))
            .collect();
        write!(
            page,
            "\n## {} {}\n\nValues of the chart:\n\n```yaml\n{values}```\n\n{}\n\n| chart | field | value |\n|---|---|---|\n",
            row.section, row.manifest, row.better
        )
        .unwrap();
        for (kind, name, place, expected) in row.fields {
            let place = place.replacen('@', "/spec/template/spec/containers/0", 1);
            let place = place.trim_start_matches('/').replace('/', ".");
            writeln!(page, "| {kind} `{name}` | `{place}` | `{expected}` |").unwrap();
        }
    }
    page
}
