//! What the supervisor shows: to the console, to `wharf ps` and to the terminal, from one place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wharf_api::console::{Overview, ServiceFacts, ServiceView};
use wharf_gateway::Handle;
use wharf_gateway::console::Source;
use wharf_manifests::{Mode, Settings, State, print_yaml};

use crate::options::Written;

/// What was last known of every service.
#[derive(Debug, Default)]
pub struct Shown(Mutex<BTreeMap<String, Known>>);

#[derive(Debug)]
struct Known {
    facts: ServiceFacts,
    written: Option<Arc<Written>>,
}

impl Shown {
    /// These are all services now.
    pub(crate) fn update(
        &self,
        services: impl Iterator<Item = (String, ServiceFacts, Option<Arc<Written>>)>,
    ) {
        let known = services.map(|(name, facts, written)| (name, Known { facts, written })).collect();
        *self.lock() = known;
    }

    /// Everything: what the gateway measures and what is known here.
    pub fn overview(&self, gateway: &Handle) -> Overview {
        let mut overview = gateway.overview();
        let known = self.lock();
        // What the gateway has not been told of yet.
        for (name, Known { facts, .. }) in known.iter() {
            if !overview.services.iter().any(|service| service.name == *name) {
                let facts = Some(facts.clone());
                overview.services.push(ServiceView { name: name.clone(), facts, ..ServiceView::default() });
            }
        }
        overview
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&self, service: &str) -> Option<Arc<Written>> {
        self.lock().get(service)?.written.clone()
    }
}

impl Source for Shown {
    fn facts(&self, service: &str) -> Option<ServiceFacts> {
        Some(self.lock().get(service)?.facts.clone())
    }

    fn yaml(&self, service: &str) -> Option<String> {
        Some(self.written(service)?.yaml.clone())
    }

    fn manifests(&self, service: &str) -> Option<Result<String, String>> {
        let written = self.written(service)?;
        let object = &written.object;
        let rendered =
            wharf_manifests::service(object, &State::fresh(object), &Settings::default(), Mode::Managed);
        Some(rendered.map(|objects| print_yaml(&objects)).map_err(|error| error.to_string()))
    }
}
