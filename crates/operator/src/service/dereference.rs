//! Everything that a look at a service needs from the cluster, as the watches show it.

use kube::ResourceExt;
use serde_json::Value;
use wharf_cluster::{Object, reference};
use wharf_manifests::names::{PART, Part};
use wharf_spec::Model;

use crate::context::Context;
use crate::view::Marks;
use crate::workload::{Workload, workload};

/// What there is.
pub(crate) struct Found {
    pub(crate) object: Object,
    /// The Model that it refers to.
    pub(crate) model: Option<Model>,
    pub(crate) workloads: Vec<Workload>,
    /// Pods that answer requests.
    pub(crate) servers: Vec<Object>,
    /// Pods that make the model.
    pub(crate) makers: Vec<Object>,
    pub(crate) jobs: Vec<Object>,
    /// Pods of the gateway.
    pub(crate) gateways: Vec<Object>,
}

pub(super) fn dereference(context: &Context, object: &Object) -> Found {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let owned = |api_version, kind| {
        let fits = |child: &Marks| child.is_of_service(&name) && child.is_owned_by(&uid);
        context.view.children((api_version, kind), &namespace, fits)
    };
    let workloads = [("apps/v1", "Deployment"), ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")]
        .into_iter()
        .flat_map(|(api_version, kind)| owned(api_version, kind))
        .filter(|workload| workload.metadata.deletion_timestamp.is_none())
        .filter_map(|object| workload(&object))
        .collect();
    let pods = context.view.children(("v1", "Pod"), &namespace, |pod| pod.is_of_service(&name));
    let (servers, makers) = pods
        .into_iter()
        .partition(|pod| pod.labels().get(PART).map(String::as_str) == Some(Part::Server.name()));
    let mut gateways = context.gateway_pods.state();
    gateways.sort_by_key(|pod| pod.name_any());
    Found {
        object: Object::clone(object),
        model: model(context, object, &namespace),
        workloads,
        servers,
        makers,
        jobs: owned("batch/v1", "Job"),
        gateways,
    }
}

fn model(context: &Context, object: &Object, namespace: &str) -> Option<Model> {
    let name = referred(object)?;
    let found = context.models.store.get(&reference(&context.models.resource, namespace, name))?;
    let value: Value = serde_json::to_value(&*found).ok()?;
    // One that cannot be read says so in its own status.
    serde_json::from_value(value).ok()
}

/// Name of the Model that a service refers to.
pub(crate) fn referred(object: &kube::api::DynamicObject) -> Option<&str> {
    object.data["spec"]["model"]["ref"].as_str()
}
