//! Whatever a child object must say that the spec has no word for.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Part of a child object.
pub type Patch = Map<String, Value>;

macro_rules! overrides {
    ($($(#[doc = $doc:literal])+ $name:ident => $kind:literal;)+) => {
        /// Parts of child objects, merged into them last, as `kubectl patch` merges: objects by key, lists that have names by
        /// name, everything else replaced; `null` removes.
        #[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct Overrides {
            $($(#[doc = $doc])+
            #[serde(skip_serializing_if = "Option::is_none")]
            #[schemars(schema_with = "anything")]
            pub $name: Option<Patch>,)+
        }

        impl Overrides {
            /// Kind and patch of everything that is overridden.
            pub fn patches(&self) -> impl Iterator<Item = (&'static str, &Patch)> {
                [$(($kind, self.$name.as_ref())),+].into_iter().filter_map(|(kind, patch)| Some((kind, patch?)))
            }
        }
    };
}

overrides! {
    /// Of the Deployments.
    deployment => "Deployment";
    /// Of the LeaderWorkerSets.
    leader_worker_set => "LeaderWorkerSet";
    /// Of the pods, whatever makes them: what `template` holds.
    pod => "Pod";
    /// Of every Service.
    service => "Service";
    /// Of the Ingress.
    ingress => "Ingress";
    /// Of the HTTPRoute.
    http_route => "HTTPRoute";
    /// Of the HorizontalPodAutoscaler.
    horizontal_pod_autoscaler => "HorizontalPodAutoscaler";
    /// Of the ScaledObject.
    scaled_object => "ScaledObject";
    /// Of the PodDisruptionBudget.
    pod_disruption_budget => "PodDisruptionBudget";
    /// Of the network policies.
    network_policy => "NetworkPolicy";
    /// Of the ServiceMonitor.
    service_monitor => "ServiceMonitor";
    /// Of the PrometheusRule.
    prometheus_rule => "PrometheusRule";
    /// Of the Jobs.
    job => "Job";
    /// Of the volume claim.
    persistent_volume_claim => "PersistentVolumeClaim";
}

fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}
