//! The processes of a control plane: etcd, the API server, and controllers where they are at hand. They end with the [`Plane`].

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use rcgen::KeyPair;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::front_proxy::FrontProxy;

/// Who may do everything.
const TOKEN: &str = "everything";
/// How long a server may take to come up; machines of CI are slow.
const UP_WITHIN: Duration = Duration::from_secs(120);
const AGAIN: Duration = Duration::from_millis(100);

/// What a cluster does by itself, beside what [`crate::actors`] do: they run Pods and end Jobs, as a test says.
const CONTROLLERS: [&str; 8] = [
    "garbage-collector-controller",
    "namespace-controller",
    "deployment-controller",
    "replicaset-controller",
    "endpointslice-controller",
    "serviceaccount-controller",
    "disruption-controller",
    "horizontal-pod-autoscaler-controller",
];

pub(super) struct Plane {
    folder: TempDir,
    assets: PathBuf,
    port: u16,
    processes: Vec<(String, Child)>,
}

impl Plane {
    /// Starts etcd and an API server, and returns when the API server is ready.
    ///
    /// # Panics
    /// When one of them does not start.
    pub(super) async fn start(assets: &Path) -> Plane {
        let folder = tempfile::Builder::new().prefix("wharf-plane").tempdir().expect("a folder");
        let mut plane = Plane { folder, assets: assets.to_owned(), port: free_port(), processes: Vec::new() };
        let (client, peer) = (free_port(), free_port());
        let etcd = format!("http://127.0.0.1:{client}");
        let peers = format!("http://127.0.0.1:{peer}");
        plane.spawn(
            "etcd",
            &[
                &format!("--data-dir={}", plane.path("etcd")),
                &format!("--listen-client-urls={etcd}"),
                &format!("--advertise-client-urls={etcd}"),
                &format!("--listen-peer-urls={peers}"),
                "--unsafe-no-fsync",
            ],
        );
        fs::write(plane.folder.path().join("tokens"), format!("{TOKEN},admin,admin,system:masters\n"))
            .expect("a file");
        let key = KeyPair::generate().expect("a key");
        fs::write(plane.folder.path().join("accounts.key"), key.serialize_pem()).expect("a file");
        fs::write(plane.folder.path().join("accounts.pub"), key.public_key_pem()).expect("a file");
        let front_proxy = FrontProxy::new();
        for (name, text) in [
            ("front-proxy-ca.crt", &front_proxy.authority),
            ("front-proxy.crt", &front_proxy.certificate),
            ("front-proxy.key", &front_proxy.key),
        ] {
            fs::write(plane.folder.path().join(name), text).expect("a file");
        }
        plane.spawn(
            "kube-apiserver",
            &[
                &format!("--etcd-servers={etcd}"),
                &format!("--cert-dir={}", plane.path("certificates")),
                "--bind-address=127.0.0.1",
                &format!("--secure-port={}", plane.port),
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=RBAC",
                &format!("--token-auth-file={}", plane.path("tokens")),
                "--service-account-issuer=https://plane.test",
                &format!("--service-account-key-file={}", plane.path("accounts.pub")),
                &format!("--service-account-signing-key-file={}", plane.path("accounts.key")),
                // For servers that it asks in the name of others, such as a metrics API.
                &format!("--requestheader-client-ca-file={}", plane.path("front-proxy-ca.crt")),
                "--requestheader-allowed-names=front-proxy-client",
                "--requestheader-username-headers=X-Remote-User",
                "--requestheader-group-headers=X-Remote-Group",
                "--requestheader-extra-headers-prefix=X-Remote-Extra-",
                &format!("--proxy-client-cert-file={}", plane.path("front-proxy.crt")),
                &format!("--proxy-client-key-file={}", plane.path("front-proxy.key")),
                // Pods come without tokens of accounts that no controller makes.
                "--disable-admission-plugins=ServiceAccount",
                "--allow-privileged=false",
            ],
        );
        let config = config(&plane.kubeconfig()).await;
        let up = async {
            let client = kube::Client::try_from(config).expect("a client");
            let ready = || http::Request::get("/readyz").body(Vec::new()).expect("a request");
            while client.request_text(ready()).await.is_err() {
                plane.ensure_running();
                sleep(AGAIN).await;
            }
        };
        assert!(
            timeout(UP_WITHIN, up).await.is_ok(),
            "the API server is not ready: {}",
            plane.log("kube-apiserver")
        );
        plane
    }

    /// Starts controllers, if they are at hand, and says whether they are.
    pub(super) fn start_controllers(&mut self) -> bool {
        if !self.assets.join("kube-controller-manager").exists() {
            return false;
        }
        let path = self.folder.path().join("kubeconfig");
        fs::write(&path, self.kubeconfig()).expect("a file");
        self.spawn(
            "kube-controller-manager",
            &[
                &format!("--kubeconfig={}", path.display()),
                &format!("--controllers={}", CONTROLLERS.join(",")),
                "--leader-elect=false",
                "--secure-port=0",
                "--horizontal-pod-autoscaler-sync-period=1s",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            ],
        );
        true
    }

    /// How to reach it, as a kubeconfig file says it.
    pub(super) fn kubeconfig(&self) -> String {
        let server = format!("https://127.0.0.1:{}", self.port);
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "plane",
            "clusters": [{"name": "plane", "cluster": {"server": server, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "plane", "user": {"token": TOKEN}}],
            "contexts": [{"name": "plane", "context": {"cluster": "plane", "user": "plane"}}],
        })
        .to_string()
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn spawn(&mut self, program: &str, arguments: &[&str]) {
        let log = File::create(self.folder.path().join(format!("{program}.log"))).expect("a file");
        let errors = log.try_clone().expect("a file");
        let mut command = Command::new(self.assets.join(program));
        command.args(arguments).stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().unwrap_or_else(|error| panic!("failed to start {program}: {error}"));
        self.processes.push((program.to_owned(), child));
    }

    fn ensure_running(&mut self) {
        let ended = |(program, child): &mut (String, Child)| {
            let ended = child.try_wait().expect("a child of ours");
            ended.map(|_| program.clone())
        };
        if let Some(program) = self.processes.iter_mut().find_map(ended) {
            panic!("{program} ended: {}", self.log(&program));
        }
    }

    /// The end of what a process said.
    fn log(&self, program: &str) -> String {
        let said = fs::read_to_string(self.folder.path().join(format!("{program}.log"))).unwrap_or_default();
        let lines: Vec<&str> = said.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        for (_, child) in self.processes.iter_mut().rev() {
            // One that has ended already is no loss.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a kubeconfig file says, for kube's client.
pub(super) async fn config(kubeconfig: &str) -> Config {
    let read = Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(read, &options).await.expect("the kubeconfig can be used")
}

/// A port that nobody has now.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port of loopback");
    listener.local_addr().expect("its address").port()
}
