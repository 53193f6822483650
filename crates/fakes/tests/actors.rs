//! A cluster with everything that it does by itself, and model servers behind its Services.

#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use wharf_fakes::actors::{self, Fate, JobFate};
use wharf_fakes::cluster::FakeCluster;
use wharf_fakes::engine::{EngineConfig, FakeEngine};

const SOON: Duration = Duration::from_secs(20);

fn deployment(replicas: u32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "server", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]},
            },
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    })
}

/// Addresses that a Service's slices say are ready.
fn ready(cluster: &FakeCluster) -> Vec<String> {
    let slices = cluster.list("EndpointSlice");
    let mut found = Vec::new();
    for slice in &slices {
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"] == true {
                found.push(format!(
                    "{}:{}",
                    endpoint["addresses"][0].as_str().unwrap(),
                    slice["ports"][0]["port"]
                ));
            }
        }
    }
    found
}

fn phases(cluster: &FakeCluster) -> Vec<String> {
    cluster.list("Pod").iter().map(|pod| pod["status"]["phase"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_comes_up_rolls_over_and_goes_behind_its_service() {
    let cluster = FakeCluster::start().await.unwrap();
    let client = cluster.client();
    let engine = FakeEngine::start(EngineConfig::default()).await.unwrap();
    let address = engine.address();
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = Arc::clone(&broken);
    let _deployments = actors::deployments(&client);
    let _endpoints = actors::endpoints(&client);
    let kubelet = actors::kubelet(&client, move |pod| {
        let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or("");
        if image == "bad" && is_broken.load(Ordering::SeqCst) {
            Fate::ImagePullError
        } else {
            Fate::runs(address)
        }
    });
    cluster.seed(deployment(2, "good"));
    cluster.seed(service());
    let up = |deployment: Option<&Value>| deployment.is_some_and(|d| d["status"]["readyReplicas"] == 2);
    let deployed = cluster.await_object("Deployment", "web", SOON, up).await.unwrap();
    assert_eq!(deployed["status"]["observedGeneration"], 1);
    assert!(
        cluster.until(SOON, |cluster| ready(cluster) == [address.to_string(), address.to_string()]).await
    );

    broken.store(true, Ordering::SeqCst);
    let before: Vec<Value> = cluster.list("Pod");
    cluster.seed(deployment(2, "bad"));
    assert!(
        cluster
            .until(SOON, |cluster| phases(cluster) == ["Running", "Running", "Pending"]
                || phases(cluster) == ["Pending", "Running", "Running"])
            .await
    );
    assert_eq!(ready(&cluster).len(), 2, "the old ones serve on");
    broken.store(false, Ordering::SeqCst);
    kubelet.nudge();
    let over = |deployment: Option<&Value>| {
        deployment.is_some_and(|d| {
            d["status"]["updatedReplicas"] == 2
                && d["status"]["replicas"] == 2
                && d["status"]["readyReplicas"] == 2
                && d["status"]["observedGeneration"] == 2
        })
    };
    cluster.await_object("Deployment", "web", SOON, over).await.unwrap();
    let name = |pod: &Value| pod["metadata"]["name"].clone();
    assert!(
        cluster
            .until(SOON, |cluster| {
                let pods = cluster.list("Pod");
                pods.len() == 2 && pods.iter().all(|pod| before.iter().all(|old| name(old) != name(pod)))
            })
            .await
    );

    cluster.delete("Deployment", "web");
    assert!(cluster.until(SOON, |cluster| cluster.list("Pod").is_empty() && ready(cluster).is_empty()).await);
    cluster.delete("Service", "web");
    assert!(cluster.until(SOON, |cluster| cluster.list("EndpointSlice").is_empty()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_fare_as_they_are_told() {
    let cluster = FakeCluster::start().await.unwrap();
    let client = cluster.client();
    let fate = Arc::new(Mutex::new(Fate::Waits));
    let told = Arc::clone(&fate);
    let kubelet = actors::kubelet(&client, move |_| told.lock().unwrap().clone());
    cluster.seed(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}));
    let becomes = async |new: Fate, pointer: &str, expected: Value| {
        *fate.lock().unwrap() = new;
        kubelet.nudge();
        let reached = |pod: Option<&Value>| pod.and_then(|pod| pod.pointer(pointer)) == Some(&expected);
        cluster.await_object("Pod", "p", SOON, reached).await.unwrap();
    };
    let address: SocketAddr = "127.0.0.1:1234".parse().unwrap();
    let waiting = "/status/containerStatuses/0/state/waiting/reason";
    becomes(Fate::Unschedulable, "/status/conditions/0/reason", "Unschedulable".into()).await;
    becomes(Fate::ImagePullError, waiting, "ImagePullBackOff".into()).await;
    becomes(
        Fate::CrashLoop { restarts: 3, exit_code: 1 },
        "/status/containerStatuses/0/restartCount",
        3.into(),
    )
    .await;
    becomes(Fate::NotReady { address }, "/status/podIP", "127.0.0.1".into()).await;
    becomes(
        Fate::Runs { address, ready_after: Duration::from_millis(20) },
        "/status/containerStatuses/0/ready",
        true.into(),
    )
    .await;
    let engine = FakeEngine::start(EngineConfig::default()).await.unwrap();
    let probed = Fate::Probed { address: engine.address(), every: Duration::from_millis(10) };
    engine.drain();
    becomes(probed.clone(), "/status/containerStatuses/0/ready", false.into()).await;
    engine.heal().await.unwrap();
    becomes(probed, "/status/containerStatuses/0/ready", true.into()).await;
    becomes(Fate::Ended { exit_code: 2 }, "/status/phase", "Failed".into()).await;
    assert_eq!(cluster.get("Pod", "p").unwrap()["spec"]["nodeName"], actors::NODE);
    cluster.delete("Pod", "p");
    cluster.await_object("Pod", "p", SOON, |pod| pod.is_none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_end_as_they_are_told() {
    let cluster = FakeCluster::start().await.unwrap();
    let _jobs = actors::jobs(&cluster.client(), |job| match job["metadata"]["name"].as_str() {
        Some("good") => JobFate::Completes { after: Duration::from_millis(20) },
        Some("bad") => JobFate::fails(),
        _ => JobFate::Runs,
    });
    for name in ["good", "bad", "long"] {
        cluster.seed(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": {"spec": {}}}}));
    }
    let condition = |index: usize, kind: &'static str| {
        move |job: Option<&Value>| job.is_some_and(|job| job["status"]["conditions"][index]["type"] == kind)
    };
    let good = cluster.await_object("Job", "good", SOON, condition(1, "Complete")).await.unwrap();
    assert_eq!((good["status"]["succeeded"].clone(), good["status"]["active"].clone()), (1.into(), 0.into()));
    cluster.await_object("Job", "bad", SOON, condition(1, "Failed")).await.unwrap();
    cluster
        .await_object("Job", "long", SOON, |job| job.is_some_and(|job| job["status"]["active"] == 1))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_does_not_come_up_says_so() {
    let cluster = FakeCluster::start().await.unwrap();
    let client = cluster.client();
    let _deployments = actors::deployments(&client);
    let _kubelet = actors::kubelet(&client, |_| Fate::CrashLoop { restarts: 1, exit_code: 1 });
    let mut late = deployment(1, "bad");
    late["spec"]["progressDeadlineSeconds"] = 1.into();
    cluster.seed(late);
    let reason = |deployment: Option<&Value>| {
        deployment.is_some_and(|d| d["status"]["conditions"][1]["reason"] == "ProgressDeadlineExceeded")
    };
    let deployment = cluster.await_object("Deployment", "web", SOON, reason).await.unwrap();
    assert_eq!(deployment["status"]["conditions"][1]["status"], "False");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_pods_come_up_and_are_made_anew_together() {
    let cluster = FakeCluster::start().await.unwrap();
    cluster.install("leaderworkerset.x-k8s.io");
    let client = cluster.client();
    let _groups = actors::leader_worker_sets(&client);
    let _kubelet = actors::kubelet(&client, |_| Fate::runs("127.0.0.1:1".parse().unwrap()));
    let template = json!({"metadata": {"labels": {"app": "llm"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.seed(json!({"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": "llm"},
        "spec": {"replicas": 1, "leaderWorkerTemplate": {"size": 2, "leaderTemplate": template, "workerTemplate": template}}}));
    let up = |set: Option<&Value>| set.is_some_and(|set| set["status"]["readyReplicas"] == 1);
    cluster.await_object("LeaderWorkerSet", "llm", SOON, up).await.unwrap();
    let uid = |name: &str| cluster.get("Pod", name).map(|pod| pod["metadata"]["uid"].clone());
    let (leader, worker) = (uid("llm-0"), uid("llm-0-1"));
    assert!(leader.is_some() && worker.is_some());
    cluster.delete("Pod", "llm-0-1");
    let anew = |now: Option<Value>, was: &Option<Value>| now.is_some() && now != *was;
    assert!(cluster.until(SOON, |_| anew(uid("llm-0"), &leader) && anew(uid("llm-0-1"), &worker)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_going_serves_until_it_is_gone() {
    let cluster = FakeCluster::start().await.unwrap();
    let client = cluster.client();
    let held = Arc::new(AtomicBool::new(true));
    let holds = Arc::clone(&held);
    let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let _endpoints = actors::endpoints(&client);
    let kubelet = actors::kubelet(&client, move |pod| {
        let going = pod["metadata"]["deletionTimestamp"].is_string();
        if going && holds.load(Ordering::SeqCst) { Fate::Waits } else { Fate::runs(address) }
    });
    cluster.seed(service());
    cluster
        .seed(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}));
    let shows = |ready: bool, serving: bool, terminating: bool| {
        let wanted = json!({"ready": ready, "serving": serving, "terminating": terminating});
        move |cluster: &FakeCluster| {
            cluster.list("EndpointSlice").iter().any(|slice| slice["endpoints"][0]["conditions"] == wanted)
        }
    };
    assert!(cluster.until(SOON, shows(true, true, false)).await);
    cluster.delete("Pod", "p");
    assert!(cluster.until(SOON, shows(false, true, true)).await);
    held.store(false, Ordering::SeqCst);
    kubelet.nudge();
    let empty = |cluster: &FakeCluster| {
        cluster.list("EndpointSlice").iter().all(|slice| slice["endpoints"].is_null())
    };
    assert!(cluster.until(SOON, |cluster| cluster.get("Pod", "p").is_none() && empty(cluster)).await);
}
