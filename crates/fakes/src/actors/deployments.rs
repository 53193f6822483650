//! Deployments: which Pods there should be, and what the status says.
//!
//! There are no ReplicaSets: a Pod belongs to its Deployment, and `pod-template-hash` tells which template it was made from.

use std::time::Duration;

use serde_json::{Value, json};

use super::Next;
use super::api::{self, Things, conditions, count, is_controlled_by, is_true, now};

/// Nothing is late before this.
const LONGEST: Duration = Duration::MAX;
const HASH: &str = "pod-template-hash";

/// What is to be done for one Deployment.
#[derive(Debug, PartialEq)]
struct Plan {
    create: usize,
    /// Indices of pods.
    delete: Vec<usize>,
}

pub(crate) async fn round(deployments: Things, pods: Things) -> kube::Result<Next> {
    let all = pods.list().await?;
    let mut next = LONGEST;
    for deployment in deployments.list().await? {
        if !deployment["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        let own: Vec<&Value> = all.iter().filter(|pod| is_controlled_by(pod, &deployment)).collect();
        let Plan { create, delete } = plan(&deployment, &own);
        for index in delete {
            pods.delete(own[index]).await?;
        }
        for _ in 0..create {
            pods.create(&pod(&deployment)).await?;
        }
        let status = status(&deployment, &own);
        deployments.change_status(&deployment, &status).await?;
        if status["conditions"][1]["reason"] == "ReplicaSetUpdated" {
            let left = deadline(&deployment).map(|deadline| deadline - seconds_since_progress(&deployment));
            let left = left.map(|left| Duration::from_secs(u64::try_from(left).unwrap_or(0).max(1)));
            next = next.min(left.unwrap_or(LONGEST));
        }
    }
    Ok(if next == LONGEST { Next::Change } else { Next::After(next) })
}

/// Which pods go, and how many come. Terminating pods count neither way.
fn plan(deployment: &Value, pods: &[&Value]) -> Plan {
    let spec = &deployment["spec"];
    let wanted = count(&spec["replicas"]).unwrap_or(1);
    let hash = template_hash(deployment);
    let alive = |index: &usize| pods[*index]["metadata"]["deletionTimestamp"].is_null();
    let is_new = |index: &usize| pods[*index]["metadata"]["labels"][HASH] == hash;
    let ready = |index: &usize| is_true(pods[*index], "Ready");
    let all: Vec<usize> = (0..pods.len()).filter(alive).collect();
    let (new, mut old): (Vec<usize>, Vec<usize>) = all.iter().partition(|index| is_new(index));
    let mut delete = Vec::new();

    if spec["paused"] == true && !old.is_empty() {
        return Plan { create: 0, delete };
    }
    if spec["strategy"]["type"] == "Recreate" {
        // Nothing new before everything old is gone, terminating ones included.
        let any_old = pods.iter().any(|pod| pod["metadata"]["labels"][HASH] != hash);
        let create = if any_old { 0 } else { wanted.saturating_sub(new.len()) };
        delete.extend(old);
        delete.extend(surplus(&new, wanted, ready));
        return Plan { create, delete };
    }
    let rolling = &spec["strategy"]["rollingUpdate"];
    // Kubernetes rounds surge up and unavailability down.
    let surge = share(&rolling["maxSurge"], wanted, usize::div_ceil).unwrap_or(wanted.div_ceil(4));
    let unavailable = share(&rolling["maxUnavailable"], wanted, |a, b| a / b).unwrap_or(wanted / 4);
    let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
    let room = (wanted + surge).saturating_sub(all.len());
    let create = wanted.saturating_sub(new.len()).min(room);
    delete.extend(surplus(&new, wanted, ready));
    // Old pods that are not ready serve nobody and go first; ready ones only as new ones take their place.
    old.sort_by_key(|index| ready(index));
    let ready_now = all.iter().filter(|index| ready(index)).count();
    let mut may_lose = (ready_now + unavailable).saturating_sub(wanted);
    for index in old {
        if !ready(&index) {
            delete.push(index);
        } else if may_lose > 0 {
            may_lose -= 1;
            delete.push(index);
        }
    }
    Plan { create, delete }
}

/// Pods beyond the wanted number, those that are not ready first.
fn surplus(pods: &[usize], wanted: usize, ready: impl Fn(&usize) -> bool) -> Vec<usize> {
    let mut pods = pods.to_vec();
    pods.sort_by_key(|index| ready(index));
    pods[..pods.len().saturating_sub(wanted)].to_vec()
}

/// A number, or a share in percent.
fn share(value: &Value, of: usize, divide: impl Fn(usize, usize) -> usize) -> Option<usize> {
    match value.as_str() {
        None => count(value),
        Some(text) => {
            let percent: usize = text.strip_suffix('%')?.parse().ok()?;
            Some(divide(of * percent, 100))
        }
    }
}

fn template_hash(deployment: &Value) -> String {
    api::hash(&deployment["spec"]["template"])
}

fn pod(deployment: &Value) -> Value {
    let hash = template_hash(deployment);
    let mut pod = api::pod(&deployment["spec"]["template"], deployment, &[(HASH, hash.clone())]);
    pod["metadata"]["generateName"] =
        format!("{}-{hash}-", api::text(&deployment["metadata"]["name"])).into();
    pod
}

/// Seconds that pods of a new template may take to come up.
fn deadline(deployment: &Value) -> Option<i64> {
    deployment["spec"]["progressDeadlineSeconds"].as_i64()
}

fn condition<'a>(deployment: &'a Value, kind: &str) -> &'a Value {
    let conditions = deployment["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

fn seconds_since_progress(deployment: &Value) -> i64 {
    let since = condition(deployment, "Progressing")["lastUpdateTime"].as_str();
    let since = since.and_then(|since| since.parse::<jiff::Timestamp>().ok());
    since.map_or(0, |since| jiff::Timestamp::now().as_second() - since.as_second())
}

fn status(deployment: &Value, pods: &[&Value]) -> Value {
    let wanted = count(&deployment["spec"]["replicas"]).unwrap_or(1);
    let hash = template_hash(deployment);
    let alive: Vec<&&Value> =
        pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
    let ready = alive.iter().filter(|pod| is_true(pod, "Ready")).count();
    let updated: Vec<&&&Value> = alive.iter().filter(|pod| pod["metadata"]["labels"][HASH] == hash).collect();
    let updated_ready = updated.iter().filter(|pod| is_true(pod, "Ready")).count();
    let available = ready >= wanted - wanted / 4;
    let complete = updated_ready >= wanted && alive.len() == updated.len();
    let moved = [("updatedReplicas", updated.len()), ("readyReplicas", ready), ("replicas", alive.len())]
        .iter()
        .any(|(field, count)| deployment["status"][*field] != *count);
    let moved = moved || deployment["status"]["observedGeneration"] != deployment["metadata"]["generation"];
    let waited = if moved { 0 } else { seconds_since_progress(deployment) };
    let late = !complete && deadline(deployment).is_some_and(|deadline| waited >= deadline);
    let (reason, message) = if complete {
        ("NewReplicaSetAvailable", "every pod is of the current template and ready")
    } else if late {
        ("ProgressDeadlineExceeded", "pods of the current template have not come up in time")
    } else {
        ("ReplicaSetUpdated", "pods of the current template are coming up")
    };
    let mut conditions = conditions(
        deployment,
        &[
            (
                "Available",
                available,
                if available { "MinimumReplicasAvailable" } else { "MinimumReplicasUnavailable" },
                "",
            ),
            ("Progressing", !late, reason, message),
        ],
    );
    let before = condition(deployment, "Progressing")["lastUpdateTime"].as_str();
    let progress = before.filter(|_| !moved).map_or_else(now, str::to_owned);
    conditions[1]["lastUpdateTime"] = progress.into();
    json!({
        "observedGeneration": deployment["metadata"]["generation"], "replicas": alive.len(),
        "updatedReplicas": updated.len(), "readyReplicas": ready, "availableReplicas": ready,
        "unavailableReplicas": wanted.max(alive.len()) - ready, "conditions": conditions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(replicas: usize, strategy: Value) -> Value {
        json!({"spec": {"replicas": replicas, "strategy": strategy, "template": {"spec": {"image": "new"}}}})
    }

    /// `n` new, `o` old; capital letters are ready, `t` is old and terminating.
    fn check(replicas: usize, strategy: &Value, pods: &str) -> (usize, Vec<usize>) {
        let deployment = deployment(replicas, strategy.clone());
        let pods: Vec<Value> = pods
            .chars()
            .map(|letter| {
                let hash = if letter.eq_ignore_ascii_case(&'n') { template_hash(&deployment) } else { "old".to_owned() };
                let ready = if letter.is_uppercase() { "True" } else { "False" };
                let mut pod = json!({"metadata": {"labels": {HASH: hash}}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
                if letter == 't' {
                    pod["metadata"]["deletionTimestamp"] = "now".into();
                }
                pod
            })
            .collect();
        let Plan { create, delete } = plan(&deployment, &pods.iter().collect::<Vec<_>>());
        (create, delete)
    }

    #[test]
    fn pods_are_made_up_to_the_wanted_number_and_no_further() {
        let rolling = json!({});
        assert_eq!(check(3, &rolling, ""), (3, vec![]));
        assert_eq!(check(3, &rolling, "nN"), (1, vec![]));
        assert_eq!(check(1, &rolling, "NnN"), (0, vec![1, 0]));
        assert_eq!(check(0, &rolling, "N"), (0, vec![0]));
    }

    #[test]
    fn a_rolling_update_keeps_what_serves() {
        let one_by_one = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
        assert_eq!(check(2, &one_by_one, "OO"), (1, vec![]));
        assert_eq!(check(2, &one_by_one, "OOn"), (0, vec![]));
        assert_eq!(check(2, &one_by_one, "OON"), (0, vec![0]));
        assert_eq!(check(2, &one_by_one, "ON"), (1, vec![]));
        assert_eq!(check(2, &one_by_one, "oO"), (1, vec![0]), "an old pod that does not serve goes");
        let in_place = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "50%"}});
        assert_eq!(check(2, &in_place, "OO"), (0, vec![0]));
    }

    #[test]
    fn recreate_waits_until_all_old_pods_are_gone() {
        let recreate = json!({"type": "Recreate"});
        assert_eq!(check(2, &recreate, "OO"), (0, vec![0, 1]));
        assert_eq!(check(2, &recreate, "t"), (0, vec![]));
        assert_eq!(check(2, &recreate, ""), (2, vec![]));
    }
}
