//! A cluster with LLMServices whose pods are fake engines, and a gateway that follows it.

use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use wharf_api::demand::EndpointLoad;
use wharf_fakes::actors::{self, Actor, PORT_ANNOTATION};
use wharf_fakes::cluster::FakeCluster;
use wharf_fakes::engine::{EngineConfig, FakeEngine};
use wharf_gateway::{Gateway, GatewayConfig, Handle, discover};

/// Nothing in these tests takes as long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Tells the gateway's calls from those of the other actors.
pub(crate) const NAME: &str = "wharf-gateway";

/// All of it, until the test ends.
pub(crate) struct World {
    pub(crate) cluster: FakeCluster,
    pub(crate) handle: Handle,
    client: reqwest::Client,
    http: String,
    side: String,
    _slices: Actor,
    _tasks: JoinSet<()>,
    _stop: oneshot::Sender<()>,
}

impl World {
    /// A gateway that follows these namespaces, all if none is named.
    pub(crate) async fn start(namespaces: &[&str]) -> World {
        let cluster = FakeCluster::start().await.unwrap();
        wharf_spec::crd::crds().into_iter().for_each(|crd| drop(cluster.seed(crd)));
        for name in ["demo", "other"] {
            cluster.seed(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        }
        let mut config =
            GatewayConfig { port: 0, metrics_port: 0, threads: Some(1), ..GatewayConfig::default() };
        config.hold.deadline = 5.0;
        config.polling.health = 0.05;
        let gateway = Gateway::bind(config).unwrap();
        let (addresses, handle) = (gateway.addresses(), gateway.handle());
        let (stop, stopped) = oneshot::channel::<()>();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { gateway.serve(async { drop(stopped.await) }).await.unwrap() });
        let namespaces = namespaces.iter().map(|name| (*name).to_owned()).collect();
        let mut config = cluster.config();
        config.headers.push((USER_AGENT, HeaderValue::from_static(NAME)));
        tasks.spawn(discover::cluster(Client::try_from(config).unwrap(), namespaces, handle.clone()));
        World {
            _slices: actors::endpoints(&cluster.client()),
            client: reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap(),
            http: format!("http://{}", addresses.http),
            side: format!("http://{}", addresses.metrics),
            cluster,
            handle,
            _tasks: tasks,
            _stop: stop,
        }
    }

    /// A service `demo/name` of this spec, and the Service that finds its pods.
    pub(crate) fn service(&self, namespace: &str, name: &str, spec: Value) {
        let mut whole = json!({"model": {"source": "hf://a/b", "name": "fake-model"}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.cluster.seed(json!({
            "apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService",
            "metadata": {"name": name, "namespace": namespace}, "spec": whole,
        }));
        self.cluster.seed(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("{name}-pods"), "namespace": namespace, "labels": {"wharf.dev/service": name}},
            "spec": {
                "clusterIP": "None", "ports": [{"name": "http", "port": 8080, "targetPort": "http"}],
                "selector": {"wharf.dev/service": name, "wharf.dev/part": "server"},
            },
        }));
    }

    /// What the operator says of `demo/name`.
    pub(crate) fn status(&self, name: &str, status: Value) {
        let mut service = self.cluster.get("LLMService", &format!("demo/{name}")).unwrap();
        service["status"] = json!({"replicas": 0, "readyReplicas": 0});
        service["status"].as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
        service["metadata"].as_object_mut().unwrap().remove("managedFields");
        service["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        self.cluster.seed(service);
    }

    /// A pod of a service that is this engine.
    pub(crate) fn pod(&self, namespace: &str, service: &str, pod: &str, colour: &str, engine: &FakeEngine) {
        let address = engine.address();
        self.cluster.seed(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": pod, "namespace": namespace, "finalizers": ["tests.wharf.dev/hold"],
                "labels": {"wharf.dev/service": service, "wharf.dev/part": "server", "wharf.dev/colour": colour},
                "annotations": {PORT_ANNOTATION: address.port().to_string()},
            },
            "spec": {"containers": [{"name": "server", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"podIP": address.ip().to_string(), "conditions": [{"type": "Ready", "status": "True"}]},
        }));
    }

    /// A pod is terminated, and does not end yet.
    pub(crate) fn terminate(&self, pod: &str) {
        assert!(self.cluster.delete("Pod", pod));
    }

    /// The status and the JSON of a chat request for this model, sent to this host with this key.
    pub(crate) async fn ask(&self, host: &str, model: &str, key: &str) -> (u16, Value) {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "hello"}]});
        let request = self.client.post(format!("{}/v1/chat/completions", self.http)).header("host", host);
        let request = if key.is_empty() { request } else { request.bearer_auth(key) };
        let response = request.json(&body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }

    /// The shares of traffic that the gateway acknowledges.
    pub(crate) async fn acknowledged(&self) -> discover::TrafficReport {
        let answer = self.client.get(format!("{}/wharf/v1/traffic", self.side)).send().await.unwrap();
        answer.json().await.unwrap()
    }

    /// Endpoints of a service by address; none if the service is not known.
    pub(crate) fn endpoints(&self, service: &str) -> Vec<(String, EndpointLoad)> {
        let demand = self.handle.demand();
        demand.services.get(service).into_iter().flat_map(|demand| demand.endpoints.clone()).collect()
    }

    /// Waits until so many endpoints of a service take requests.
    pub(crate) async fn ready(&self, service: &str, count: usize) {
        let ready = || self.endpoints(service).iter().filter(|(_, load)| load.ready).count() == count;
        until(&format!("{count} endpoints of {service} are ready"), ready).await;
    }
}

pub(crate) async fn engine(name: &str) -> FakeEngine {
    FakeEngine::start(EngineConfig::named(name)).await.unwrap()
}

/// Waits for a condition that becomes true by itself.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, met).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}
