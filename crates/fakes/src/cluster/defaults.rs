//! Fields that Kubernetes fills in when a writer leaves them out, so that what is read back is not what was written: the part of them
//! that Wharf's objects meet. Pure.

use serde_json::{Value, json};

/// Fills in what is absent, in every write.
pub(crate) fn fill_in(kind: &str, object: &mut Value) {
    match kind {
        "Deployment" => deployment(&mut object["spec"]),
        "StatefulSet" | "ReplicaSet" => {
            default(&mut object["spec"], "replicas", json!(1));
            template(&mut object["spec"]["template"], "Always");
        }
        "DaemonSet" => template(&mut object["spec"]["template"], "Always"),
        "Job" => {
            let spec = &mut object["spec"];
            for (field, value) in [("completions", 1), ("parallelism", 1), ("backoffLimit", 6)] {
                default(spec, field, json!(value));
            }
            default(spec, "completionMode", json!("NonIndexed"));
            default(spec, "manualSelector", json!(false));
            default(spec, "podReplacementPolicy", json!("TerminatingOrFailed"));
            default(spec, "suspend", json!(false));
            template(&mut spec["template"], "Never");
        }
        "Pod" => pod(&mut object["spec"], "Always"),
        "Service" => service(&mut object["spec"]),
        // It has to be there, and an empty one is written as none.
        "EndpointSlice" if object["endpoints"].as_array().is_none_or(Vec::is_empty) => {
            object["endpoints"] = Value::Null;
        }
        "NetworkPolicy" => {
            for rules in ["ingress", "egress"] {
                if object["spec"][rules].as_array().is_some_and(Vec::is_empty) {
                    object["spec"].as_object_mut().map(|spec| spec.remove(rules));
                }
            }
        }
        "Secret" => default(object, "type", json!("Opaque")),
        "PersistentVolumeClaim" => default(&mut object["spec"], "volumeMode", json!("Filesystem")),
        _ => {}
    }
}

fn deployment(spec: &mut Value) {
    default(spec, "replicas", json!(1));
    default(spec, "revisionHistoryLimit", json!(10));
    default(spec, "progressDeadlineSeconds", json!(600));
    default(spec, "strategy", json!({"type": "RollingUpdate"}));
    if spec["strategy"]["type"] == "RollingUpdate" {
        default(&mut spec["strategy"], "rollingUpdate", json!({}));
        for field in ["maxSurge", "maxUnavailable"] {
            default(&mut spec["strategy"]["rollingUpdate"], field, json!("25%"));
        }
    }
    template(&mut spec["template"], "Always");
}

fn template(template: &mut Value, restart: &str) {
    if template["spec"].is_object() {
        pod(&mut template["spec"], restart);
    }
}

fn pod(spec: &mut Value, restart: &str) {
    default(spec, "restartPolicy", json!(restart));
    default(spec, "terminationGracePeriodSeconds", json!(30));
    default(spec, "dnsPolicy", json!("ClusterFirst"));
    default(spec, "schedulerName", json!("default-scheduler"));
    default(spec, "securityContext", json!({}));
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            default(container, "resources", json!({}));
            default(container, "terminationMessagePath", json!("/dev/termination-log"));
            default(container, "terminationMessagePolicy", json!("File"));
            let image = container["image"].as_str().unwrap_or("");
            let floats =
                image.ends_with(":latest") || !image.rsplit('/').next().unwrap_or("").contains([':', '@']);
            default(container, "imagePullPolicy", json!(if floats { "Always" } else { "IfNotPresent" }));
            for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                default(port, "protocol", json!("TCP"));
            }
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                container.get_mut(probe).into_iter().for_each(self::probe);
            }
        }
    }
}

fn probe(probe: &mut Value) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        default(probe, field, json!(value));
    }
    if let Some(get) = probe.get_mut("httpGet") {
        default(get, "scheme", json!("HTTP"));
    }
}

fn service(spec: &mut Value) {
    default(spec, "type", json!("ClusterIP"));
    default(spec, "sessionAffinity", json!("None"));
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        default(port, "protocol", json!("TCP"));
        let number = port["port"].clone();
        default(port, "targetPort", number);
    }
}

/// Sets a field of a map that does not have it.
pub(crate) fn default(map: &mut Value, field: &str, value: Value) {
    if let Value::Object(map) = map
        && map.get(field).is_none_or(Value::is_null)
    {
        map.insert(field.to_owned(), value);
    }
}

/// Drops fields that are null: to a typed server they are absent.
pub(crate) fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_filled_in_and_what_is_said_stays() {
        let mut deployment = json!({"spec": {"replicas": 0, "template": {"spec": {"containers": [
            {"image": "a/b:1", "ports": [{"containerPort": 1}], "readinessProbe": {"httpGet": {"path": "/"}, "periodSeconds": 2}}]}}}});
        fill_in("Deployment", &mut deployment);
        let once = deployment.clone();
        fill_in("Deployment", &mut deployment);
        assert_eq!(deployment, once);
        let spec = &deployment["spec"];
        assert_eq!(
            (spec["replicas"].clone(), spec["strategy"]["rollingUpdate"]["maxSurge"].clone()),
            (json!(0), json!("25%"))
        );
        let container = &spec["template"]["spec"]["containers"][0];
        assert_eq!(
            (container["imagePullPolicy"].clone(), container["ports"][0]["protocol"].clone()),
            (json!("IfNotPresent"), json!("TCP"))
        );
        assert_eq!(
            container["readinessProbe"],
            json!({"httpGet": {"path": "/", "scheme": "HTTP"}, "periodSeconds": 2, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3})
        );
    }

    #[test]
    fn nulls_are_absent() {
        let mut object = json!({"a": null, "b": [{"c": null}]});
        drop_nulls(&mut object);
        assert_eq!(object, json!({"b": [{}]}));
    }
}
