//! What gateways say: which shares of traffic they follow, and how versions answered them.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use kube::api::DynamicObject;
use kube::runtime::reflector::Store;
use reqwest::Client;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use wharf_api::demand::{DemandReport, ServiceDemand};
use wharf_rollout::GatewaySeen;
use wharf_spec::service::{Colour, Traffic};

use crate::probe::address;

/// How long a gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Gateways are asked at most this often, for all services together.
const FRESH: Duration = Duration::from_millis(500);
/// A line of the demand stream longer than this is no such line.
const LONGEST_LINE: usize = 64 << 20;

/// What a gateway said of one service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    /// Which shares it follows, and what it counted.
    pub gateway: GatewaySeen,
    /// Requests that endpoints work on, by `host:port`.
    pub busy: BTreeMap<String, u64>,
}

/// Asks gateways.
#[async_trait]
pub trait Gateways: Send + Sync {
    /// What those that are alive say of `namespace/name`.
    async fn hear(&self, service: &str) -> Vec<Heard>;
}

/// There are none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoGateways;

#[async_trait]
impl Gateways for NoGateways {
    async fn hear(&self, _: &str) -> Vec<Heard> {
        Vec::new()
    }
}

/// Asks the pods of the gateway on the port that they call `metrics`.
pub struct HttpGateways {
    client: Client,
    pods: Store<DynamicObject>,
    said: Mutex<Option<(Instant, Vec<Said>)>>,
}

/// The answer of `GET /wharf/v1/traffic`, as the gateway defines it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TrafficReport {
    services: BTreeMap<String, Vec<Traffic>>,
}

/// Everything that a gateway said.
#[derive(Clone, Debug)]
struct Said {
    traffic: TrafficReport,
    demand: DemandReport,
}

impl HttpGateways {
    /// Asks these pods.
    ///
    /// # Errors
    /// When no client can be made.
    pub(crate) fn new(pods: Store<DynamicObject>) -> Result<HttpGateways, reqwest::Error> {
        let client = Client::builder().no_proxy().timeout(PATIENCE).build()?;
        Ok(HttpGateways { client, pods, said: Mutex::new(None) })
    }

    async fn ask(&self, address: &str) -> Result<Said, String> {
        let failed = |error: reqwest::Error| wharf_telemetry::log::chain(&error);
        let get = async |path: &str| {
            let answer = self.client.get(format!("http://{address}/wharf/v1/{path}")).send().await?;
            answer.error_for_status()
        };
        let traffic = get("traffic").await.map_err(failed)?.json().await.map_err(failed)?;
        // The stream does not end; its first line is everything that the gateway knows.
        let mut stream = get("demand").await.map_err(failed)?;
        let mut line: Vec<u8> = Vec::new();
        while !line.contains(&b'\n') {
            match stream.chunk().await.map_err(failed)? {
                Some(chunk) if line.len() + chunk.len() <= LONGEST_LINE => line.extend_from_slice(&chunk),
                _ => return Err("the demand stream has no whole line".to_owned()),
            }
        }
        let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
        let demand = serde_json::from_slice(&line[..end]).map_err(|error| error.to_string())?;
        Ok(Said { traffic, demand })
    }

    async fn ask_all(&self) -> Vec<Said> {
        let alive = |pod: &DynamicObject| pod.metadata.deletion_timestamp.is_none();
        let pods = self.pods.state();
        let addresses: Vec<String> =
            pods.iter().filter(|pod| alive(pod)).filter_map(|pod| address(pod, "metrics")).collect();
        let asked = addresses.iter().map(async |address| {
            self.ask(address)
                .await
                .inspect_err(|why| tracing::warn!(address, why, "a gateway did not answer"))
                .ok()
        });
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }
}

#[async_trait]
impl Gateways for HttpGateways {
    async fn hear(&self, service: &str) -> Vec<Heard> {
        let mut said = self.said.lock().await;
        let fresh = said.as_ref().is_some_and(|(when, _)| when.elapsed() < FRESH);
        if !fresh {
            *said = Some((Instant::now(), self.ask_all().await));
        }
        let all = said.as_ref().map(|(_, all)| all.as_slice()).unwrap_or_default();
        all.iter().map(|said| of_service(said, service)).collect()
    }
}

fn of_service(said: &Said, service: &str) -> Heard {
    let nothing = ServiceDemand::default();
    let demand = said.demand.services.get(service).unwrap_or(&nothing);
    let counts = [Colour::Blue, Colour::Green]
        .into_iter()
        .filter_map(|colour| Some((colour, demand.versions.get(colour.name())?.clone())))
        .collect();
    let busy = demand.endpoints.iter();
    Heard {
        gateway: GatewaySeen {
            name: said.demand.gateway.clone(),
            epoch: said.demand.epoch,
            traffic: said.traffic.services.get(service).cloned().unwrap_or_default(),
            counts,
        },
        busy: busy
            .map(|(address, load)| (address.clone(), u64::from(load.running) + u64::from(load.waiting)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_gateway_says_of_a_service_is_told_by_version() {
        let said = Said {
            traffic: serde_json::from_value(json!({"gateway": "g", "services": {"n/a": [{"colour": "green", "weight": 100, "generation": 2}]}})).unwrap(),
            demand: serde_json::from_value(json!({
                "gateway": "g", "epoch": 7, "sequence": 1, "lease_ms": 3000,
                "services": {"n/a": {
                    "versions": {"green": {"answered": 5, "failed": 1}},
                    "endpoints": {"10.0.0.1:8080": {"ready": true, "running": 2, "waiting": 1}},
                }},
            }))
            .unwrap(),
        };
        let heard = of_service(&said, "n/a");
        assert_eq!((heard.gateway.name.as_str(), heard.gateway.epoch), ("g", 7));
        assert_eq!(heard.gateway.traffic[0].weight, 100);
        assert_eq!(heard.gateway.counts[&Colour::Green].answered, 5);
        assert_eq!(heard.busy["10.0.0.1:8080"], 3);
        assert_eq!(of_service(&said, "n/b").gateway.traffic, []);
    }
}
