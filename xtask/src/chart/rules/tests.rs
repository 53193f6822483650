//! An installation in which everything agrees, and every way in which it may not.

use serde_json::json;

use super::*;

fn object(kind: &str, name: &str, rest: Value) -> Value {
    let mut object =
        json!({"kind": kind, "metadata": {"name": name, "namespace": "n", "labels": {"app": "a"}}});
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    object
}

/// An installation in which everything agrees.
fn installation() -> Vec<Value> {
    let probe = json!({"httpGet": {"path": "/health", "port": "metrics"}});
    let selector = json!({"matchLabels": {"app": "a"}});
    let scaled = json!({"kind": "Deployment", "name": "a"});
    vec![
        object("ServiceAccount", "a", json!({})),
        object("ConfigMap", "a", json!({})),
        object("Role", "a", json!({})),
        object(
            "RoleBinding",
            "a",
            json!({"roleRef": {"kind": "Role", "name": "a"}, "subjects": [{"name": "a", "namespace": "n"}]}),
        ),
        object(
            "Deployment",
            "a",
            json!({"spec": {"selector": selector, "template": {"metadata": {"labels": {"app": "a"}}, "spec": {
                "serviceAccountName": "a",
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "volumes": [{"name": "config", "configMap": {"name": "a"}}],
                "containers": [{
                    "name": "c", "ports": [{"name": "metrics"}], "volumeMounts": [{"name": "config"}],
                    "startupProbe": probe, "livenessProbe": probe, "readinessProbe": probe,
                    "securityContext": {
                        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true,
                    },
                }],
            }}}}),
        ),
        object(
            "Service",
            "a",
            json!({"spec": {"selector": {"app": "a"}, "ports": [{"name": "metrics", "targetPort": "metrics"}]}}),
        ),
        object(
            "ServiceMonitor",
            "a",
            json!({"spec": {"selector": selector, "endpoints": [{"port": "metrics"}]}}),
        ),
        object(
            "PodMonitor",
            "a",
            json!({"spec": {"selector": selector, "podMetricsEndpoints": [{"port": "metrics"}]}}),
        ),
        object(
            "NetworkPolicy",
            "a",
            json!({"spec": {"podSelector": selector, "ingress": [{"ports": [{"port": "metrics"}]}]}}),
        ),
        object("PodDisruptionBudget", "a", json!({"spec": {"selector": selector}})),
        object("HorizontalPodAutoscaler", "a", json!({"spec": {"scaleTargetRef": scaled}})),
    ]
}

#[test]
fn an_installation_in_which_everything_agrees_has_no_complaints() {
    assert_eq!(complaints(&installation()), Vec::<String>::new());
}

#[test]
fn each_disagreement_is_found_and_named() {
    let pod = "/spec/template/spec";
    for (kind, pointer, value, complaint) in [
        (
            "Deployment",
            "/spec/selector/matchLabels/app".to_owned(),
            json!("b"),
            "does not match its own pods",
        ),
        ("Deployment", format!("{pod}/serviceAccountName"), json!("b"), "there is no ServiceAccount \"b\""),
        ("Deployment", format!("{pod}/volumes/0/configMap/name"), json!("b"), "there is no ConfigMap \"b\""),
        ("Deployment", format!("{pod}/volumes/0/name"), json!("b"), "nothing mounts the volume \"b\""),
        (
            "Deployment",
            format!("{pod}/containers/0/volumeMounts/0/name"),
            json!("b"),
            "there is no volume \"b\" to mount",
        ),
        (
            "Deployment",
            format!("{pod}/containers/0/livenessProbe/httpGet/port"),
            json!("b"),
            "livenessProbe asks port \"b\"",
        ),
        ("Deployment", format!("{pod}/containers/0/readinessProbe"), json!({}), "c has no readinessProbe"),
        (
            "Deployment",
            format!("{pod}/securityContext/runAsNonRoot"),
            json!(false),
            "not restricted: runAsNonRoot",
        ),
        (
            "Deployment",
            format!("{pod}/containers/0/securityContext/capabilities/drop"),
            json!([]),
            "not restricted: capabilities",
        ),
        ("Service", "/spec/selector/app".to_owned(), json!("b"), "no pod has the labels"),
        ("Service", "/spec/selector".to_owned(), json!({}), "no pod has the labels"),
        ("Service", "/spec/ports/0/targetPort".to_owned(), json!("b"), "no pod has the port \"b\""),
        ("ServiceMonitor", "/spec/selector/matchLabels/app".to_owned(), json!("b"), "selects 0 Services"),
        ("ServiceMonitor", "/spec/endpoints/0/port".to_owned(), json!("b"), "has no port \"b\""),
        ("PodMonitor", "/spec/selector/matchLabels/app".to_owned(), json!("b"), "no pod has the labels"),
        (
            "PodMonitor",
            "/spec/podMetricsEndpoints/0/port".to_owned(),
            json!("b"),
            "no pod has the port \"b\"",
        ),
        (
            "NetworkPolicy",
            "/spec/podSelector/matchLabels/app".to_owned(),
            json!("b"),
            "no pod has the labels",
        ),
        ("NetworkPolicy", "/spec/ingress/0/ports/0/port".to_owned(), json!("b"), "no pod has the port \"b\""),
        (
            "PodDisruptionBudget",
            "/spec/selector/matchLabels/app".to_owned(),
            json!("b"),
            "no pod has the labels",
        ),
        (
            "HorizontalPodAutoscaler",
            "/spec/scaleTargetRef/name".to_owned(),
            json!("b"),
            "no Deployment \"b\" to scale",
        ),
        ("RoleBinding", "/roleRef/name".to_owned(), json!("b"), "there is no Role \"b\""),
        ("RoleBinding", "/subjects/0/namespace".to_owned(), json!("m"), "there is no ServiceAccount \"a\""),
        ("ConfigMap", "/kind".to_owned(), json!("Role"), "is there twice"),
    ] {
        let mut objects = installation();
        let object = objects.iter_mut().find(|object| object["kind"] == kind).unwrap();
        *object.pointer_mut(&pointer).unwrap() = value;
        let said = complaints(&objects);
        assert!(said.iter().any(|one| one.contains(complaint)), "{kind} {pointer}: {said:?}");
    }
}

#[test]
fn what_a_scaler_sets_is_not_said_elsewhere() {
    let mut objects = installation();
    let deployment = objects.iter_mut().find(|object| object["kind"] == "Deployment").unwrap();
    deployment["spec"]["replicas"] = 3.into();
    assert!(complaints(&objects)[0].contains("says its replicas too"));
}
