//! What the parts of the agent tell each other: which GPUs there are and how they do, and how each part itself does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::watch;
use wharf_telemetry::metrics::{Metrics, node as table};

use crate::allocate::MigMinors;
use crate::config::NodeConfig;
use crate::gpu::{Inventory, Nearness};
use crate::health::Health;
use crate::kubelet::wire;
use crate::nvml::Library;
use crate::resources::Offer;
use crate::serving::Served;

/// A part of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    /// Looking at GPUs.
    Gpus,
    /// Advertising them.
    Plugin,
    /// Labels and taint.
    Labels,
    /// Which pod has which GPU.
    Pods,
    /// Metrics of the models that are served here.
    Serving,
    /// Settings of GPUs.
    Tuning,
    /// Bringing to the node what its pods will want.
    Preload,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Gpus => "gpus",
            Part::Plugin => "plugin",
            Part::Labels => "labels",
            Part::Pods => "pods",
            Part::Serving => "serving",
            Part::Tuning => "tuning",
            Part::Preload => "preload",
        }
    }
}

/// How a part does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Whether it does what it should.
    pub ready: bool,
    /// In one word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// What there is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Whether anybody has looked yet.
    pub(crate) looked: bool,
    /// NVML, if there is one.
    pub(crate) library: Option<Library>,
    pub(crate) inventory: Inventory,
    pub(crate) nearness: Nearness,
    pub(crate) offers: Vec<Offer>,
    pub(crate) minors: MigMinors,
    /// How they do; nothing before they were looked at.
    pub(crate) health: Option<Health>,
}

impl Seen {
    pub(crate) fn offer(&self, resource: &str) -> Option<&Offer> {
        self.offers.iter().find(|offer| offer.resource == resource)
    }

    /// The names of what is offered.
    pub(crate) fn resources(&self) -> Vec<String> {
        self.offers.iter().map(|offer| offer.resource.clone()).collect()
    }

    /// What kubelet is told of a resource.
    pub(crate) fn list(&self, resource: &str) -> wire::ListAndWatchResponse {
        let devices = self.offer(resource).map_or(&[][..], |offer| &offer.devices);
        let device = |device: &crate::resources::Device| wire::Device {
            id: device.id.clone(),
            health: if self.is_healthy(&device.unit) { wire::HEALTHY } else { wire::UNHEALTHY }.to_owned(),
            topology: device
                .numa
                .map(|node| wire::TopologyInfo { nodes: vec![wire::NumaNode { id: node.into() }] }),
        };
        wire::ListAndWatchResponse { devices: devices.iter().map(device).collect() }
    }

    pub(crate) fn is_healthy(&self, unit: &str) -> bool {
        self.health.as_ref().is_some_and(|health| health.trouble(unit).is_none())
    }
}

/// What the parts share.
pub(crate) struct Board {
    pub(crate) config: NodeConfig,
    pub(crate) node: String,
    pub(crate) metrics: Metrics,
    seen: watch::Sender<Arc<Seen>>,
    conditions: watch::Sender<BTreeMap<Part, Condition>>,
    /// The last XID of each GPU, by uuid.
    last_xids: Mutex<BTreeMap<String, u64>>,
    /// What was read last of the models that are served here.
    served: Mutex<Arc<[Served]>>,
    /// Held by whoever sets GPUs; true when nobody may any more.
    tuning: Mutex<bool>,
}

impl Board {
    pub(crate) fn new(config: NodeConfig, node: String) -> Arc<Board> {
        Arc::new(Board {
            config,
            node,
            metrics: Metrics::new(table::ALL),
            seen: watch::Sender::new(Arc::default()),
            conditions: watch::Sender::new(BTreeMap::new()),
            last_xids: Mutex::default(),
            served: Mutex::default(),
            tuning: Mutex::new(false),
        })
    }

    pub(crate) fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen.borrow())
    }

    pub(crate) fn follow(&self) -> watch::Receiver<Arc<Seen>> {
        self.seen.subscribe()
    }

    pub(crate) fn publish(&self, seen: Seen) {
        for offer in &seen.offers {
            let healthy = offer.devices.iter().filter(|device| seen.is_healthy(&device.unit)).count();
            for (state, count) in [("healthy", healthy), ("unhealthy", offer.devices.len() - healthy)] {
                self.metrics.set(&table::DEVICES, &[&offer.resource, state], count as f64);
            }
        }
        self.seen.send_replace(Arc::new(seen));
    }

    pub(crate) fn last_xids(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.last_xids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn served(&self) -> Arc<[Served]> {
        Arc::clone(&self.served.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn serve(&self, served: Vec<Served>) {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = served.into();
    }

    pub(crate) fn tuning(&self) -> MutexGuard<'_, bool> {
        self.tuning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how a part does; told to the log when it has changed.
    pub(crate) fn say(&self, part: Part, ready: bool, reason: &'static str, message: impl Into<String>) {
        let condition = Condition { ready, reason, message: message.into() };
        self.conditions.send_if_modified(|conditions| {
            if conditions.get(&part) == Some(&condition) {
                return false;
            }
            let (part_name, message) = (part.name(), &condition.message);
            if ready {
                tracing::info!(part = part_name, reason, "{message}");
            } else {
                tracing::warn!(part = part_name, reason, "{message}");
            }
            self.metrics.set(&table::READY, &[part_name], f64::from(u8::from(ready)));
            conditions.insert(part, condition);
            true
        });
    }

    pub(crate) fn conditions(&self) -> BTreeMap<Part, Condition> {
        self.conditions.borrow().clone()
    }
}
