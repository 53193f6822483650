//! Who counts answers where a Service selects the pods and there is no gateway: the replicas themselves, in their metrics.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use kube::ResourceExt;
use kube::api::DynamicObject;
use wharf_api::demand::{FIRST_TOKEN_BUCKETS_MS, VersionCounts};
use wharf_cluster::{Object, address};
use wharf_rollout::{Colour, GatewaySeen};
use wharf_spec::service::Traffic;
use wharf_telemetry::engines;

use super::dereference::Found;
use crate::context::Context;
use crate::gateways::{Answers, Heard};
use crate::observe::is_serving;
use crate::workload::is_of;

/// What replicas say that serve or end what they have begun, each as a gateway would, and the Service, which sends what was applied.
pub(super) async fn hear(context: &Context, found: &Found, applied: &[Traffic]) -> Vec<Heard> {
    let replicas = found.workloads.iter().flat_map(|workload| {
        let own = found.servers.iter().filter(move |pod| is_of(pod, workload) && answers(pod));
        own.map(move |pod| (workload.colour, pod))
    });
    let said = join_all(replicas.map(async |(colour, pod)| {
        let metrics = context.probe.metrics(pod).await?;
        replica(pod, colour, &metrics, applied)
    }));
    let service =
        GatewaySeen { name: "service".to_owned(), traffic: applied.to_vec(), ..GatewaySeen::default() };
    let service = Heard { gateway: service, ..Heard::default() };
    said.await.into_iter().flatten().chain([service]).collect()
}

/// Whether a pod may work on requests: one that is to go ends those that it has.
fn answers(pod: &Object) -> bool {
    is_serving(pod) || pod.metadata.deletion_timestamp.is_some()
}

/// What a replica counted since its container started; none where the metrics are of no engine that we know.
fn replica(pod: &DynamicObject, colour: Colour, metrics: &str, applied: &[Traffic]) -> Option<Heard> {
    let counted = engines::answers(metrics)?;
    let load = engines::load(metrics)?;
    let first_token = buckets(&counted.first_token);
    let counts = VersionCounts {
        answered: counted.answered,
        failed: counted.failed,
        first_token: first_token.clone(),
    };
    let working = u64::from(load.running) + u64::from(load.waiting);
    Some(Heard {
        gateway: GatewaySeen {
            name: pod.metadata.uid.clone().unwrap_or_else(|| pod.name_any()),
            // A container that starts again counts from zero.
            epoch: pod.data["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0),
            traffic: applied.to_vec(),
            counts: BTreeMap::from([(colour, counts)]),
        },
        busy: address(pod, "http").map(|address| (address, working)).into_iter().collect(),
        answers: Answers { tokens: counted.tokens, first_token },
    })
}

/// The buckets of an engine's histogram in ours: what is in one of its own counts as the slowest that may be in it.
fn buckets(histogram: &[(f64, u64)]) -> Vec<u64> {
    let mut counts = vec![0; FIRST_TOKEN_BUCKETS_MS.len() + 1];
    for (seconds, count) in histogram {
        // A bound of 0.1 s is one of 100 ms, whatever is left of it in the last digit.
        let ms = (seconds * 1000.0).round();
        counts[FIRST_TOKEN_BUCKETS_MS.partition_point(|bound| f64::from(*bound) < ms)] += count;
    }
    counts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_replica_speaks_as_a_gateway_of_its_own_version() {
        let pod: DynamicObject = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"podIP": "10.0.0.1", "containerStatuses": [{"restartCount": 2}]},
        }))
        .unwrap();
        let metrics = "vllm:num_requests_running 3\nvllm:num_requests_waiting 1\nvllm:generation_tokens_total 80\n\
                       wharf_http_requests_total{endpoint=\"/v1/completions\",status=\"200\"} 9\n\
                       wharf_http_requests_total{endpoint=\"/v1/completions\",status=\"503\"} 1\n\
                       vllm:time_to_first_token_seconds_bucket{le=\"0.1\"} 5\n\
                       vllm:time_to_first_token_seconds_bucket{le=\"0.75\"} 9\n\
                       vllm:time_to_first_token_seconds_bucket{le=\"+Inf\"} 9\n";
        let applied = [Traffic { colour: Colour::Green.into(), weight: 100, generation: 2 }];
        let heard = replica(&pod, Colour::Green, metrics, &applied).unwrap();
        let first_token = vec![0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];
        let counts = VersionCounts { answered: 9, failed: 1, first_token: first_token.clone() };
        let gateway = GatewaySeen {
            name: "u".to_owned(),
            epoch: 2,
            traffic: applied.to_vec(),
            counts: BTreeMap::from([(Colour::Green, counts)]),
        };
        let busy = BTreeMap::from([("10.0.0.1:8080".to_owned(), 4)]);
        assert_eq!(heard, Heard { gateway, busy, answers: Answers { tokens: 80, first_token } });
        assert_eq!(replica(&pod, Colour::Green, "up 1\n", &applied), None);
    }

    #[test]
    fn a_bucket_counts_as_the_slowest_that_may_be_in_it() {
        let counts = buckets(&[(0.01, 1), (0.011, 2), (300.0, 3), (640.0, 4), (f64::INFINITY, 5)]);
        assert_eq!((counts[0], counts[1], counts[13], counts[14]), (1, 2, 3, 9));
    }
}
