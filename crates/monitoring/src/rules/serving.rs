//! Services that do not answer, or are about to answer late: replicas, queues, KV caches.

use wharf_telemetry::metrics::gateway::{ENDPOINTS, QUEUED};
use wharf_telemetry::metrics::operator::{SERVICE_BOUNDS, SERVICE_PHASE, SERVICE_REPLICAS};
use wharf_telemetry::metrics::server::{KV_CACHE_USAGE, REQUESTS_WAITING};

use super::alert;
use crate::SERVICE_LABEL;
use crate::expr::by_service;
use crate::rule::{Alert, Severity};

pub(super) fn alerts() -> Vec<Alert> {
    let replicas = |state: &str| format!(r#"max by (service) ({SERVICE_REPLICAS}{{state="{state}"}})"#);
    let most = format!(r#"max by (service) ({SERVICE_BOUNDS}{{bound="most"}})"#);
    let of_engine = |what: &str| format!("{what} by (namespace, {SERVICE_LABEL})");
    let waiting = format!(r#"{} ({REQUESTS_WAITING}{{{SERVICE_LABEL}!=""}})"#, of_engine("sum"));
    let cache = format!(r#"{} ({KV_CACHE_USAGE}{{{SERVICE_LABEL}!=""}})"#, of_engine("avg"));
    let queued = format!("sum by (service) ({QUEUED})");
    vec![
        alert(
            "WharfServiceDown",
            Severity::Critical,
            "5m",
            format!(r#"max by (service, phase) ({SERVICE_PHASE}{{phase=~"Failed|Degraded"}}) == 1"#),
            "{{ $labels.service }} does not serve: {{ $labels.phase }}",
            "No replica answers, and the operator expects none to by itself. The service's condition Ready says why.",
        ),
        alert(
            "WharfReplicasMissing",
            Severity::Warning,
            "30m",
            format!("{} > {}", replicas("wanted"), replicas("ready")),
            "{{ $labels.service }} lacks replicas",
            "For half an hour fewer replicas have answered than are wanted.",
        ),
        alert(
            "WharfRequestsWait",
            Severity::Warning,
            "5m",
            format!("min_over_time(({queued})[10m:1m]) > 0"),
            "Requests to {{ $labels.service }} always wait in the gateway",
            "No moment of the last ten minutes was without requests that no endpoint could take.",
        ),
        alert(
            "WharfKvCacheFull",
            Severity::Warning,
            "15m",
            by_service(&format!("{cache} > 0.95 and {waiting} > 0")),
            "The KV caches of {{ $labels.service }} are full",
            "Requests wait for room in the KV cache, or push each other out of it: replicas are too few, or contexts too long.",
        ),
        alert(
            "WharfAtMostReplicas",
            Severity::Warning,
            "30m",
            format!(
                "({} >= {most}) and on (service) ({queued} > 0 or {})",
                replicas("wanted"),
                by_service(&format!("{waiting} > 0"))
            ),
            "{{ $labels.service }} has as many replicas as it may, and requests wait",
            "The autoscaler would add replicas and may not: spec.scaling.max is reached.",
        ),
        alert(
            "WharfEndpointsBroken",
            Severity::Warning,
            "15m",
            format!(r#"max by (service) ({ENDPOINTS}{{state="broken"}}) > 0"#),
            "The gateway avoids endpoints of {{ $labels.service }}",
            "Pods are ready, but answer so badly that a gateway sends them nothing but trials.",
        ),
    ]
}
