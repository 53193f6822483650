//! Who calls: by the keys of the service that is meant, or else by the gateway's keys and the tokens of its issuers.
//!
//! A token's signature is checked once, although a request is looked at twice: before anything of it is read, and when it is known which
//! service it means.

use std::sync::Arc;

use http::HeaderMap;
use wharf_access::{Denied, Moment, Principal, identify};

use crate::service::ServiceState;
use crate::shared::Shared;
use crate::table::Table;

/// Who calls.
pub(crate) struct Caller {
    now: Moment,
    /// As the gateway's own keys and issuers have it.
    here: Result<Arc<Principal>, Denied>,
}

impl Caller {
    /// Waits only where an issuer's keys must be fetched.
    pub(crate) async fn of(shared: &Shared, headers: &HeaderMap) -> Caller {
        let now = Moment::now();
        Caller { now, here: identify(headers, &shared.keys.current(), &shared.tokens, now).await }
    }

    /// Who calls, for a service.
    pub(crate) fn at(&self, service: &ServiceState, headers: &HeaderMap) -> Result<Arc<Principal>, Denied> {
        match service.keys() {
            Some(own) => own.current().check(headers, self.now),
            None => self.here.clone(),
        }
    }

    /// Who calls, for the gateway itself.
    pub(crate) fn here(&self) -> Option<Arc<Principal>> {
        self.here.clone().ok()
    }

    /// Refuses who is known nowhere, before anything of the request is read.
    pub(crate) fn admit(&self, table: &Table, headers: &HeaderMap) -> Result<(), Denied> {
        let services = || table.services.values().map(|service| service.keys());
        // Without services nothing is found; who is known may read that.
        let asks_here = table.services.is_empty() || services().any(|own| own.is_none());
        let known_here = asks_here && self.here.is_ok();
        if known_here || services().flatten().any(|own| own.current().check(headers, self.now).is_ok()) {
            return Ok(());
        }
        Err(self.here.clone().err().unwrap_or(Denied::UnknownKey))
    }
}
