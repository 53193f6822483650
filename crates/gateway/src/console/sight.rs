//! How much of the console a caller sees.
//!
//! A key sees the services that it may call. One that may call every model sees all of those: on most gateways whoever has such a key runs the
//! place. One with a list of models sees its own requests and its own usage only.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use wharf_access::{Models, Principal};
use wharf_api::ApiError;

use crate::caller::Caller;
use crate::shared::Shared;
use crate::table::Table;

/// What somebody may see.
pub(crate) enum Sight {
    /// Everything: whoever embeds the gateway.
    All,
    /// What a caller's key opens.
    Caller {
        /// Who the caller is to each service that is visible.
        services: BTreeMap<Arc<str>, Arc<Principal>>,
        /// Who the caller is to the gateway itself: to services that are gone, and for keys that nobody used.
        gateway: Option<Arc<Principal>>,
    },
}

impl Sight {
    /// What the sender of these headers sees.
    ///
    /// # Errors
    /// As the API: who is known nowhere sees nothing.
    pub(crate) async fn of(shared: &Shared, table: &Table, headers: &HeaderMap) -> Result<Sight, ApiError> {
        let caller = Caller::of(shared, headers).await;
        caller.admit(table, headers)?;
        let mut services = BTreeMap::new();
        for (name, service) in &table.services {
            let Ok(principal) = caller.at(service, headers) else { continue };
            let config = &service.spec().config;
            let adapters = config.adapters.iter().map(String::as_str);
            if config.model_names().into_iter().chain(adapters).any(|model| principal.models.contain(model)) {
                services.insert(Arc::clone(name), principal);
            }
        }
        Ok(Sight::Caller { services, gateway: caller.here() })
    }

    /// Whether the service is visible.
    pub(crate) fn service(&self, service: &str) -> bool {
        match self {
            Sight::All => true,
            Sight::Caller { services, .. } => services.contains_key(service),
        }
    }

    /// Whether the service's model is visible.
    pub(crate) fn model(&self, service: &str, model: &str) -> bool {
        match self {
            Sight::All => true,
            Sight::Caller { services, .. } => services.get(service).is_some_and(|p| p.models.contain(model)),
        }
    }

    /// Whether what this key did at this service is visible.
    pub(crate) fn usage(&self, service: &str, key: &str) -> bool {
        match self {
            Sight::All => true,
            Sight::Caller { services, gateway } => {
                let principal = services.get(service).or(gateway.as_ref());
                principal.is_some_and(|principal| !is_narrow(principal) || *principal.id == *key)
            }
        }
    }

    /// Whether the key itself is visible: one of the gateway's, or of a service's own.
    pub(crate) fn key(&self, service: Option<&str>, key: &str) -> bool {
        match (self, service) {
            (Sight::All, _) => true,
            (Sight::Caller { services, .. }, Some(service)) => {
                services.get(service).is_some_and(|p| !is_narrow(p) || *p.id == *key)
            }
            (Sight::Caller { gateway, .. }, None) => {
                gateway.as_ref().is_some_and(|p| !is_narrow(p) || *p.id == *key)
            }
        }
    }

    /// Whether the caller may use some models of the service only by name.
    pub(crate) fn is_narrow(&self, service: &str) -> bool {
        match self {
            Sight::All => false,
            Sight::Caller { services, .. } => services.get(service).is_none_or(|p| is_narrow(p)),
        }
    }
}

fn is_narrow(principal: &Principal) -> bool {
    principal.models != Models::All
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(id: &str, models: &[&str]) -> Arc<Principal> {
        let models: Vec<String> = models.iter().map(|&name| name.to_owned()).collect();
        Arc::new(Principal { id: id.into(), models: models.into(), ..Principal::anonymous() })
    }

    #[test]
    fn a_list_of_models_narrows_what_is_seen_to_the_callers_own() {
        let narrow = caller("key:a", &["chat"]);
        let services = BTreeMap::from([("demo/chat".into(), Arc::clone(&narrow))]);
        let sight = Sight::Caller { services, gateway: Some(narrow) };
        assert_eq!((sight.service("demo/chat"), sight.service("demo/coder")), (true, false));
        assert_eq!((sight.model("demo/chat", "chat"), sight.model("demo/chat", "other")), (true, false));
        assert_eq!((sight.usage("demo/chat", "key:a"), sight.usage("demo/chat", "key:b")), (true, false));
        assert_eq!((sight.usage("gone", "key:a"), sight.usage("gone", "key:b")), (true, false));
        assert!(sight.is_narrow("demo/chat"));
    }

    #[test]
    fn keys_of_one_service_show_nothing_of_another_or_of_what_is_gone() {
        let services = BTreeMap::from([("demo/chat".into(), caller("key:a", &["*"]))]);
        let sight = Sight::Caller { services, gateway: None };
        assert_eq!((sight.usage("demo/chat", "key:b"), sight.usage("gone", "key:a")), (true, false));
        assert_eq!((sight.key(Some("demo/chat"), "key:b"), sight.key(None, "key:b")), (true, false));
        assert!(!sight.is_narrow("demo/chat"));
    }
}
