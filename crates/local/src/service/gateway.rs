//! What the gateway is told of a service.

use std::sync::Arc;

use wharf_access::{KeySet, KeySource, WatchedKeys};
use wharf_gateway::config::{EndpointConfig, limits};
use wharf_gateway::{ServiceConfig, ServiceSpec};
use wharf_routing::{Endpoint, Share};
use wharf_spec::LLMService;
use wharf_spec::service::Traffic;

use super::Service;
use crate::options::Written;
use crate::replica::State;
use crate::supervisor::Context;

/// What the gateway was told last.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pushed {
    config: ServiceConfig,
    trouble: Option<String>,
    traffic: Vec<Traffic>,
    /// Name of the keys that were read.
    keys: Option<String>,
}

impl Service {
    /// Tells the gateway, if something is new to it.
    pub(super) fn push(&mut self, context: &Context) {
        let Some(written) = self.serving() else { return };
        let object = &written.object;
        let (keys, locked) = match keys(object, context) {
            Ok(keys) => (keys, None),
            // Nobody may call before the keys are there.
            Err(why) => (Some((String::new(), closed())), Some(why)),
        };
        let mut pushed = Pushed {
            config: self.config(object),
            trouble: locked.or_else(|| self.trouble()),
            traffic: self.traffic.clone(),
            keys: keys.as_ref().map(|(name, _)| name.clone()),
        };
        if self.pushed.as_ref() != Some(&pushed) {
            let spec = ServiceSpec {
                config: pushed.config.clone(),
                keys: keys.map(|(_, keys)| keys),
                trouble: pushed.trouble.clone(),
                traffic: pushed.traffic.clone(),
            };
            context.gateway.set_service(spec);
            self.pushed = Some(pushed.clone());
        }
        // From now on nothing new goes to those that drain.
        let drains = |endpoint: &EndpointConfig| match endpoint {
            EndpointConfig::Full(endpoint) if endpoint.draining => Some(endpoint.address.clone()),
            _ => None,
        };
        let drained: Vec<String> = pushed.config.endpoints.drain(..).filter_map(|e| drains(&e)).collect();
        for replica in self.versions.values_mut().flat_map(|version| &mut version.replicas) {
            replica.announced = drained.contains(&replica.address);
        }
    }

    /// The object of the version that has traffic, or of the one that will.
    fn serving(&self) -> Option<&Arc<Written>> {
        let active = self.rollout.active.as_ref().or(self.rollout.candidate.as_ref());
        let active = active.and_then(|active| self.objects.get(&active.revision));
        // What restarts nothing (limits, keys) holds at once, and the newest object says it.
        let newest = self.written();
        match (active, newest) {
            (Some(active), Some(newest)) if served_name(&active.object) != served_name(&newest.object) => {
                Some(active)
            }
            (_, newest) => newest,
        }
    }

    fn config(&self, object: &LLMService) -> ServiceConfig {
        let spec = &object.spec;
        let endpoints = self.versions.iter().flat_map(|(colour, version)| {
            version.replicas.iter().map(|replica| {
                EndpointConfig::Full(Endpoint {
                    address: replica.address.clone(),
                    colour: colour.name().to_owned(),
                    ready: replica.state == State::Ready,
                    draining: replica.state == State::Draining,
                })
            })
        });
        let share = |traffic: &Traffic| Share { colour: traffic.colour.to_string(), weight: traffic.weight };
        ServiceConfig {
            models: vec![served_name(object)],
            adapters: spec.model.adapters.iter().map(|adapter| adapter.name.to_string()).collect(),
            endpoints: endpoints.collect(),
            traffic: self.traffic.iter().map(share).collect(),
            limits_per_key: spec.access.limits.as_ref().map(limits).unwrap_or_default(),
            ..ServiceConfig::new(self.name.clone(), [] as [String; 0])
        }
    }

    /// Why requests need not wait: it will not start by itself.
    fn trouble(&self) -> Option<String> {
        (self.rollout.phase == wharf_rollout::Phase::Failed && self.ready() == 0)
            .then(|| self.rollout.reason.clone())
    }
}

/// Name that requests use.
pub(super) fn served_name(object: &LLMService) -> String {
    let name = object.spec.model.name.clone().or_else(|| object.metadata.name.clone());
    name.unwrap_or_default()
}

/// Keys that nobody has.
fn closed() -> WatchedKeys {
    WatchedKeys::fixed(KeySet::closed([]).unwrap_or_default())
}

/// The keys that a service asks for, by name.
fn keys(object: &LLMService, context: &Context) -> Result<Option<(String, WatchedKeys)>, String> {
    let Some(wanted) = &object.spec.access.api_keys else { return Ok(None) };
    let name = &wanted.secret_name;
    if let Some(keys) = context.keys(name) {
        return Ok(Some((name.clone(), keys)));
    }
    let file = context.folder.root().join("secrets").join(format!("{name}.yaml"));
    let folder = file.with_extension("");
    let path = if folder.is_dir() { folder } else { file };
    if !path.exists() {
        return Err(format!(
            "it asks for the API keys {name:?}, and there are none on this machine: make one with `wharf key create NAME --file {}`",
            path.display()
        ));
    }
    let keys = WatchedKeys::follow(KeySource::new(&path)).map_err(|e| wharf_telemetry::log::chain(&e))?;
    context.keep_keys(name, &keys);
    Ok(Some((name.clone(), keys)))
}
