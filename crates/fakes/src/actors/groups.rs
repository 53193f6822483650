//! LeaderWorkerSets: groups of Pods that come and go together, and what the status says.
//!
//! A group whose Pods are not all there is made anew whole, as `RecreateGroupOnPodRestart` says; a new template replaces one group
//! at a time.

use serde_json::{Value, json};

use super::Next;
use super::api::{self, Things, conditions, count, is_controlled_by, is_true, text};

const NAME: &str = "leaderworkerset.sigs.k8s.io/name";
const GROUP: &str = "leaderworkerset.sigs.k8s.io/group-index";
const WORKER: &str = "leaderworkerset.sigs.k8s.io/worker-index";
const HASH: &str = "leaderworkerset.sigs.k8s.io/template-revision-hash";

/// What is to be done for one set.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    /// Groups of which every Pod is made.
    create: Vec<usize>,
    /// Indices of pods.
    delete: Vec<usize>,
}

pub(crate) async fn round(sets: Things, pods: Things) -> kube::Result<Next> {
    let all = pods.list().await?;
    for set in sets.list().await? {
        if !set["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        let own: Vec<&Value> = all.iter().filter(|pod| is_controlled_by(pod, &set)).collect();
        let Plan { create, delete } = plan(&set, &own);
        for index in delete {
            pods.delete(own[index]).await?;
        }
        for group in create {
            for worker in 0..size(&set) {
                pods.create(&pod(&set, group, worker)).await?;
            }
        }
        sets.change_status(&set, &status(&set, &own)).await?;
    }
    Ok(Next::Change)
}

fn size(set: &Value) -> usize {
    count(&set["spec"]["leaderWorkerTemplate"]["size"]).unwrap_or(1)
}

fn wanted(set: &Value) -> usize {
    count(&set["spec"]["replicas"]).unwrap_or(1)
}

fn group_of(pod: &Value) -> Option<usize> {
    text(&pod["metadata"]["labels"][GROUP]).parse().ok()
}

/// How a group is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    /// Some of its Pods are terminating: nothing is made before they are gone.
    Ending,
    /// Some of its Pods are missing.
    Broken,
    Starting,
    Ready,
}

fn state(set: &Value, pods: &[&Value], group: usize) -> State {
    let members: Vec<&&Value> = pods.iter().filter(|pod| group_of(pod) == Some(group)).collect();
    if members.is_empty() {
        State::Absent
    } else if members.iter().any(|pod| !pod["metadata"]["deletionTimestamp"].is_null()) {
        State::Ending
    } else if members.len() < size(set) {
        State::Broken
    } else if members.iter().all(|pod| is_true(pod, "Ready")) {
        State::Ready
    } else {
        State::Starting
    }
}

fn is_new(set: &Value, pods: &[&Value], group: usize) -> bool {
    let hash = revision(set);
    pods.iter().filter(|pod| group_of(pod) == Some(group)).all(|pod| pod["metadata"]["labels"][HASH] == hash)
}

fn plan(set: &Value, pods: &[&Value]) -> Plan {
    let wanted = wanted(set);
    let states: Vec<State> = (0..wanted).map(|group| state(set, pods, group)).collect();
    let create = (0..wanted).filter(|group| states[*group] == State::Absent).collect();
    let mut going: Vec<usize> =
        (0..wanted).filter(|group| matches!(states[*group], State::Broken | State::Ending)).collect();
    let old = |group: &usize| !is_new(set, pods, *group);
    // An old group that does not serve goes at once; one that serves only while all others do.
    going.extend((0..wanted).filter(|group| states[*group] == State::Starting && old(group)));
    if states.iter().all(|state| *state == State::Ready) {
        going.extend((0..wanted).rev().find(old));
    }
    let is_going = |pod: &Value| match group_of(pod) {
        Some(group) => group >= wanted || going.contains(&group),
        None => true,
    };
    let alive = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
    let delete = (0..pods.len()).filter(|index| is_going(pods[*index]) && alive(pods[*index])).collect();
    Plan { create, delete }
}

fn revision(set: &Value) -> String {
    api::hash(&set["spec"]["leaderWorkerTemplate"])
}

fn pod(set: &Value, group: usize, worker: usize) -> Value {
    let templates = &set["spec"]["leaderWorkerTemplate"];
    let leads = worker == 0 && templates["leaderTemplate"].is_object();
    let template = if leads { &templates["leaderTemplate"] } else { &templates["workerTemplate"] };
    let set_name = text(&set["metadata"]["name"]);
    let labels = [
        (NAME, set_name.to_owned()),
        (GROUP, group.to_string()),
        (WORKER, worker.to_string()),
        (HASH, revision(set)),
    ];
    let mut pod = api::pod(template, set, &labels);
    let leader = format!("{set_name}-{group}");
    let name = if worker == 0 { leader.clone() } else { format!("{leader}-{worker}") };
    pod["metadata"]["name"] = name.into();
    let address = format!("{leader}.{set_name}.{}", text(&set["metadata"]["namespace"]));
    let told = [
        ("LWS_LEADER_ADDRESS", address),
        ("LWS_GROUP_SIZE", size(set).to_string()),
        ("LWS_WORKER_INDEX", worker.to_string()),
    ];
    for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten() {
        if !container["env"].is_array() {
            container["env"] = json!([]);
        }
        let env = container["env"].as_array_mut().into_iter();
        env.for_each(|env| {
            env.extend(told.iter().map(|(name, value)| json!({"name": name, "value": value})))
        });
    }
    pod
}

fn status(set: &Value, pods: &[&Value]) -> Value {
    let wanted = wanted(set);
    let states: Vec<State> = (0..wanted).map(|group| state(set, pods, group)).collect();
    let present = states.iter().filter(|state| **state != State::Absent).count();
    let ready = states.iter().filter(|state| **state == State::Ready).count();
    let updated =
        (0..wanted).filter(|group| states[*group] != State::Absent && is_new(set, pods, *group)).count();
    let available = ready == wanted && updated == wanted;
    let reason = if available { "AllGroupsReady" } else { "GroupsProgressing" };
    let name = text(&set["metadata"]["name"]);
    json!({
        "replicas": present, "readyReplicas": ready, "updatedReplicas": updated,
        "hpaPodSelector": format!("{NAME}={name},{WORKER}=0"),
        "conditions": conditions(set, &[("Available", available, reason, ""), ("Progressing", !available, reason, "")]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(replicas: usize) -> Value {
        json!({"metadata": {"name": "llm", "namespace": "n"}, "spec": {"replicas": replicas, "leaderWorkerTemplate": {
            "size": 2, "leaderTemplate": {"spec": {"containers": [{"name": "l"}]}}, "workerTemplate": {"spec": {"containers": [{"name": "w"}]}}}}})
    }

    /// Pods by group and worker; `old`, `down` and `ending` say how they are.
    fn check(replicas: usize, pods: &[(usize, usize, &str)]) -> (Vec<usize>, Vec<usize>) {
        let set = set(replicas);
        let pods: Vec<Value> = pods
            .iter()
            .map(|(group, worker, how)| {
                let mut pod = pod(&set, *group, *worker);
                let ready = if *how == "down" { "False" } else { "True" };
                pod["status"] = json!({"conditions": [{"type": "Ready", "status": ready}]});
                if *how == "old" {
                    pod["metadata"]["labels"][HASH] = "old".into();
                }
                if *how == "ending" {
                    pod["metadata"]["deletionTimestamp"] = "now".into();
                }
                pod
            })
            .collect();
        let Plan { create, delete } = plan(&set, &pods.iter().collect::<Vec<_>>());
        (create, delete)
    }

    #[test]
    fn groups_come_whole_and_go_whole() {
        assert_eq!(check(2, &[(0, 0, ""), (0, 1, "")]), (vec![1], vec![]));
        assert_eq!(check(1, &[(0, 0, "")]), (vec![], vec![0]), "the rest of a broken group goes");
        assert_eq!(check(1, &[(0, 0, "ending"), (0, 1, "")]), (vec![], vec![1]));
        assert_eq!(check(0, &[(0, 0, ""), (0, 1, "")]), (vec![], vec![0, 1]));
    }

    #[test]
    fn a_new_template_replaces_one_serving_group_at_a_time() {
        let (a, b) = ([(0, 0, "old"), (0, 1, "old")], [(1, 0, "old"), (1, 1, "old")]);
        assert_eq!(check(2, &[a, b].concat()), (vec![], vec![2, 3]));
        let starting = [(1, 0, "down"), (1, 1, "")];
        assert_eq!(check(2, &[a, starting].concat()), (vec![], vec![]));
    }

    #[test]
    fn pods_of_a_group_know_their_leader() {
        let worker = pod(&set(1), 0, 1);
        assert_eq!(worker["metadata"]["name"], "llm-0-1");
        assert_eq!(
            worker["spec"]["containers"][0]["env"][0],
            json!({"name": "LWS_LEADER_ADDRESS", "value": "llm-0.llm.n"})
        );
        assert_eq!(pod(&set(1), 0, 0)["spec"]["containers"][0]["name"], "l");
    }
}
