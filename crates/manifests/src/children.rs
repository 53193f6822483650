//! The objects that belong to a service and to a model: one file for those that belong together, one line in a list each.

mod autoscaler;
mod config;
mod disruption;
mod identity;
mod jobs;
mod keda;
mod monitoring;
mod network;
mod picker;
mod pod;
mod routes;
mod services;
mod shared;
mod volume;
mod workload;

use serde_json::Value;
use wharf_spec::Model;

use crate::facts::Facts;
use crate::{Mode, Settings};

/// Makes some of the objects of a service, or none.
type Builder = fn(&Facts<'_>) -> Vec<Value>;

/// In the order in which objects are best applied: what others refer to comes first.
const OF_SERVICE: &[Builder] = &[
    identity::objects,
    network::of_service,
    config::objects,
    volume::of_service,
    jobs::of_service,
    services::objects,
    workload::objects,
    disruption::objects,
    autoscaler::objects,
    keda::objects,
    routes::objects,
    picker::objects,
    monitoring::objects,
];

pub(crate) use jobs::{claim_of_model, place_of_model, removal, steps_of_model};
pub(crate) use pod::template as pod_template;

pub(crate) fn of_service(facts: &Facts<'_>) -> Vec<Value> {
    OF_SERVICE.iter().flat_map(|build| build(facts)).collect()
}

pub(crate) fn of_model(model: &Model, settings: &Settings, mode: Mode) -> Vec<Value> {
    [network::of_model(model, settings, mode), volume::of_model(model), jobs::of_model(model, settings, mode)]
        .concat()
}

/// Objects as documents of YAML.
pub fn print_yaml(objects: &[Value]) -> String {
    let documents = objects.iter().map(|object| {
        let body = serde_saphyr::to_string(object).expect("JSON has a form in YAML");
        format!("---\n{body}")
    });
    documents.collect()
}
