//! On which nodes pods run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// On which nodes pods run.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    /// Labels that nodes must have, beside the GPU's product.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated, beside the GPU's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Priority class of the pods; the cluster's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class: Option<String>,
    /// Label of nodes over whose values replicas are spread as evenly as can be.
    pub spread_over: String,
    /// Folder of the node for compiled CUDA kernels, shared by pods; kept in the pod if absent. The namespace must allow host paths,
    /// which the Pod Security Standard `restricted` does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/.+$"))]
    pub cuda_cache: Option<String>,
}

impl Default for Placement {
    fn default() -> Self {
        Placement {
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            priority_class: None,
            spread_over: "kubernetes.io/hostname".to_owned(),
            cuda_cache: None,
        }
    }
}
