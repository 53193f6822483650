//! What gateways say: which shares of traffic they follow, and how versions answered them.

mod http;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::broadcast;
use wharf_api::demand::{DemandReport, ServiceDemand};
use wharf_rollout::GatewaySeen;
use wharf_spec::service::Colour;

pub use http::HttpGateways;

use http::TrafficReport;

/// What a gateway said of one service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    /// Which shares it follows, and what it counted.
    pub gateway: GatewaySeen,
    /// Requests that endpoints work on, by `host:port`.
    pub busy: BTreeMap<String, u64>,
    /// What it counted of all versions together.
    pub answers: Answers,
}

/// What a gateway has counted of a service since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Tokens of answers.
    pub tokens: u64,
    /// How many answers began within each of the buckets that `wharf_api::demand` has for it, and how many later.
    pub first_token: Vec<u64>,
}

/// Asks gateways.
#[async_trait]
pub trait Gateways: Send + Sync {
    /// What those that are alive say of `namespace/name`.
    async fn hear(&self, service: &str) -> Vec<Heard>;

    /// Everything that is asked of them, line by line, from now on.
    fn lines(&self) -> broadcast::Receiver<Arc<DemandReport>>;

    /// How many say so.
    fn followed(&self) -> usize;
}

/// There are none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoGateways;

#[async_trait]
impl Gateways for NoGateways {
    async fn hear(&self, _: &str) -> Vec<Heard> {
        Vec::new()
    }

    fn lines(&self) -> broadcast::Receiver<Arc<DemandReport>> {
        broadcast::channel(1).1
    }

    fn followed(&self) -> usize {
        0
    }
}

fn of_service(shares: &TrafficReport, said: &DemandReport, service: &str) -> Heard {
    let nothing = ServiceDemand::default();
    let demand = said.services.get(service).unwrap_or(&nothing);
    let counts = [Colour::Blue, Colour::Green]
        .into_iter()
        .filter_map(|colour| Some((colour, demand.versions.get(colour.name())?.clone())))
        .collect();
    let busy = demand.endpoints.iter();
    Heard {
        gateway: GatewaySeen {
            name: said.gateway.clone(),
            epoch: said.epoch,
            traffic: shares.services.get(service).cloned().unwrap_or_default(),
            counts,
        },
        busy: busy
            .map(|(address, load)| (address.clone(), u64::from(load.running) + u64::from(load.waiting)))
            .collect(),
        answers: Answers { tokens: demand.generated_tokens, first_token: demand.first_token.clone() },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_gateway_says_of_a_service_is_told_by_version() {
        let shares: TrafficReport = serde_json::from_value(
            json!({"gateway": "g", "services": {"n/a": [{"colour": "green", "weight": 100, "generation": 2}]}}),
        )
        .unwrap();
        let said: DemandReport = serde_json::from_value(json!({
            "gateway": "g", "epoch": 7, "sequence": 1, "lease_ms": 3000,
            "services": {"n/a": {
                "generated_tokens": 70, "first_token": [0, 5],
                "versions": {"green": {"answered": 5, "failed": 1}},
                "endpoints": {"10.0.0.1:8080": {"ready": true, "running": 2, "waiting": 1}},
            }},
        }))
        .unwrap();
        let heard = of_service(&shares, &said, "n/a");
        assert_eq!((heard.gateway.name.as_str(), heard.gateway.epoch), ("g", 7));
        assert_eq!(heard.gateway.traffic[0].weight, 100);
        assert_eq!(heard.gateway.counts[&Colour::Green].answered, 5);
        assert_eq!(heard.busy["10.0.0.1:8080"], 3);
        assert_eq!(heard.answers, Answers { tokens: 70, first_token: vec![0, 5] });
        assert_eq!(of_service(&shares, &said, "n/b").gateway.traffic, []);
    }
}
