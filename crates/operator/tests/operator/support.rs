//! A cluster with an operator, gateways that follow it, and pods that fare as a test says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use wharf_api::demand::{DemandReport, ServiceDemand, VersionCounts};
use wharf_fakes::actors::{self, Actor, Fate, JobFate, PORT_ANNOTATION};
use wharf_fakes::cluster::Call;
use wharf_fakes::engine::{EngineConfig, FakeEngine};
use wharf_fakes::stage::Stage;
use wharf_manifests::Settings;
use wharf_operator::{Answers, Gateways, Heard, HttpProbe, Operator, Options, Side, run};
use wharf_rollout::{Colour, GatewaySeen};

/// Nothing in these tests takes as long unless it hangs.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// The operator's clock is faster than ours: releases take minutes.
const PACE: u64 = 60;
/// Kinds of others.
const GROUPS: [&str; 5] = [
    "monitoring.coreos.com",
    "gateway.networking.k8s.io",
    "inference.networking.k8s.io",
    "leaderworkerset.x-k8s.io",
    "keda.sh",
];
/// What the operator's client calls itself.
const NAME: &str = "operator";
/// Who the operator is, where rights are asked for.
const USER: &str = "system:serviceaccount:wharf-system:wharf-operator";
/// Addresses of Pods: a real API server takes none of loopback. They listen where their annotation says.
pub(crate) const POD_IP: &str = "10.1.2.3";
const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

pub(crate) struct World {
    pub(crate) cluster: Stage,
    pub(crate) engine: FakeEngine,
    pub(crate) fates: Fates,
    /// How long an operator that is started waits at most before it looks again.
    pub(crate) longest: Mutex<Duration>,
    /// How long it waits at most while a release is under way.
    pub(crate) beat: Mutex<Duration>,
    /// What an operator that is started is told.
    settings: Mutex<Settings>,
    operator: Mutex<Option<JoinHandle<()>>>,
    /// Where the operator that was started last says how it is.
    side: Mutex<Side>,
    actors: Vec<Actor>,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    asked: Asked,
}

/// What is asked of the gateways.
#[derive(Clone)]
struct Asked {
    lines: broadcast::Sender<Arc<DemandReport>>,
    services: Arc<Mutex<BTreeMap<String, ServiceDemand>>>,
    sequence: Arc<AtomicU64>,
    /// How green versions answer, by service: what is counted between two questions.
    green: Arc<Mutex<BTreeMap<String, VersionCounts>>>,
}

/// How pods and Jobs fare: by a text that is in them.
#[derive(Clone, Default)]
pub(crate) struct Fates {
    pods: Arc<Mutex<BTreeMap<String, Fate>>>,
    jobs: Arc<Mutex<BTreeMap<String, JobFate>>>,
}

impl Fates {
    pub(crate) fn pods_with(&self, text: &str, fate: Fate) {
        self.pods.lock().unwrap().insert(text.to_owned(), fate);
    }

    pub(crate) fn jobs_with(&self, text: &str, fate: JobFate) {
        self.jobs.lock().unwrap().insert(text.to_owned(), fate);
    }
}

fn find<F: Clone>(fates: &Mutex<BTreeMap<String, F>>, object: &Value) -> Option<F> {
    let whole = object.to_string();
    fates.lock().unwrap().iter().find(|(text, _)| whole.contains(*text)).map(|(_, fate)| fate.clone())
}

/// Gateways that follow the status at once, and of whose requests every one is answered unless a test says otherwise.
struct Following {
    cluster: Stage,
    asked: Asked,
    /// How often they were asked.
    questions: AtomicU64,
}

/// What is counted of a version between two questions.
fn well() -> VersionCounts {
    VersionCounts { answered: 50, ..VersionCounts::default() }
}

fn times(counts: &VersionCounts, n: u64) -> VersionCounts {
    let VersionCounts { answered, failed, first_token } = counts;
    let first_token = first_token.iter().map(|count| count * n).collect();
    VersionCounts { answered: answered * n, failed: failed * n, first_token }
}

#[async_trait]
impl Gateways for Following {
    async fn hear(&self, service: &str) -> Vec<Heard> {
        let object = self.cluster.read("LLMService", service).await.unwrap_or_default();
        let traffic = serde_json::from_value(object["status"]["traffic"].clone()).unwrap_or_default();
        let questions = self.questions.fetch_add(1, Ordering::Relaxed);
        let green = self.asked.green.lock().unwrap().get(service).cloned().unwrap_or_else(well);
        let counts = [(Colour::Blue, well()), (Colour::Green, green)];
        let counts = counts.map(|(colour, counts)| (colour, times(&counts, questions))).into();
        let gateway = GatewaySeen { name: "gateway".to_owned(), epoch: 1, traffic, counts };
        let asked = self.asked.services.lock().unwrap().get(service).cloned().unwrap_or_default();
        let answers = Answers { tokens: asked.generated_tokens, first_token: asked.first_token };
        vec![Heard { gateway, busy: BTreeMap::new(), answers }]
    }

    fn lines(&self) -> broadcast::Receiver<Arc<DemandReport>> {
        self.asked.lines.subscribe()
    }

    fn followed(&self) -> usize {
        1
    }
}

impl World {
    /// With an operator.
    pub(crate) async fn start() -> World {
        let world = World::without_operator().await;
        world.start_operator();
        world
    }

    pub(crate) async fn without_operator() -> World {
        let cluster = Stage::start().await;
        for crd in wharf_spec::crd::crds() {
            cluster.seed(crd).await;
        }
        for group in GROUPS {
            cluster.install(group).await;
        }
        for name in ["demo", "wharf-system"] {
            cluster.seed(namespace(name)).await;
        }
        // The operator has the rights that an installation gives it, and no others.
        let rights = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
        for object in
            installation().into_iter().filter(|object| rights.iter().any(|kind| object["kind"] == *kind))
        {
            cluster.seed(object).await;
        }
        let has_controllers = cluster.start_controllers();
        let engine = FakeEngine::start(EngineConfig::default()).await.unwrap();
        let client = cluster.client();
        let fates = Fates::default();
        let address = as_a_pod(engine.address());
        let (of_pods, of_jobs) = (Arc::clone(&fates.pods), Arc::clone(&fates.jobs));
        let mut actors = vec![
            actors::leader_worker_sets(&client),
            actors::kubelet(&client, move |pod| find(&of_pods, pod).unwrap_or(Fate::runs(address))),
            actors::jobs(&client, move |job| find(&of_jobs, job).unwrap_or(JobFate::completes())),
        ];
        if !has_controllers {
            actors.extend([actors::deployments(&client), actors::endpoints(&client)]);
        }
        let began = Instant::now();
        let clock = Arc::new(move || {
            let real = u64::try_from(began.elapsed().as_millis()).unwrap();
            1_790_000_000_000 + real * PACE
        });
        World {
            longest: Mutex::new(Duration::from_millis(100)),
            beat: Mutex::new(Duration::from_millis(20)),
            settings: Mutex::default(),
            cluster,
            engine,
            fates,
            operator: Mutex::new(None),
            side: Mutex::default(),
            actors,
            clock,
            asked: Asked {
                lines: broadcast::channel(16).0,
                services: Arc::default(),
                sequence: Arc::default(),
                green: Arc::default(),
            },
        }
    }

    /// An operator that is started foresees room, and has the rights for it.
    pub(crate) async fn foresee_room(&self) {
        self.settings.lock().unwrap().foresee_room = true;
        let group = "rbac.authorization.k8s.io";
        let (api_version, metadata) = (format!("{group}/v1"), json!({"name": "operator-sees-nodes"}));
        let rule = json!({"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]});
        let role =
            json!({"apiVersion": api_version, "kind": "ClusterRole", "metadata": metadata, "rules": [rule]});
        let (_, account) = USER.rsplit_once(':').unwrap();
        let binding = json!({
            "apiVersion": api_version, "kind": "ClusterRoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "operator-sees-nodes"},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "wharf-system"}],
        });
        for object in [role, binding] {
            self.cluster.seed(object).await;
        }
    }

    /// An operator that is started is of a Wharf with this image.
    pub(crate) fn install_image(&self, image: &str) {
        self.settings.lock().unwrap().image = image.to_owned();
    }

    /// Starts an operator, as a new process would.
    pub(crate) fn start_operator(&self) {
        *self.operator.lock().unwrap() = Some(self.operator(None));
    }

    /// An operator that works while it holds the Lease, if it has an identity.
    pub(crate) fn operator(&self, identity: Option<&str>) -> JoinHandle<()> {
        let options = Options {
            lease: identity.map(|identity| ("wharf-system".to_owned(), identity.to_owned())),
            beat: *self.beat.lock().unwrap(),
            longest: *self.longest.lock().unwrap(),
            settings: self.settings.lock().unwrap().clone(),
            // One in memory answers at once, or was told to hang.
            patience: Duration::from_secs(if self.cluster.is_real() { 30 } else { 2 }),
            clock: Arc::clone(&self.clock),
            ..Options::default()
        };
        let probe = HttpProbe::finding(|pod, _| {
            let port = pod.annotations().get(PORT_ANNOTATION)?;
            Some(format!("127.0.0.1:{port}"))
        });
        let gateways = Following {
            cluster: self.cluster.clone(),
            asked: self.asked.clone(),
            questions: AtomicU64::new(0),
        };
        let operator = Operator {
            client: self.cluster.client_of(NAME, USER),
            options,
            gateways: Some(Arc::new(gateways)),
            probe: Some(Arc::new(probe.unwrap())),
            side: Side::default(),
        };
        *self.side.lock().unwrap() = operator.side.clone();
        tokio::spawn(async move { run(operator).await.unwrap() })
    }

    /// Waits until the operator's `/metrics` has a line: it counts what its own watch has shown it.
    pub(crate) async fn until_metrics(&self, line: &str) {
        let reading = async {
            while !self.metrics().await.contains(line) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(timeout(SOON, reading).await.is_ok(), "{line:?} is not in {}", self.metrics().await);
    }

    /// The operator's `/metrics`.
    async fn metrics(&self) -> String {
        let socket = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/metrics", socket.local_addr().unwrap());
        let (_keeps_it, stop) = watch::channel(false);
        let port = tokio::spawn(self.side.lock().unwrap().clone().serve(socket, stop));
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        port.abort();
        text
    }

    /// From now on this is asked of the service `demo/name`.
    pub(crate) fn demand(&self, name: &str, demand: ServiceDemand) {
        let Asked { lines, services, sequence, green: _ } = &self.asked;
        services.lock().unwrap().insert(format!("demo/{name}"), demand);
        let report = DemandReport {
            gateway: "gateway".to_owned(),
            epoch: 1,
            sequence: sequence.fetch_add(1, Ordering::Relaxed) + 1,
            lease_ms: 600_000,
            services: services.lock().unwrap().clone(),
        };
        lines.send(Arc::new(report)).expect("an autoscaler listens");
    }

    /// The green version of `demo/name` answers so whenever gateways are asked. To be said before there is one: they count on.
    pub(crate) fn green_answers(&self, name: &str, counts: VersionCounts) {
        self.asked.green.lock().unwrap().insert(format!("demo/{name}"), counts);
    }

    /// Kills the operator, wherever it is.
    pub(crate) async fn kill_operator(&self) {
        let task = self.operator.lock().unwrap().take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    /// Makes pods and Jobs fare as they are told now.
    pub(crate) fn nudge(&self) {
        self.actors.iter().for_each(Actor::nudge);
    }

    /// A user applies the service `demo/name`.
    pub(crate) async fn service(&self, name: &str, spec: &Value) -> Value {
        self.object("LLMService", name, spec).await
    }

    /// A user applies the model `demo/name`.
    pub(crate) async fn model(&self, name: &str, spec: &Value) -> Value {
        self.object("Model", name, spec).await
    }

    async fn object(&self, kind: &str, name: &str, spec: &Value) -> Value {
        let metadata = json!({"name": name, "namespace": "demo"});
        let object =
            json!({"apiVersion": "wharf.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec});
        self.cluster.seed(object).await
    }

    pub(crate) async fn until(&self, kind: &str, name: &str, reached: impl Fn(&Value) -> bool) -> Value {
        let name = format!("demo/{name}");
        let reached = |object: Option<&Value>| object.is_some_and(&reached);
        self.cluster.await_object(kind, &name, SOON, reached).await.unwrap()
    }

    /// Returns when a service is ready, settled and about its newest generation.
    pub(crate) async fn ready(&self, name: &str) -> Value {
        self.until("LLMService", name, |service| {
            let settled = condition(service, "Progressing")["status"] == "False";
            settled && is_current(service) && condition(service, "Ready")["status"] == "True"
        })
        .await
    }

    /// Names of the pods that serve, by the time they have settled.
    pub(crate) fn pods(&self) -> Vec<String> {
        let pods = self.cluster.list("Pod");
        pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Notes of Events with this reason.
    pub(crate) fn events(&self, reason: &str) -> Vec<String> {
        let events = self.cluster.list("Event.events.k8s.io").into_iter().chain(self.cluster.list("Event"));
        // A real server shows an Event in both of its groups.
        let mut seen = BTreeSet::new();
        let once = events.filter(|event| seen.insert(event["metadata"]["uid"].to_string()));
        let told = once.filter(|event| event["reason"] == reason);
        told.map(|event| event["note"].as_str().or(event["message"].as_str()).unwrap_or_default().to_owned())
            .collect()
    }
}

/// The operator works with the cluster, which ends with the last who has it.
impl Drop for World {
    fn drop(&mut self) {
        if let Some(task) = self.operator.lock().unwrap().take() {
            task.abort();
        }
    }
}

/// A namespace that takes only Pods of the strictest kind.
fn namespace(name: &str) -> Value {
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// What the plain manifests install.
pub(crate) fn installation() -> Vec<Value> {
    let text = include_str!("../../../../deploy/install.yaml");
    let documents = text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap());
    documents.filter(|document: &Value| document.is_object()).collect()
}

/// Where a server of this test is, as a Pod has it.
pub(crate) fn as_a_pod(mut address: SocketAddr) -> SocketAddr {
    address.set_ip(POD_IP.parse().unwrap());
    address
}

/// A Pod with one container that the strictest namespace takes.
pub(crate) fn pod(namespace: &str, name: &str, labels: &Value, container: Value) -> Value {
    let mut container = container;
    container["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let security =
        json!({"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [container], "securityContext": security},
    })
}

/// Whether a status is about the newest generation.
pub(crate) fn is_current(object: &Value) -> bool {
    object["status"]["observedGeneration"] == object["metadata"]["generation"]
}

pub(crate) fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}

/// Calls of the operator.
pub(crate) fn of_operator(calls: &[Call]) -> impl Iterator<Item = &Call> {
    calls.iter().filter(|call| call.user_agent == NAME)
}

/// What the operator wrote.
pub(crate) fn writes(calls: &[Call]) -> Vec<String> {
    let ours = of_operator(calls).filter(|call| WRITES.contains(&call.verb));
    ours.map(|call| format!("{} {}/{} {}", call.verb, call.plural, call.part, call.name)).collect()
}

/// A service that needs no Job: its model lies in a volume.
pub(crate) fn spec(changes: Value) -> Value {
    let mut spec = json!({
        "model": {"source": "pvc://models/one", "name": "fake-model"},
        "rollout": {"keepOldFor": "30s"},
    });
    for (key, value) in changes.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

/// The same with a mark in its pods.
pub(crate) fn marked(mark: &str) -> Value {
    spec(json!({"runtime": {"env": [{"name": "MARK", "value": mark}]}}))
}
