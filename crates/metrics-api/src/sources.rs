//! Brings together what pods, gateways, node agents and kubelets say: the values behind each API.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DynamicObject, PartialObjectMeta};
use kube::core::{Selector, SelectorExt};
use kube::runtime::reflector::Store;
use serde_json::Value;
use wharf_manifests::names::SERVICE;

use crate::gpus::{GpuUse, Holder};
use crate::kubelets::Kubelets;
use crate::metric::{Metric, Needs, PodSeen};
use crate::prometheus::{Prometheus, QueryError};
use crate::sampler::Sampler;
use crate::services::Services;
use crate::usage;

/// Everything that is asked for values.
pub(crate) struct Sources {
    /// Pods that answer requests.
    pub(crate) pods: Store<DynamicObject>,
    /// Services, for their labels.
    pub(crate) llm_services: Store<DynamicObject>,
    /// Node agents.
    pub(crate) agents: Store<DynamicObject>,
    pub(crate) sampler: Sampler,
    pub(crate) services: Services,
    /// For metrics that are none of ours, if there is one.
    pub(crate) prometheus: Option<Prometheus>,
    /// For the API of resources alone.
    pub(crate) resources: Option<Resources>,
}

/// What the API of resources needs beside.
pub(crate) struct Resources {
    pub(crate) kubelets: Kubelets,
    pub(crate) nodes: Store<DynamicObject>,
    /// All pods, by what they are called and labelled.
    pub(crate) pods: Store<PartialObjectMeta<Pod>>,
}

/// A value of an object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Of {
    pub(crate) name: String,
    pub(crate) value: f64,
}

impl Sources {
    /// Values of a metric of the pods of a namespace that are selected, or of the one with this name.
    pub(crate) async fn of_pods(
        &self,
        metric: &Metric<PodSeen>,
        namespace: &str,
        name: Option<&str>,
        selector: &Selector,
    ) -> Vec<Of> {
        let pods = self.meant(namespace, name, selector);
        let seen = self.seen(metric.needs, &pods).await;
        let value = |pod: &Arc<DynamicObject>| {
            let value = (metric.value)(seen.get(pod.metadata.uid.as_deref()?)?)?;
            Some(Of { name: pod.name_any(), value })
        };
        pods.iter().filter_map(value).collect()
    }

    /// The same of a metric that is none of ours; none if there is no Prometheus.
    pub(crate) async fn foreign_of_pods(
        &self,
        metric: &str,
        namespace: &str,
        name: Option<&str>,
        selector: &Selector,
    ) -> Option<Result<Vec<Of>, QueryError>> {
        let prometheus = self.prometheus.as_ref()?;
        let pods = self.meant(namespace, name, selector);
        let names: Vec<String> = pods.iter().map(|pod| pod.name_any()).collect();
        let values = prometheus.of_pods(metric, namespace, &names).await;
        Some(values.map(|values| values.into_iter().map(|(name, value)| Of { name, value }).collect()))
    }

    /// Pods of a namespace that are selected, or the one with this name, in the order of their names.
    fn meant(&self, namespace: &str, name: Option<&str>, selector: &Selector) -> Vec<Arc<DynamicObject>> {
        let is_it = |pod: &Arc<DynamicObject>| {
            pod.metadata.namespace.as_deref() == Some(namespace)
                && pod.metadata.deletion_timestamp.is_none()
                && name.is_none_or(|name| pod.metadata.name.as_deref() == Some(name))
                && selector.matches(pod.labels())
        };
        let mut pods: Vec<Arc<DynamicObject>> = self.pods.state().into_iter().filter(is_it).collect();
        pods.sort_by_key(|pod| pod.name_any());
        pods
    }

    /// The sum of a metric over all pods of a service.
    pub(crate) async fn sum_of_pods(&self, metric: &Metric<PodSeen>, namespace: &str, service: &str) -> f64 {
        let selector = Selector::from_iter([(SERVICE.to_owned(), service.to_owned())]);
        self.of_pods(metric, namespace, None, &selector).await.iter().map(|of| of.value).sum()
    }

    async fn seen(&self, needs: Needs, pods: &[Arc<DynamicObject>]) -> HashMap<String, PodSeen> {
        if needs == Needs::Gpu {
            return self.gpus_of(pods).await;
        }
        let engines = self.sampler.engines(pods, needs == Needs::Rate).await;
        engines.into_iter().map(|(uid, seen)| (uid, PodSeen { engine: Some(seen), gpu: None })).collect()
    }

    async fn gpus_of(&self, pods: &[Arc<DynamicObject>]) -> HashMap<String, PodSeen> {
        let mut seen = HashMap::new();
        let mut nodes: BTreeMap<&str, Vec<&DynamicObject>> = BTreeMap::new();
        for pod in pods {
            if let Some(node) = pod.data["spec"]["nodeName"].as_str() {
                nodes.entry(node).or_default().push(pod);
            }
        }
        let used = nodes.keys().map(async |node| (*node, self.gpus_on(node).await));
        for (node, used) in futures_util::future::join_all(used).await {
            for pod in &nodes[node] {
                let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
                let of_pod = used.iter().filter(|((of, pod, _), _)| *of == namespace && *pod == name);
                let sum = of_pod.map(|(_, gpu)| *gpu).reduce(GpuUse::and);
                if let (Some(sum), Some(uid)) = (sum, pod.metadata.uid.clone()) {
                    seen.insert(uid, PodSeen { engine: None, gpu: Some(sum) });
                }
            }
        }
        seen
    }

    async fn gpus_on(&self, node: &str) -> Arc<HashMap<Holder, GpuUse>> {
        let agents = self.agents.state();
        match agents.iter().find(|agent| agent.data["spec"]["nodeName"] == node) {
            Some(agent) => self.sampler.gpus(agent).await,
            None => Arc::default(),
        }
    }

    /// Names of services of a namespace that are selected, or the one with this name.
    pub(crate) fn service_names(
        &self,
        namespace: &str,
        name: Option<&str>,
        selector: &Selector,
    ) -> Vec<String> {
        let all = self.llm_services.state();
        let is_it = |service: &&Arc<DynamicObject>| {
            service.metadata.namespace.as_deref() == Some(namespace)
                && name.is_none_or(|name| service.metadata.name.as_deref() == Some(name))
                && selector.matches(service.labels())
        };
        let mut names: Vec<String> = all.iter().filter(is_it).map(|service| service.name_any()).collect();
        names.sort();
        names
    }
}

impl Resources {
    /// `PodMetrics` of pods of a namespace, or of all, that are selected, or of the one with this name.
    pub(crate) async fn pods(
        &self,
        sources: &Sources,
        (namespace, name): (Option<&str>, Option<&str>),
        selector: &Selector,
        timestamp: &str,
    ) -> Vec<Value> {
        let used = self.kubelets.used();
        let gpus = self.gpus(sources, used.keys()).await;
        let nodes = used.iter().filter_map(|(node, used)| Some((used, gpus.get(node)?.as_ref())));
        let mut all = usage::pods(nodes, timestamp);
        let pods = self.pods.state();
        let is_it = |pod: &&Arc<PartialObjectMeta<Pod>>| {
            let pod = &pod.metadata;
            let labels = pod.labels.as_ref();
            namespace.is_none_or(|namespace| pod.namespace.as_deref() == Some(namespace))
                && name.is_none_or(|name| pod.name.as_deref() == Some(name))
                && labels
                    .map_or_else(|| selector.matches(&BTreeMap::new()), |labels| selector.matches(labels))
        };
        let mut found: Vec<((String, String), Value)> = Vec::new();
        for pod in pods.iter().filter(is_it) {
            let key = (pod.namespace().unwrap_or_default(), pod.name_any());
            if let Some(mut metrics) = all.remove(&key) {
                metrics["metadata"]["labels"] = serde_json::json!(pod.labels());
                found.push((key, metrics));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found.into_iter().map(|(_, metrics)| metrics).collect()
    }

    /// `NodeMetrics` of nodes that are selected, or of the one with this name.
    pub(crate) async fn nodes(
        &self,
        sources: &Sources,
        name: Option<&str>,
        selector: &Selector,
        timestamp: &str,
    ) -> Vec<Value> {
        let used = self.kubelets.used();
        let gpus = self.gpus(sources, used.keys()).await;
        let mut nodes = self.nodes.state();
        nodes.sort_by_key(|node| node.name_any());
        let of = |node: &Arc<DynamicObject>| {
            let of = node.name_any();
            let is_it = name.is_none_or(|name| name == of) && selector.matches(node.labels());
            let mut metrics = is_it
                .then(|| usage::node(&of, used.get(&of)?, gpus.get(&of)?.as_ref(), timestamp))
                .flatten()?;
            metrics["metadata"]["labels"] = serde_json::json!(node.labels());
            Some(metrics)
        };
        nodes.iter().filter_map(of).collect()
    }

    async fn gpus(
        &self,
        sources: &Sources,
        nodes: impl Iterator<Item = &String>,
    ) -> HashMap<String, Arc<HashMap<Holder, GpuUse>>> {
        let read = nodes.map(async |node| (node.clone(), sources.gpus_on(node).await));
        futures_util::future::join_all(read).await.into_iter().collect()
    }
}
