//! Reads what there is to know of a cluster. Whatever cannot be read is told, and the rest goes on.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node as KubeNode, Pod};
use k8s_openapi::api::storage::v1::StorageClass as KubeClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::live::holds;
use crate::run::LEASE;

const GPU: &str = "nvidia.com/gpu";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// What is known of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// As the API server says it.
    pub version: String,
    /// The minor version of Kubernetes 1, if it says one.
    pub minor: Option<u32>,
    /// Groups of kinds that are served.
    pub groups: BTreeSet<String>,
    /// Wharf's own.
    pub definitions: Definitions,
    /// Seconds since an operator renewed its Lease; none if there is no Lease.
    pub lease_age_s: Option<i64>,
    /// Ready pods of gateways.
    pub gateways: usize,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Classes of storage.
    pub storage: Vec<StorageClass>,
    /// What could not be read, and why.
    pub unread: Vec<(String, String)>,
}

/// Definitions of LLMService and Model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Definitions {
    /// One of them is not there.
    #[default]
    Absent,
    /// They are not this version's.
    Other,
    /// They are this version's.
    Current,
}

/// A node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// What it offers of `nvidia.com/gpu`.
    pub gpus: u64,
    /// Whether a label says that it has some.
    pub gpu_labels: bool,
}

/// A class of storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageClass {
    /// Its name.
    pub name: String,
    /// Whether claims that name none get it.
    pub default: bool,
}

/// Reads them.
///
/// # Errors
/// When the API server does not say its version: then there is no cluster to speak of.
pub async fn gather(client: &Client) -> kube::Result<Facts> {
    let version = client.apiserver_version().await?;
    let mut facts = Facts {
        minor: version.minor.trim_end_matches('+').parse().ok(),
        version: version.git_version,
        ..Facts::default()
    };
    match client.list_api_groups().await {
        Ok(list) => facts.groups = list.groups.into_iter().map(|group| group.name).collect(),
        Err(error) => facts.miss("the list of groups", &error),
    }
    facts.definitions = facts.definitions(client).await;
    let leases: Vec<Lease> =
        facts.list(client, "Leases", &ListParams::default().fields(&format!("metadata.name={LEASE}"))).await;
    let renewed = leases.iter().filter_map(|lease| lease.spec.as_ref()?.renew_time.as_ref());
    facts.lease_age_s = renewed.map(|time| (Timestamp::now() - time.0).get_seconds()).min();
    let pods: Vec<Pod> = facts
        .list(client, "Pods", &ListParams::default().labels("app.kubernetes.io/component=gateway"))
        .await;
    facts.gateways = pods.iter().filter(|pod| is_ready(pod)).count();
    let nodes: Vec<KubeNode> = facts.list(client, "Nodes", &ListParams::default()).await;
    facts.nodes = nodes.iter().map(node).collect();
    let classes: Vec<KubeClass> = facts.list(client, "StorageClasses", &ListParams::default()).await;
    facts.storage = classes
        .iter()
        .map(|class| StorageClass {
            name: class.name_any(),
            default: class.annotations().get(DEFAULT_CLASS).is_some_and(|value| value == "true"),
        })
        .collect();
    Ok(facts)
}

impl Facts {
    fn miss(&mut self, what: &str, error: &kube::Error) {
        self.unread.push((what.to_owned(), wharf_telemetry::log::chain(error)));
    }

    async fn list<K>(&mut self, client: &Client, what: &str, params: &ListParams) -> Vec<K>
    where
        K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        match Api::<K>::all(client.clone()).list(params).await {
            Ok(list) => list.items,
            Err(error) => {
                self.miss(what, &error);
                Vec::new()
            }
        }
    }

    async fn definitions(&mut self, client: &Client) -> Definitions {
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        let mut found = Definitions::Current;
        for wanted in wharf_spec::crd::crds() {
            let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
            let live = match api.get_opt(name).await {
                Ok(Some(live)) => serde_json::to_value(live).unwrap_or(Value::Null),
                Ok(None) => return Definitions::Absent,
                Err(error) => {
                    self.miss("CustomResourceDefinitions", &error);
                    return if self.groups.contains("wharf.dev") {
                        Definitions::Other
                    } else {
                        Definitions::Absent
                    };
                }
            };
            if !holds(&wanted["spec"], &live["spec"]) {
                found = Definitions::Other;
            }
        }
        found
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|known| known.type_ == "Ready" && known.status == "True")
}

fn node(node: &KubeNode) -> Node {
    let offers = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let gpus = offers.and_then(|offers| offers.get(GPU)).and_then(|count| count.0.parse().ok());
    let labels: &BTreeMap<String, String> = node.labels();
    let says = |key: &str, value: &str| labels.get(key).is_some_and(|known| known == value);
    Node {
        gpus: gpus.unwrap_or(0),
        gpu_labels: labels.contains_key("nvidia.com/gpu.product")
            || says("nvidia.com/gpu.present", "true")
            || says("node-type", "gpu"),
    }
}
