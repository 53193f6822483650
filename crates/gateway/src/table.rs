//! Which service a request means: by the host it was sent to, else by the model that it names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use wharf_api::ApiError;

use crate::service::ServiceState;

/// All services at one moment. Replaced as a whole, so that requests read it without a lock.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) services: BTreeMap<Arc<str>, Arc<ServiceState>>,
    models: HashMap<String, Served>,
    hosts: HashMap<String, Arc<ServiceState>>,
}

/// Who serves a model's name.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) service: Arc<ServiceState>,
    /// The name is an adapter's.
    pub(crate) is_adapter: bool,
}

impl Table {
    /// Of two services with the same model the first by name has it; the other is reached by its host.
    pub(crate) fn new(services: BTreeMap<Arc<str>, Arc<ServiceState>>) -> Table {
        let mut table = Table { services, models: HashMap::new(), hosts: HashMap::new() };
        for service in table.services.values() {
            let spec = service.spec();
            let models = spec.config.model_names().into_iter().map(|name| (name, false));
            let adapters = spec.config.adapters.iter().map(|name| (name.as_str(), true));
            for (name, is_adapter) in models.chain(adapters) {
                table
                    .models
                    .entry(name.to_owned())
                    .or_insert_with(|| Served { service: Arc::clone(service), is_adapter });
            }
            for host in &spec.config.hosts {
                table.hosts.entry(host.to_ascii_lowercase()).or_insert_with(|| Arc::clone(service));
            }
        }
        table
    }

    /// The service that a request means.
    pub(crate) fn find(&self, host: &str, model: &str) -> Result<Served, ApiError> {
        let host = host.rsplit_once(':').map_or(host, |(name, _)| name);
        if !self.hosts.is_empty()
            && let Some(service) = self.hosts.get(&host.to_ascii_lowercase())
        {
            let is_adapter = service.spec().config.adapters.iter().any(|adapter| adapter == model);
            return Ok(Served { service: Arc::clone(service), is_adapter });
        }
        if let Some(served) = self.models.get(model) {
            return Ok(served.clone());
        }
        // A path whose requests name no model can only mean the one service that there is.
        if model.is_empty()
            && self.services.len() == 1
            && let Some(service) = self.services.values().next()
        {
            return Ok(Served { service: Arc::clone(service), is_adapter: false });
        }
        if model.is_empty() {
            return Err(ApiError::invalid("model", "the request names no model"));
        }
        Err(ApiError::ModelNotFound { model: model.to_owned(), available: self.model_names().join(", ") })
    }

    /// All names of models, in order.
    pub(crate) fn model_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.models.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The service of a model.
    pub(crate) fn model(&self, name: &str) -> Option<&Served> {
        self.models.get(name)
    }
}
