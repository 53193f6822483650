//! A cluster with a metrics API, and whoever it reads.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use kube::ResourceExt;
use kube::api::DynamicObject;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::WatchStream;
use wharf_api::demand::{DemandReport, ServiceDemand};
use wharf_fakes::actors::PORT_ANNOTATION;
use wharf_fakes::front_proxy::FrontProxy;
use wharf_fakes::stage::Stage;
use wharf_listen::{Limits, Listener};
use wharf_manifests::Peer;
use wharf_metrics_api::{Api, Every, Home, KubeletAccess, Options, Sockets, cluster_role, run};

/// Nothing in these tests takes as long unless it hangs.
pub(crate) const SOON: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(20);
/// What the server's client calls itself, and who it is where rights are asked for.
pub(crate) const NAME: &str = "metrics-api";
const USER: &str = "system:serviceaccount:wharf-system:wharf-metrics-api";
pub(crate) const ROLE: &str = "wharf-metrics-api";
/// Who the API server asks for in these tests.
const HPA: &str = "system:serviceaccount:kube-system:horizontal-pod-autoscaler";
const LIMITS: Limits =
    Limits { header_timeout: Duration::from_secs(10), max_header_bytes: 16 << 10, h2_streams: 16 };

/// A token that is somebody's in memory.
pub(crate) const TOKEN: &str = "reader-token";

pub(crate) struct World {
    pub(crate) cluster: Stage,
    /// Where the API is, and KEDA's scaler, and its own metrics.
    pub(crate) api: SocketAddr,
    pub(crate) scaler: SocketAddr,
    side: SocketAddr,
    front_proxy: FrontProxy,
    _files: tempfile::TempDir,
    _stop: watch::Sender<bool>,
}

impl World {
    pub(crate) async fn start(apis: &[Api]) -> World {
        World::start_on(World::cluster().await, apis).await
    }

    /// A cluster without a metrics API.
    pub(crate) async fn cluster() -> (Stage, FrontProxy) {
        let cluster = Stage::start().await;
        for crd in wharf_spec::crd::crds() {
            cluster.seed(crd).await;
        }
        for name in ["demo", "wharf-system"] {
            let metadata = json!({"name": name});
            cluster.seed(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})).await;
        }
        let front_proxy = FrontProxy::new();
        if let Stage::Memory(memory) = &cluster {
            memory
                .seed(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}}));
            memory.seed(front_proxy.config());
            memory.on_review(|kind, spec| match kind {
                "TokenReview" if spec["token"] == TOKEN => json!({"authenticated": true, "user": {"username": "reader"}}),
                "TokenReview" => json!({"authenticated": false}),
                _ => json!({"allowed": spec["user"] == HPA || spec["user"] == "reader", "reason": "so says the test"}),
            });
        }
        (cluster, front_proxy)
    }

    /// With a Prometheus.
    pub(crate) async fn start_with(apis: &[Api], prometheus: &str) -> World {
        World::start_by(World::cluster().await, apis, Some(prometheus)).await
    }

    pub(crate) async fn start_on(cluster: (Stage, FrontProxy), apis: &[Api]) -> World {
        World::start_by(cluster, apis, None).await
    }

    async fn start_by(
        (cluster, front_proxy): (Stage, FrontProxy),
        apis: &[Api],
        prometheus: Option<&str>,
    ) -> World {
        let listen = async || TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let sockets = Sockets { api: listen().await, scaler: listen().await, side: listen().await };
        let [api, scaler, side] =
            [&sockets.api, &sockets.scaler, &sockets.side].map(|socket| socket.local_addr().unwrap());
        cluster.seed(cluster_role(ROLE, apis)).await;
        grant(&cluster).await;
        // To a real API server this process is not in the cluster.
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "wharf-metrics-api", "namespace": "wharf-system"},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        });
        cluster.seed(service).await;
        let files = tempfile::tempdir().unwrap();
        let token = files.path().join("token");
        std::fs::write(&token, "kubelet-token\n").unwrap();
        let peer = |component: &str| Peer {
            namespace: "wharf-system".to_owned(),
            pods: BTreeMap::from([("app.kubernetes.io/component".to_owned(), component.to_owned())]),
        };
        let options = Options {
            namespace: None,
            apis: apis.to_vec(),
            home: Home {
                namespace: "wharf-system".to_owned(),
                service: "wharf-metrics-api".to_owned(),
                port: api.port(),
                owner: Some(("ClusterRole".to_owned(), ROLE.to_owned())),
            },
            gateway: peer("gateway"),
            node_agents: peer("node-agent"),
            prometheus: prometheus.map(str::to_owned),
            kubelets: Some(KubeletAccess { token, authority: None }),
            find: |pod: &DynamicObject, _| {
                Some(format!("127.0.0.1:{}", pod.annotations().get(PORT_ANNOTATION)?))
            },
            every: Every { look: Duration::from_millis(200), kubelets: Duration::from_millis(200) },
        };
        let client = cluster.client_of(NAME, USER);
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move { run(client, options, sockets, stopped).await.unwrap() });
        let world = World { cluster, api, scaler, side, front_proxy, _files: files, _stop: stop };
        until("it is ready", async || world.side("/ready").await.is_some()).await;
        world
    }

    /// A page of the port for kubelet and Prometheus, if it is well.
    pub(crate) async fn side(&self, path: &str) -> Option<String> {
        let answer =
            reqwest::get(format!("http://{}{path}", self.side)).await.ok()?.error_for_status().ok()?;
        answer.text().await.ok()
    }

    /// What the autoscaler is answered, by way of the API server: a real one, or one that a test plays.
    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        match &self.cluster {
            Stage::Memory(_) => {
                let asked = [("X-Remote-User", HPA), ("X-Remote-Group", "system:authenticated")];
                self.ask(path, true, &asked).await
            }
            Stage::Real(cluster) => {
                let request = Request::get(path).body(Vec::new()).unwrap();
                match cluster.client().request::<Value>(request).await {
                    Ok(answer) => (200, answer),
                    Err(kube::Error::Api(status)) => (status.code, json!({"message": status.message})),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// Asks the server itself, believing the authority that its APIService tells of.
    pub(crate) async fn ask(
        &self,
        path: &str,
        as_front_proxy: bool,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        let secret = self.cluster.get("Secret", "wharf-system/wharf-metrics-api-tls").unwrap();
        let authorities = decoded(&secret["data"]["ca.crt"]);
        let name = "wharf-metrics-api.wharf-system.svc";
        let mut client = reqwest::Client::builder()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(authorities.as_bytes()).unwrap())
            .resolve(name, self.api)
            .no_proxy();
        if as_front_proxy {
            let FrontProxy { certificate, key, .. } = &self.front_proxy;
            client = client
                .identity(reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap());
        }
        let mut request = client.build().unwrap().get(format!("https://{name}:{}{path}", self.api.port()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Waits until what is answered is as `reached` wants it.
    pub(crate) async fn get_until(&self, path: &str, reached: impl Fn(&Value) -> bool) -> Value {
        let last = Mutex::new(Value::Null);
        let wait = async {
            loop {
                let (_, answer) = self.get(path).await;
                let done = reached(&answer);
                *last.lock().unwrap() = answer;
                if done {
                    return;
                }
                sleep(AGAIN).await;
            }
        };
        let done = timeout(SOON, wait).await.is_ok();
        let last = last.lock().unwrap().clone();
        assert!(done, "{path} is at last {last:#}");
        last
    }

    /// A pod of the service `assistant` that listens there.
    pub(crate) async fn pod(&self, name: &str, address: SocketAddr) {
        let labels = json!({
            "app.kubernetes.io/managed-by": "wharf", "wharf.dev/service": "assistant", "wharf.dev/part": "server", "replica": name,
        });
        self.listener("demo", name, &labels, address).await;
    }

    /// A pod of our own that listens there.
    pub(crate) async fn component(&self, component: &str, name: &str, address: SocketAddr) {
        let labels = json!({"app.kubernetes.io/component": component});
        self.listener("wharf-system", name, &labels, address).await;
    }

    async fn listener(&self, namespace: &str, name: &str, labels: &Value, address: SocketAddr) {
        let annotations = json!({PORT_ANNOTATION: address.port().to_string()});
        let metadata =
            json!({"name": name, "namespace": namespace, "labels": labels, "annotations": annotations});
        let containers = json!([{"name": "server", "image": "x"}]);
        self.cluster
            .seed(json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
                "spec": {"containers": containers, "nodeName": "node-a"}, "status": {"phase": "Running"},
            }))
            .await;
    }

    pub(crate) async fn service(&self, name: &str, labels: Value) {
        let metadata = json!({"name": name, "namespace": "demo", "labels": labels});
        let spec = json!({"model": {"source": "pvc://models/one"}});
        self.cluster
            .seed(json!({"apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": metadata, "spec": spec}))
            .await;
    }
}

/// What an installation lets the server do: the cluster's role, its Secret, and whom the API server lets speak for others.
async fn grant(cluster: &Stage) {
    let (account, namespace) =
        (json!({"kind": "User", "name": USER, "apiGroup": "rbac.authorization.k8s.io"}), "wharf-system");
    let role =
        |kind: &str, name: &str| json!({"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"});
    let version = "rbac.authorization.k8s.io/v1";
    for object in [
        json!({"apiVersion": version, "kind": "ClusterRoleBinding", "metadata": {"name": ROLE}, "roleRef": role("ClusterRole", ROLE), "subjects": [account]}),
        wharf_metrics_api::role_at_home(ROLE, namespace, "wharf-metrics-api"),
        json!({"apiVersion": version, "kind": "RoleBinding", "metadata": {"name": ROLE, "namespace": namespace}, "roleRef": role("Role", ROLE), "subjects": [account]}),
        json!({
            "apiVersion": version, "kind": "RoleBinding", "metadata": {"name": ROLE, "namespace": "kube-system"},
            "roleRef": role("Role", "extension-apiserver-authentication-reader"), "subjects": [account],
        }),
    ] {
        cluster.seed(object).await;
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, reached: impl AsyncFn() -> bool) {
    let wait = async {
        while !reached().await {
            sleep(AGAIN).await;
        }
    };
    assert!(timeout(SOON, wait).await.is_ok(), "{what}: not within {SOON:?}");
}

/// What is in a Secret's or an APIService's field.
pub(crate) fn decoded(value: &Value) -> String {
    let bytes: k8s_openapi::ByteString = serde_json::from_value(value.clone()).unwrap();
    String::from_utf8(bytes.0).unwrap()
}

type Body = BoxBody<Bytes, Infallible>;

fn whole(text: &str) -> Body {
    Full::new(Bytes::from(text.to_owned())).boxed()
}

/// Answers every request with the text of the moment, over TLS if there is a certificate. Ends with the test.
async fn serve(
    answer: impl Fn(&Request<Incoming>) -> Response<Body> + Clone + Send + Sync + 'static,
    tls: Option<TlsAcceptor>,
) -> SocketAddr {
    let socket = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let service = service_fn(move |request: Request<Incoming>| {
        std::future::ready(Ok::<_, Infallible>(answer(&request)))
    });
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        Listener { socket, tls, service, limits: LIMITS, connections: None }.run(stopped).await;
        drop(stop);
    });
    address
}

/// Somebody whose metrics are a text.
#[derive(Clone)]
pub(crate) struct Text {
    pub(crate) address: SocketAddr,
    text: Arc<Mutex<String>>,
}

impl Text {
    pub(crate) async fn serve(text: &str) -> Text {
        Text::serve_with(text, None).await
    }

    async fn serve_with(text: &str, tls: Option<TlsAcceptor>) -> Text {
        let text = Arc::new(Mutex::new(text.to_owned()));
        let said = Arc::clone(&text);
        let address = serve(move |_| Response::new(whole(&said.lock().unwrap())), tls).await;
        Text { address, text }
    }

    pub(crate) fn say(&self, text: String) {
        *self.text.lock().unwrap() = text;
    }

    /// A Prometheus that has one answer, and the queries that it was asked.
    pub(crate) async fn prometheus(answer: Value) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
        let queries: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&queries);
        let answer = move |request: &Request<Incoming>| {
            heard.lock().unwrap().push(request.uri().to_string());
            Response::new(whole(&answer.to_string()))
        };
        (serve(answer, None).await, queries)
    }

    /// A kubelet: it takes the token alone.
    pub(crate) async fn kubelet(text: &str) -> Text {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["kubelet".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
        let text = Arc::new(Mutex::new(text.to_owned()));
        let said = Arc::clone(&text);
        let answer = move |request: &Request<Incoming>| {
            let is_known =
                request.headers().get("authorization").is_some_and(|value| value == "Bearer kubelet-token");
            let mut response = Response::new(whole(&said.lock().unwrap()));
            if !is_known || request.uri().path() != "/metrics/resource" {
                *response.status_mut() = http::StatusCode::FORBIDDEN;
            }
            response
        };
        let address = serve(answer, Some(TlsAcceptor::from(Arc::new(config)))).await;
        Text { address, text }
    }
}

/// A gateway whose demand stream says what a test wants.
pub(crate) struct FakeGateway {
    pub(crate) address: SocketAddr,
    lines: watch::Sender<DemandReport>,
}

impl FakeGateway {
    pub(crate) async fn start(name: &str) -> FakeGateway {
        let first = DemandReport {
            gateway: name.to_owned(),
            epoch: 1,
            sequence: 1,
            lease_ms: 600_000,
            ..Default::default()
        };
        let (lines, said) = watch::channel(first);
        let answer = move |_: &Request<Incoming>| {
            let lines = WatchStream::new(said.clone()).map(|report| {
                let mut line = serde_json::to_vec(&report).unwrap();
                line.push(b'\n');
                Ok::<_, Infallible>(Frame::data(Bytes::from(line)))
            });
            Response::new(BodyExt::boxed(StreamBody::new(lines)))
        };
        FakeGateway { address: serve(answer, None).await, lines }
    }

    /// From now on this is asked of `demo/name`.
    pub(crate) fn say(&self, name: &str, demand: ServiceDemand) {
        self.lines.send_modify(|report| {
            report.sequence += 1;
            report.services.insert(format!("demo/{name}"), demand);
        });
    }
}
