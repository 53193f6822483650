//! What has to be looked at again and again: whom the cluster lets speak for others, our certificate, and which APIs are ours.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api as Objects, Client};
use wharf_telemetry::metrics::{Metrics, metrics_api as table};

use crate::apis::Api;
use crate::caller::{CONFIG, FrontProxy, NAMESPACE};
use crate::claim::{Claim, Home, hold};
use crate::guard::Guard;
use crate::keys::ends;
use crate::keys::secret::{KeepError, keep};
use crate::tls::{Tls, TlsError};

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    #[error("failed to read the ConfigMap {NAMESPACE}/{CONFIG}, which says who speaks for the API server")]
    Config(#[source] kube::Error),
    #[error("the ConfigMap {NAMESPACE}/{CONFIG} cannot be used: {0}")]
    FrontProxy(String),
    #[error(transparent)]
    Keep(#[from] KeepError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("failed to look at the APIService of the API {0}")]
    Claim(&'static str, #[source] kube::Error),
    #[error("failed to write the authority in base64")]
    Encode(#[source] serde_json::Error),
}

/// Looks.
pub(crate) struct Look {
    pub(crate) client: Client,
    pub(crate) home: Home,
    pub(crate) apis: Arc<[Api]>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) tls: Arc<Tls>,
    pub(crate) metrics: Arc<Metrics>,
    /// What was said of each API last.
    pub(crate) said: Mutex<BTreeMap<Api, Claim>>,
}

impl Look {
    /// Looks once. What could be done is done, also when something else fails.
    pub(crate) async fn once(&self) -> Result<(), LookError> {
        let configs: Objects<ConfigMap> = Objects::namespaced(self.client.clone(), NAMESPACE);
        let config = configs.get(CONFIG).await.map_err(LookError::Config)?;
        let front_proxy =
            FrontProxy::read(&config.data.unwrap_or_default()).map_err(LookError::FrontProxy)?;
        self.tls.believe(&front_proxy.authorities)?;
        self.guard.believe(front_proxy);

        let Home { namespace, service, .. } = &self.home;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let names = [format!("{service}.{namespace}.svc")];
        let keys = keep(&self.client, namespace, &secret_name(service), &names, now).await?;
        self.tls.show(&keys)?;
        if let Some(end) = ends(&keys) {
            self.metrics.set(&table::CERTIFICATE_END, &[], end as f64);
        }

        let authorities =
            serde_json::to_value(ByteString(keys.authorities.into_bytes())).map_err(LookError::Encode)?;
        let authorities = authorities.as_str().unwrap_or_default();
        let mut failed = None;
        for api in self.apis.iter().copied() {
            let held = hold(&self.client, api, &self.home, authorities).await;
            let state = match &held {
                Ok(Claim::Taken(_)) => "taken",
                Ok(Claim::Held | Claim::Write) => "held",
                Err(_) => "failed",
            };
            for known in ["held", "taken", "failed"] {
                self.metrics.set(&table::HELD, &[api.name(), known], f64::from(u8::from(known == state)));
            }
            match held {
                Ok(claim) => self.say(api, claim),
                Err(error) => failed = Some(LookError::Claim(api.name(), error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Tells what has become of an API, once.
    fn say(&self, api: Api, claim: Claim) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.insert(api, claim.clone()) == Some(claim.clone()) {
            return;
        }
        let name = api.service_name();
        match claim {
            Claim::Taken(owner) => tracing::warn!(
                "{name} belongs to {owner} and is left to it; to have it served here, remove that and its APIService: \
                 kubectl delete apiservice {name}"
            ),
            Claim::Held | Claim::Write => tracing::info!("{name} is served here"),
        }
    }
}

/// Name of the Secret of the server behind a Service.
pub(crate) fn secret_name(service: &str) -> String {
    format!("{service}-tls")
}
