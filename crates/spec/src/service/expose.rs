//! How clients reach the service.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How clients reach the service.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.type) || self.type != 'HTTPRoute' || has(self.gateway)", "message": "an HTTPRoute needs the gateway that it belongs to"},
    {"rule": "!has(self.type) || self.type != 'Ingress' || (has(self.host) && self.host != '')", "message": "an Ingress needs the host that it answers for"}
]))]
pub struct Expose {
    /// Where the service can be reached from: `ClusterIP` inside the cluster, the others from outside too.
    #[serde(rename = "type")]
    pub kind: ExposeType,
    /// Host name of an Ingress or HTTPRoute.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub host: Option<String>,
    /// Certificate of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSecret>,
    /// Gateway that an HTTPRoute belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayRef>,
    /// Class of an Ingress; the cluster's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_class: Option<String>,
    /// Annotations of the external Service, Ingress or HTTPRoute.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Services select the pods themselves, and Wharf's gateway is left out: no keys, no limits, no canary, no scaling to zero.
    pub direct: bool,
    /// Also makes an InferencePool of the pods, with an endpoint picker, for gateways that know the Gateway API's inference
    /// extension.
    pub inference_pool: bool,
}

/// Where a service can be reached from.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExposeType {
    /// Inside the cluster.
    #[default]
    ClusterIP,
    /// From outside, through a load balancer of the cloud.
    LoadBalancer,
    /// From outside, through an ingress controller.
    Ingress,
    /// From outside, through a gateway of the Gateway API.
    HTTPRoute,
}

/// A Secret of type `kubernetes.io/tls`.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsSecret {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// A gateway of the Gateway API.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace; the service's own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// One of its listeners; all of them if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}
