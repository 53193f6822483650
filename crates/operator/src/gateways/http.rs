//! Asks gateways over HTTP: which shares they follow when somebody wants to know, what is asked of them all the time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::api::DynamicObject;
use kube::runtime::reflector::Store;
use reqwest::Client;
use serde::Deserialize;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;
use wharf_api::demand::DemandReport;
use wharf_cluster::{DemandStreams, address, addresses};
use wharf_spec::service::Traffic;

use super::{Gateways, Heard, of_service};

/// How long a gateway may take to answer; its stream says something more often than that.
const PATIENCE: Duration = Duration::from_secs(2);
/// Gateways are asked at most this often, for all services together.
const FRESH: Duration = Duration::from_millis(500);
/// Asks the pods of the gateway on the port that they call `metrics`.
pub struct HttpGateways {
    client: Client,
    pods: Store<DynamicObject>,
    shares: tokio::sync::Mutex<Option<(Instant, HashMap<String, TrafficReport>)>>,
    demand: DemandStreams,
}

/// The answer of `GET /wharf/v1/traffic`, as the gateway defines it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TrafficReport {
    pub(super) services: BTreeMap<String, Vec<Traffic>>,
}

impl HttpGateways {
    /// Asks these pods. `changed` tells that they are others.
    ///
    /// # Errors
    /// When no client can be made.
    pub(crate) fn new(
        pods: Store<DynamicObject>,
        changed: Arc<Notify>,
    ) -> Result<HttpGateways, reqwest::Error> {
        let client = Client::builder().no_proxy().connect_timeout(PATIENCE).read_timeout(PATIENCE).build()?;
        let demand = DemandStreams::follow(client.clone(), pods.clone(), changed, address);
        Ok(HttpGateways { client, pods, shares: Default::default(), demand })
    }

    async fn shares(&self, address: &str) -> reqwest::Result<TrafficReport> {
        let answer = self.client.get(format!("http://{address}/wharf/v1/traffic")).send().await?;
        answer.error_for_status()?.json().await
    }

    async fn all_shares(&self) -> HashMap<String, TrafficReport> {
        let addresses = addresses(&self.pods, "metrics", address);
        let asked = addresses.into_iter().map(async |address| match self.shares(&address).await {
            Ok(report) => Some((address, report)),
            Err(error) => {
                let error = wharf_telemetry::log::chain(&error);
                tracing::warn!(address, error, "a gateway did not say which shares it follows");
                None
            }
        });
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }
}

#[async_trait]
impl Gateways for HttpGateways {
    async fn hear(&self, service: &str) -> Vec<Heard> {
        let mut shares = self.shares.lock().await;
        let fresh = shares.as_ref().is_some_and(|(when, _)| when.elapsed() < FRESH);
        if !fresh {
            *shares = Some((Instant::now(), self.all_shares().await));
        }
        let Some((_, shares)) = &*shares else { return Vec::new() };
        let reports = self.demand.reports();
        let both = shares.iter().filter_map(|(address, shares)| Some((shares, reports.get(address)?)));
        both.map(|(shares, demand)| of_service(shares, demand, service)).collect()
    }

    fn lines(&self) -> broadcast::Receiver<Arc<DemandReport>> {
        self.demand.lines()
    }

    fn followed(&self) -> usize {
        self.demand.followed()
    }
}
