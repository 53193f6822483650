//! What the console tells, put together from what the gateway knows. It reads clocks and counters, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wharf_access::usage::UsageRecord;
use wharf_access::{Denied, KeySet, Models, Moment, Principal};
use wharf_api::console::{EndpointView, KeyView, Overview, RequestView, ServiceView};
use wharf_routing::service::EndpointState;

use super::sight::Sight;
use crate::service::ServiceState;
use crate::shared::Shared;
use crate::table::Table;

/// Everything that is visible, at this moment.
pub(crate) fn overview(shared: &Shared, sight: &Sight) -> Overview {
    let source = shared.console.source();
    let table = shared.table();
    let services = table.services.values().filter(|service| sight.service(&service.name));
    Overview {
        at_ms: Moment::now().unix_ms,
        gateway: shared.config.name.clone(),
        version: wharf_telemetry::build::VERSION.to_owned(),
        remembers: shared.past.is_some(),
        services: services
            .map(|service| ServiceView {
                rates: shared.console.rates(&service.name),
                facts: source.as_ref().and_then(|source| source.facts(&service.name)),
                ..of_service(service, sight)
            })
            .collect(),
    }
}

/// What the gateway itself knows of a service.
fn of_service(service: &ServiceState, sight: &Sight) -> ServiceView {
    let spec = service.spec();
    let adapters = spec.config.adapters.iter().map(String::as_str);
    let models = spec.config.model_names().into_iter().chain(adapters);
    ServiceView {
        name: service.name.to_string(),
        models: models.filter(|model| sight.model(&service.name, model)).map(str::to_owned).collect(),
        endpoints: service.endpoints().iter().map(of_endpoint).collect(),
        demand: service.demand(),
        ..ServiceView::default()
    }
}

fn of_endpoint(state: &EndpointState) -> EndpointView {
    let load = state.load.as_ref();
    EndpointView {
        address: state.address.clone(),
        colour: state.colour.clone(),
        ready: state.ready && !state.broken,
        broken: state.broken,
        in_flight: state.in_flight,
        running: load.map_or(state.in_flight, |load| load.running),
        waiting: load.map_or(0, |load| load.waiting),
        kv_cache: load.map_or(0.0, |load| load.kv_cache),
    }
}

/// Requests that have ended, the newest first.
pub(crate) fn requests(shared: &Shared, sight: &Sight) -> Vec<RequestView> {
    let records = shared.ledger.recent();
    let visible = records.iter().rev().filter(|record| sight.usage(&record.service, &record.key_id));
    visible.map(|record| of_record(record)).collect()
}

fn of_record(record: &UsageRecord) -> RequestView {
    RequestView {
        at_ms: u64::try_from(record.time.as_millisecond()).unwrap_or(0),
        id: record.request_id.clone(),
        key: if record.key_id.is_empty() { String::new() } else { record.key_name.clone() },
        service: record.service.clone(),
        model: record.model.clone(),
        status: record.status,
        prompt_tokens: record.tokens.prompt_tokens,
        cached_tokens: record.tokens.cached_tokens,
        completion_tokens: record.tokens.completion_tokens,
        first_token_ms: record.first_token_ms,
        duration_ms: record.duration_ms,
    }
}

/// Keys and what they used; those that nobody used come last.
pub(crate) fn keys(shared: &Shared, table: &Table, sight: &Sight, now: Moment) -> Vec<KeyView> {
    let mut known = BTreeMap::new();
    learn(&mut known, &shared.keys.current(), None, sight, now);
    for (name, service) in &table.services {
        if let Some(own) = service.keys() {
            learn(&mut known, &own.current(), Some(name), sight, now);
        }
    }
    let mut used = BTreeSet::new();
    let mut views = Vec::new();
    for (key, service, totals) in shared.ledger.totals() {
        if !sight.usage(&service, &key) {
            continue;
        }
        let view = known.get(&key).cloned().unwrap_or_else(|| removed(&key));
        views.push(KeyView {
            service,
            requests: totals.answered + totals.refused + totals.failed,
            failed: totals.refused + totals.failed,
            prompt_tokens: totals.tokens.prompt_tokens,
            cached_tokens: totals.tokens.cached_tokens,
            completion_tokens: totals.tokens.completion_tokens,
            ..view
        });
        used.insert(key);
    }
    views.extend(known.into_iter().filter(|(key, _)| !used.contains(key)).map(|(_, view)| view));
    views
}

/// Keys of a set that are visible.
fn learn(
    known: &mut BTreeMap<String, KeyView>,
    set: &KeySet,
    service: Option<&Arc<str>>,
    sight: &Sight,
    now: Moment,
) {
    for (principal, holds) in set.all(now) {
        if sight.key(service.map(|name| &**name), &principal.id) {
            known.insert(principal.id.to_string(), of_key(principal, &holds));
        }
    }
}

fn of_key(principal: &Principal, holds: &Result<(), Denied>) -> KeyView {
    let state = match holds {
        Ok(()) => "valid",
        Err(Denied::ExpiredKey) => "expired",
        Err(Denied::EarlyKey) => "early",
        Err(_) => "revoked",
    };
    let models = match &principal.models {
        Models::All => Vec::new(),
        Models::Only(names) => names.to_vec(),
    };
    KeyView {
        id: principal.id.to_string(),
        name: principal.name.to_string(),
        state: state.to_owned(),
        models,
        ..KeyView::default()
    }
}

/// A key of which only its usage is left; without an id, everybody together.
fn removed(key: &str) -> KeyView {
    match key {
        "" => KeyView { name: Principal::anonymous().name.to_string(), ..KeyView::default() },
        _ => KeyView { id: key.to_owned(), state: "removed".to_owned(), ..KeyView::default() },
    }
}
