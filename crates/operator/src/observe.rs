//! From Deployments and Pods to what a release sees of a version, with what is wrong in words. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;
use wharf_cluster::Object;
use wharf_rollout::{Colour, Failure, VersionSeen};
use wharf_spec::service::ColdStart;

use crate::context::Warmth;
use crate::workload::{Workload, is_of};

/// What there is of each version.
pub(crate) fn versions(
    workloads: &[Workload],
    pods: &[Object],
    warmth: impl Fn(&str) -> Option<Warmth>,
    busy: &BTreeMap<String, u64>,
) -> BTreeMap<Colour, VersionSeen> {
    let seen = workloads.iter().map(|workload| {
        let own: Vec<&Object> = pods.iter().filter(|pod| is_of(pod, workload)).collect();
        (workload.colour, version(workload, &own, &warmth, busy))
    });
    seen.collect()
}

fn version(
    workload: &Workload,
    pods: &[&Object],
    warmth: &impl Fn(&str) -> Option<Warmth>,
    busy: &BTreeMap<String, u64>,
) -> VersionSeen {
    let count = |fits: &dyn Fn(&Object) -> bool| {
        u32::try_from(pods.iter().filter(|pod| fits(pod)).count()).unwrap_or(u32::MAX)
    };
    let warmth_of = |pod: &Object| pod.metadata.uid.as_deref().and_then(warmth);
    let ready = count(&|pod| is_serving(pod));
    let broken = pods.iter().find_map(|pod| match warmth_of(pod) {
        Some(Warmth::Failed(why)) => Some(why),
        Some(Warmth::Warming | Warmth::Warm(..)) | None => None,
    });
    let staying = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    VersionSeen {
        generation: workload.generation,
        revision: workload.revision.clone(),
        ready,
        starting: count(&|_| true) - ready,
        warmed: count(&|pod| is_serving(pod) && matches!(warmth_of(pod), Some(Warmth::Warm(..)))),
        warmup_failed: broken,
        failure: staying
            .filter_map(|pod| failure(pod))
            .max_by_key(|failure| (failure.lasting, failure.restarts)),
        in_flight: pods.iter().map(|pod| works_on(pod, busy)).sum(),
    }
}

/// Takes requests, new ones included.
pub(crate) fn is_serving(pod: &DynamicObject) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
}

/// Whether none of its containers will run again.
pub(crate) fn has_ended(pod: &DynamicObject) -> bool {
    matches!(pod.data["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn works_on(pod: &DynamicObject, busy: &BTreeMap<String, u64>) -> u64 {
    let Some(ip) = pod.data["status"]["podIP"].as_str() else { return 0 };
    let host = if ip.contains(':') { format!("[{ip}]:") } else { format!("{ip}:") };
    busy.iter().filter(|(address, _)| address.starts_with(&host)).map(|(_, requests)| requests).sum()
}

fn condition<'a>(pod: &'a DynamicObject, kind: &str) -> Option<&'a Value> {
    let mut conditions = pod.data["status"]["conditions"].as_array()?.iter();
    conditions.find(|condition| condition["type"] == kind)
}

/// How long the pod that became ready last took, and until it had answered its first prompts, if that was measured. As precise as the times of
/// Kubernetes, which are whole seconds. A pod that started again tells nothing.
pub(crate) fn cold_start(
    pods: &[Object],
    warmth: impl Fn(&str) -> Option<Warmth>,
    before: Option<&ColdStart>,
) -> Option<ColdStart> {
    let ready = |pod: &Object| time(&condition(pod, "Ready")?["lastTransitionTime"]);
    let serving = pods.iter().filter(|pod| is_serving(pod));
    let (ready, pod) = serving.filter_map(|pod| Some((ready(pod)?, pod))).max_by_key(|(ready, _)| *ready)?;
    let container = &pod.data["status"]["containerStatuses"][0];
    if container["restartCount"].as_u64() != Some(0) {
        return None;
    }
    let made = pod.creation_timestamp()?.0;
    let placed = time(&condition(pod, "PodScheduled")?["lastTransitionTime"])?;
    let runs = time(&container["state"]["running"]["startedAt"])?;
    let seconds =
        |from: Timestamp, to: Timestamp| (to - from).total(jiff::Unit::Second).unwrap_or(0.0).max(0.0);
    let phases = (seconds(made, placed), seconds(placed, runs), seconds(runs, ready));
    let warm = pod.metadata.uid.as_deref().and_then(warmth).and_then(|warmth| match warmth {
        Warmth::Warm(_, took) => Some(took.as_secs_f64()),
        Warmth::Warming | Warmth::Failed(_) => None,
    });
    // A new operator did not see it answer; what was said of the same start holds.
    let said = before.filter(|before| (before.schedule, before.fetch, before.load) == phases);
    let (schedule, fetch, load) = phases;
    let warm = warm.or(said.map(|said| said.warm)).unwrap_or(0.0);
    Some(ColdStart { schedule, fetch, load, warm: (warm * 1000.0).round() / 1000.0 })
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// What is wrong with a pod that does not serve; none while it is only starting.
pub(crate) fn failure(pod: &DynamicObject) -> Option<Failure> {
    if is_serving(pod) {
        return None;
    }
    if let Some(scheduled) = condition(pod, "PodScheduled").filter(|c| c["reason"] == "Unschedulable") {
        return Some(Failure { reason: unscheduled(pod, scheduled), restarts: 0, lasting: false });
    }
    let statuses = &pod.data["status"];
    let all = ["initContainerStatuses", "containerStatuses"];
    let containers = all.iter().flat_map(|key| statuses[key].as_array().into_iter().flatten());
    containers.filter_map(of_container).max_by_key(|failure| (failure.lasting, failure.restarts))
}

fn unscheduled(pod: &DynamicObject, condition: &Value) -> String {
    let since = condition["lastTransitionTime"].as_str().unwrap_or("it was made");
    let nodes = &pod.data["spec"]["nodeSelector"]["nvidia.com/gpu.product"];
    let product = nodes.as_str().map_or(String::new(), |product| format!(" with GPU {product}"));
    let said =
        condition["message"].as_str().unwrap_or("the scheduler does not say why").trim_end_matches('.');
    format!(
        "no node{product} takes its pod (pending since {since}): {said}; add nodes, ask for less, or use rollout.strategy Recreate, which needs no room for two versions"
    )
}

fn of_container(status: &Value) -> Option<Failure> {
    let restarts = status["restartCount"].as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
    let waiting = &status["state"]["waiting"];
    let (reason, message) = (waiting["reason"].as_str(), waiting["message"].as_str().unwrap_or(""));
    let image = status["image"].as_str().unwrap_or("?");
    let failure = |reason: String, lasting: bool| Some(Failure { reason, restarts, lasting });
    match reason {
        Some("ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable") => {
            return failure(format!("its image {image} cannot be pulled: {}", line(message)), false);
        }
        Some("InvalidImageName" | "ErrImageNeverPull") => {
            return failure(format!("its image {image} cannot be had: {}", line(message)), true);
        }
        Some("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
            return failure(format!("its container cannot be made: {}", line(message)), false);
        }
        _ => {}
    }
    let now = &status["state"]["terminated"];
    let ended = if now.is_object() { now } else { &status["lastState"]["terminated"] };
    if !ended.is_object() || (status["state"]["running"].is_object() && restarts == 0) {
        return None;
    }
    let code = ended["exitCode"].as_i64().unwrap_or(0);
    if code == 0 && restarts == 0 {
        return None;
    }
    let said = line(ended["message"].as_str().unwrap_or(""));
    let why = match ended["reason"].as_str() {
        Some("OOMKilled") => "was killed since it needs more memory than resources.limits.memory".to_owned(),
        _ if said.is_empty() => format!("exits with code {code}"),
        _ => format!("exits with code {code}: {said}"),
    };
    // Code 2 is bad input or usage: the same input will not do better.
    failure(why, code == 2)
}

/// The last line that says something, no longer than people read.
pub(crate) fn line(text: &str) -> String {
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("");
    let short: String = last.chars().take(300).collect();
    short.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::json;
    use wharf_manifests::names::COLOUR;

    use super::*;
    use crate::workload::{GENERATION, REVISION, workload};

    fn pod(status: Value) -> Object {
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "uid": "u", "labels": {COLOUR: "blue"}, "annotations": {REVISION: "r"}},
                "spec": {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H200"}}, "status": status,
            }))
            .unwrap(),
        )
    }

    fn container(state: Value, last: Value, restarts: u32) -> Object {
        pod(json!({"phase": "Running", "containerStatuses": [
            {"name": "server", "image": "i:1", "restartCount": restarts, "state": state, "lastState": last},
        ]}))
    }

    #[test]
    fn a_cold_start_is_told_by_its_phases() {
        let at = |second: u32| format!("2026-01-01T00:00:{second:02}Z");
        let conditions = json!([
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(2)},
            {"type": "Ready", "status": "True", "lastTransitionTime": at(30)},
        ]);
        let running = json!({"running": {"startedAt": at(12)}});
        let containers = json!([{"name": "server", "restartCount": 0, "state": running}]);
        let status = json!({"phase": "Running", "conditions": conditions, "containerStatuses": containers});
        let with = |change: &dyn Fn(&mut Value)| {
            let mut object = serde_json::to_value(&*pod(status.clone())).unwrap();
            object["metadata"]["creationTimestamp"] = at(0).into();
            change(&mut object);
            [Arc::new(serde_json::from_value(object).unwrap())]
        };
        let took = Duration::from_millis(1500);
        let found = cold_start(&with(&|_| {}), |_| Some(Warmth::Warm(4, took)), None).unwrap();
        assert_eq!(found, ColdStart { schedule: 2.0, fetch: 10.0, load: 18.0, warm: 1.5 });
        assert_eq!(
            cold_start(&with(&|_| {}), |_| None, Some(&found)),
            Some(found),
            "a new operator says the same"
        );
        let restarted = with(&|pod| pod["status"]["containerStatuses"][0]["restartCount"] = 1.into());
        assert_eq!(cold_start(&restarted, |_| None, None), None);
    }

    fn blue() -> Workload {
        let object: Object = Arc::new(serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a-blue", "labels": {COLOUR: "blue"}, "annotations": {REVISION: "r", GENERATION: "3"}},
            "spec": {"replicas": 2},
        })).unwrap());
        workload(&object).unwrap()
    }

    #[test]
    fn what_is_wrong_with_a_pod_is_said_in_words() {
        let waits = |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
        let ended = |code: i64, message: &str| json!({"terminated": {"exitCode": code, "reason": "Error", "message": message}});
        let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let cases = [
            (
                container(waits("ImagePullBackOff", "denied"), json!({}), 0),
                "its image i:1 cannot be pulled: denied",
                0,
                false,
            ),
            (
                container(waits("InvalidImageName", "no"), json!({}), 0),
                "its image i:1 cannot be had: no",
                0,
                true,
            ),
            (
                container(waits("CreateContainerConfigError", "secret \"keys\" not found"), json!({}), 0),
                "its container cannot be made: secret \"keys\" not found",
                0,
                false,
            ),
            (
                container(
                    waits("CrashLoopBackOff", "back-off"),
                    ended(1, "loading\nno such file: m.gguf.\n"),
                    4,
                ),
                "exits with code 1: no such file: m.gguf",
                4,
                false,
            ),
            (container(ended(2, ""), json!({}), 0), "exits with code 2", 0, true),
            (
                container(killed, json!({}), 1),
                "was killed since it needs more memory than resources.limits.memory",
                1,
                false,
            ),
        ];
        for (pod, reason, restarts, lasting) in cases {
            assert_eq!(failure(&pod), Some(Failure { reason: reason.to_owned(), restarts, lasting }));
        }
    }

    #[test]
    fn a_pod_without_a_node_names_the_gpu_and_what_can_be_done() {
        let pod = pod(json!({"phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/3 nodes are available.", "lastTransitionTime": "2026-11-26T10:00:00Z",
        }]}));
        let reason = failure(&pod).unwrap().reason;
        assert!(reason.starts_with("no node with GPU NVIDIA-H200 takes its pod (pending since 2026-11-26T10:00:00Z): 0/3 nodes are available;"), "{reason}");
        assert!(reason.contains("Recreate"));
    }

    #[test]
    fn a_pod_that_starts_or_serves_has_no_failure() {
        assert_eq!(
            failure(&container(json!({"waiting": {"reason": "ContainerCreating"}}), json!({}), 0)),
            None
        );
        assert_eq!(failure(&container(json!({"running": {}}), json!({}), 0)), None);
        let serving = pod(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "server", "restartCount": 4, "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1}}}]}));
        assert_eq!(failure(&serving), None);
    }

    #[test]
    fn a_version_counts_its_own_pods_by_how_they_are() {
        let ready = pod(
            json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}),
        );
        let starting = container(json!({"running": {}}), json!({}), 0);
        let mut other = DynamicObject::clone(&ready);
        other.annotations_mut().insert(REVISION.to_owned(), "before".to_owned());
        let ended = pod(json!({"phase": "Failed"}));
        let pods = [ready, starting, Arc::new(other), ended];
        let busy = BTreeMap::from([("10.0.0.1:8080".to_owned(), 3), ("10.0.0.10:8080".to_owned(), 9)]);
        let seen =
            &versions(&[blue()], &pods, |_| Some(Warmth::Warm(4, Duration::ZERO)), &busy)[&Colour::Blue];
        let (generation, revision) = (3, "r".to_owned());
        let expected = VersionSeen {
            generation,
            revision,
            ready: 1,
            starting: 1,
            warmed: 1,
            in_flight: 3,
            ..VersionSeen::default()
        };
        assert_eq!(*seen, expected);
        let failed = versions(&[blue()], &pods, |_| Some(Warmth::Failed("503".to_owned())), &busy);
        assert_eq!(failed[&Colour::Blue].warmup_failed.as_deref(), Some("503"));
        assert!(versions(&[], &pods, |_| None, &busy).is_empty());
    }
}
