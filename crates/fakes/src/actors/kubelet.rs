//! Scheduler and kubelet: Pods get a node, an address, and the fate that a test has for them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::Next;
use super::api::{Things, conditions, now, text};
use crate::wire::lock;

/// Tells the actor of EndpointSlices on which port a Pod really listens: fakes share the address of one machine.
pub const PORT_ANNOTATION: &str = "fakes.wharf.dev/port";
/// A server that does not answer a probe for this long is not ready.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Where Pods run. Real controllers of endpoints look for the object of this name.
pub const NODE: &str = "fake-node";

/// How a Pod fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It runs at this address (a [`crate::engine::FakeEngine`]'s) and becomes ready after a while.
    Runs {
        /// Where it listens.
        address: SocketAddr,
        /// Time from running to ready.
        ready_after: Duration,
    },
    /// It runs at this address and is ready while `GET /ready` there answers 200, which is asked every so often.
    Probed {
        /// Where it listens.
        address: SocketAddr,
        /// Time between two probes.
        every: Duration,
    },
    /// It runs at this address and is not ready.
    NotReady {
        /// Where it listens.
        address: SocketAddr,
    },
    /// No node has room for it.
    Unschedulable,
    /// Its image cannot be pulled.
    ImagePullError,
    /// Its container ends again and again.
    CrashLoop {
        /// How often it has.
        restarts: u32,
        /// Its exit code.
        exit_code: i32,
    },
    /// Its container has ended for good.
    Ended {
        /// Its exit code; 0 is success.
        exit_code: i32,
    },
    /// Nothing happens to it yet: it is not scheduled or, when it is being deleted, it goes on terminating.
    Waits,
}

impl Fate {
    /// It runs at this address and is ready at once.
    pub fn runs(address: SocketAddr) -> Fate {
        Fate::Runs { address, ready_after: Duration::ZERO }
    }
}

pub(crate) struct Kubelet {
    pods: Things,
    fate: Box<dyn Fn(&Value) -> Fate + Send + Sync>,
    /// Since when each pod runs, by uid.
    running: Mutex<HashMap<String, Instant>>,
}

impl Kubelet {
    pub(crate) fn new(pods: Things, fate: Box<dyn Fn(&Value) -> Fate + Send + Sync>) -> Kubelet {
        Kubelet { pods, fate, running: Mutex::default() }
    }

    pub(crate) async fn round(self: Arc<Self>) -> kube::Result<Next> {
        let pods = self.pods.list().await?;
        let mut next: Option<Duration> = None;
        for pod in &pods {
            if let Some(wait) = self.tend(pod).await? {
                next = Some(next.map_or(wait, |next| next.min(wait)));
            }
        }
        lock(&self.running).retain(|uid, _| pods.iter().any(|pod| pod["metadata"]["uid"] == *uid));
        Ok(next.map_or(Next::Change, Next::After))
    }

    /// Does the next thing for one pod; returns when it wants to be looked at again.
    async fn tend(&self, pod: &Value) -> kube::Result<Option<Duration>> {
        let fate = (self.fate)(pod);
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            if fate != Fate::Waits {
                self.pods.delete_now(pod).await?;
            }
            return Ok(None);
        }
        let placed = !text(&pod["spec"]["nodeName"]).is_empty();
        match fate {
            Fate::Waits => return Ok(None),
            Fate::Unschedulable => {
                self.pods.change_status(pod, &status(pod, &fate, Readiness::No)).await?;
                return Ok(None);
            }
            Fate::Runs { .. }
            | Fate::Probed { .. }
            | Fate::NotReady { .. }
            | Fate::ImagePullError
            | Fate::CrashLoop { .. }
            | Fate::Ended { .. } => {}
        }
        if !placed {
            self.pods.bind(pod, NODE).await?;
        }
        let mut probed = Readiness::No;
        let (address, wait) = match &fate {
            Fate::Runs { address, ready_after } => {
                let uid = text(&pod["metadata"]["uid"]).to_owned();
                let since = *lock(&self.running).entry(uid).or_insert_with(Instant::now);
                (Some(*address), ready_after.saturating_sub(since.elapsed()))
            }
            Fate::Probed { address, every } => {
                probed = probe(*address).await;
                (Some(*address), *every)
            }
            Fate::NotReady { address } => (Some(*address), Duration::ZERO),
            Fate::Unschedulable
            | Fate::ImagePullError
            | Fate::CrashLoop { .. }
            | Fate::Ended { .. }
            | Fate::Waits => (None, Duration::ZERO),
        };
        if let Some(address) = address {
            let port = address.port().to_string();
            if pod["metadata"]["annotations"][PORT_ANNOTATION] != port {
                self.pods.change(pod, &json!({"metadata": {"annotations": {PORT_ANNOTATION: port}}})).await?;
            }
        }
        let waited = matches!(fate, Fate::Runs { .. }) && wait.is_zero();
        let ready = if waited { Readiness::Yes } else { probed };
        self.pods.change_status(pod, &status(pod, &fate, ready)).await?;
        Ok((!wait.is_zero()).then_some(wait))
    }
}

/// Asks a server whether it is ready.
async fn probe(address: SocketAddr) -> Readiness {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n").await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match timeout(PROBE_TIMEOUT, ask).await {
        Ok(Ok(answer)) if answer.ends_with(b" 200") => Readiness::Yes,
        _ => Readiness::No,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Readiness {
    Yes,
    No,
}

/// The status of a pod. Pure but for the time.
fn status(pod: &Value, fate: &Fate, ready: Readiness) -> Value {
    let ready = ready == Readiness::Yes;
    let scheduled = !matches!(fate, Fate::Unschedulable | Fate::Waits);
    let phase = match fate {
        Fate::Runs { .. } | Fate::Probed { .. } | Fate::NotReady { .. } | Fate::CrashLoop { .. } => "Running",
        Fate::Unschedulable | Fate::ImagePullError | Fate::Waits => "Pending",
        Fate::Ended { exit_code: 0 } => "Succeeded",
        Fate::Ended { .. } => "Failed",
    };
    let mut wanted = vec![(
        "PodScheduled",
        scheduled,
        if scheduled { "" } else { "Unschedulable" },
        if scheduled { "" } else { "0/1 nodes are available: 1 Insufficient nvidia.com/gpu." },
    )];
    if scheduled {
        let reason = if ready { "" } else { "ContainersNotReady" };
        wanted.extend([
            ("Initialized", true, "", ""),
            ("ContainersReady", ready, reason, ""),
            ("Ready", ready, reason, ""),
        ]);
    }
    let mut status = json!({"phase": phase, "conditions": conditions(pod, &wanted)});
    if scheduled {
        let started = pod["status"]["startTime"].as_str().map_or_else(now, str::to_owned);
        status["startTime"] = started.clone().into();
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        status["containerStatuses"] = containers.map(|spec| container(spec, fate, ready, &started)).collect();
    }
    if let Fate::Runs { address, .. } | Fate::Probed { address, .. } | Fate::NotReady { address } = fate {
        let ip = address.ip().to_string();
        status["podIP"] = ip.clone().into();
        status["podIPs"] = json!([{"ip": ip}]);
        status["hostIP"] = "127.0.0.1".into();
    }
    status
}

fn container(spec: &Value, fate: &Fate, ready: bool, started: &str) -> Value {
    let (state, last, restarts) = match fate {
        Fate::Runs { .. } | Fate::Probed { .. } | Fate::NotReady { .. } => {
            (json!({"running": {"startedAt": started}}), json!({}), 0)
        }
        Fate::ImagePullError => {
            let message = format!("Back-off pulling image {}", spec["image"]);
            (json!({"waiting": {"reason": "ImagePullBackOff", "message": message}}), json!({}), 0)
        }
        Fate::CrashLoop { restarts, exit_code } => {
            let ended = json!({"terminated": {"exitCode": exit_code, "reason": "Error", "startedAt": started, "finishedAt": started}});
            let message = "back-off restarting failed container";
            (json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}}), ended, *restarts)
        }
        Fate::Ended { exit_code } => {
            let reason = if *exit_code == 0 { "Completed" } else { "Error" };
            let ended =
                json!({"exitCode": exit_code, "reason": reason, "startedAt": started, "finishedAt": started});
            (json!({"terminated": ended}), json!({}), 0)
        }
        Fate::Unschedulable | Fate::Waits => {
            (json!({"waiting": {"reason": "ContainerCreating"}}), json!({}), 0)
        }
    };
    json!({
        "name": spec["name"], "image": spec["image"], "imageID": "", "ready": ready, "started": ready,
        "restartCount": restarts, "state": state, "lastState": last,
    })
}
