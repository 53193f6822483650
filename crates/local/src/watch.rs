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
    /// These are all services now. Says whether one of them is otherwise than before, as a person would say it.
    pub(crate) fn update(
        &self,
        services: impl Iterator<Item = (String, ServiceFacts, Option<Arc<Written>>)>,
    ) -> bool {
        let known: BTreeMap<_, _> =
            services.map(|(name, facts, written)| (name, Known { facts, written })).collect();
        let mut shown = self.lock();
        let is_new = |name: &String, now: &Known| {
            shown.get(name).is_none_or(|before| are_news(&before.facts, &now.facts))
        };
        let news = shown.len() != known.len() || known.iter().any(|(name, now)| is_new(name, now));
        *shown = known;
        news
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

/// Whether what happened is worth telling before the next second: a state or a decision changed, not a number or a time.
fn are_news(before: &ServiceFacts, now: &ServiceFacts) -> bool {
    let states = |facts: &ServiceFacts| -> Vec<(String, String)> {
        facts.replicas.iter().map(|replica| (replica.name.clone(), replica.state.clone())).collect()
    };
    before.phase != now.phase || states(before) != states(now) || before.events.last() != now.events.last()
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

#[cfg(test)]
mod tests {
    use wharf_api::console::{EventView, ReplicaView};

    use super::*;

    #[test]
    fn news_are_states_and_events_and_no_numbers() {
        let replica = |state: &str, since_ms| ReplicaView {
            name: "a-blue-1".to_owned(),
            state: state.to_owned(),
            since_ms,
            ..ReplicaView::default()
        };
        let before = ServiceFacts {
            phase: "Starting".to_owned(),
            replicas: vec![replica("starting", 1)],
            ..ServiceFacts::default()
        };
        let cases = [
            (before.clone(), false),
            (ServiceFacts { phase: "Ready".to_owned(), ..before.clone() }, true),
            (ServiceFacts { replicas: vec![replica("starting", 2)], ..before.clone() }, false),
            (ServiceFacts { replicas: vec![replica("ready", 1)], ..before.clone() }, true),
            (ServiceFacts { replicas: Vec::new(), ..before.clone() }, true),
            (ServiceFacts { events: vec![EventView::default()], ..before.clone() }, true),
            (ServiceFacts { message: "still".to_owned(), ..before.clone() }, false),
        ];
        for (now, expected) in cases {
            assert_eq!(are_news(&before, &now), expected, "{now:?}");
        }
    }

    #[test]
    fn a_service_that_comes_or_goes_is_news() {
        let shown = Shown::default();
        let one = || std::iter::once(("a".to_owned(), ServiceFacts::default(), None));
        assert!(shown.update(one()));
        assert!(!shown.update(one()));
        assert!(shown.update(std::iter::empty()));
    }
}
