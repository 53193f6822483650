//! What the installation says, and not the user: images, and where others are in the cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where something of others runs, as network policies see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peer {
    /// Its namespace.
    pub namespace: String,
    /// Labels of its pods.
    pub pods: BTreeMap<String, String>,
}

/// What the installation says. The chart writes it, `wharf render` has the defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// Image of Wharf itself: Jobs, the endpoint picker, and the engine `wharf`.
    pub image: String,
    /// Image of the engine `vllm`.
    pub vllm_image: String,
    /// Image of the engine `sglang`.
    pub sglang_image: String,
    /// Image of the engine `llamacpp` on CPUs.
    pub llamacpp_image: String,
    /// Image of the engine `llamacpp` on GPUs.
    pub llamacpp_cuda_image: String,
    /// Wharf's gateway.
    pub gateway: Peer,
    /// Wharf's operator: it lets new replicas answer their first prompts.
    pub operator: Peer,
    /// Wharf's metrics API: it reads metrics of pods that an autoscaler scales by.
    pub metrics_api: Peer,
    /// Node agents, or dcgm-exporter's pods: they tell what pods use of GPUs.
    pub node_agents: Peer,
    /// Whether node agents read metrics of the pods on their nodes (`exporter.serving`), and are let through to them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub serving_metrics: bool,
    /// Whether the operator watches nodes, and says of a release when the GPUs that they have free are too few for a second version.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub foresee_room: bool,
    /// The cluster's name server.
    pub dns: Peer,
    /// Where KEDA finds Wharf's scaler.
    pub scaler_address: String,
    /// Where KEDA finds Prometheus, when there is no scaler of ours.
    pub prometheus_url: String,
}

impl Default for Settings {
    fn default() -> Self {
        let peer = |namespace: &str, key: &str, value: &str| Peer {
            namespace: namespace.to_owned(),
            pods: BTreeMap::from([(key.to_owned(), value.to_owned())]),
        };
        Settings {
            image: concat!("ghcr.io/wharf-dev/wharf:", env!("CARGO_PKG_VERSION")).to_owned(),
            vllm_image: "docker.io/vllm/vllm-openai:v0.33.0".to_owned(),
            sglang_image: "docker.io/lmsysorg/sglang:v0.5.23".to_owned(),
            llamacpp_image: "ghcr.io/ggml-org/llama.cpp:server".to_owned(),
            llamacpp_cuda_image: "ghcr.io/ggml-org/llama.cpp:server-cuda".to_owned(),
            gateway: peer("wharf-system", "app.kubernetes.io/component", "gateway"),
            operator: peer("wharf-system", "app.kubernetes.io/component", "operator"),
            metrics_api: peer("wharf-system", "app.kubernetes.io/component", "metrics-api"),
            node_agents: peer("wharf-nodes", "app.kubernetes.io/component", "node-agent"),
            serving_metrics: false,
            foresee_room: false,
            dns: peer("kube-system", "k8s-app", "kube-dns"),
            scaler_address: "wharf-metrics-api.wharf-system.svc:9003".to_owned(),
            prometheus_url: "http://prometheus-operated.monitoring.svc:9090".to_owned(),
        }
    }
}
