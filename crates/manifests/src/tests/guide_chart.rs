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

const ROWS: &[Row] = &[Row {
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
}];

/// The value at a place. `@` stands for the first container, and members of lists may be called by their names.
fn at<'a>(object: &'a Value, place: &str) -> &'a Value {
    let place = place.replacen('@', "/spec/template/spec/containers/0", 1);
    place.split('/').skip(1).fold(object, |value, step| match (value, step.parse::<usize>()) {
        (Value::Array(list), Err(_)) => list.iter().find(|one| one["name"] == step).unwrap_or(&Value::Null),
        (Value::Array(list), Ok(index)) => list.get(index).unwrap_or(&Value::Null),
        _ => &value[step],
    })
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
                &expected,
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
