//! The gateways themselves, and whether the operator hears them.

use wharf_telemetry::metrics::gateway::{CONNECTIONS, PEERS, TLS_RELOADS, USAGE_LINES_LOST};
use wharf_telemetry::metrics::operator::{GATEWAYS, LEADER};

use super::alert;
use crate::expr::grew;
use crate::rule::{Alert, Severity};

pub(super) fn alerts() -> Vec<Alert> {
    vec![
        alert(
            "WharfGatewayAbsent",
            Severity::Critical,
            "5m",
            format!("absent({CONNECTIONS})"),
            "No gateway is measured",
            "No gateway runs, or Prometheus cannot read its metrics. Without one nobody reaches a service.",
        ),
        alert(
            "WharfGatewaysUnheard",
            Severity::Warning,
            "10m",
            format!("max by (pod) ({GATEWAYS}) == 0 and on (pod) max by (pod) ({LEADER}) == 1"),
            "The operator {{ $labels.pod }} hears no gateway",
            "It does not see demand: services neither scale nor wake, and releases see no requests to judge by.",
        ),
        alert(
            "WharfGatewayPeersMissing",
            Severity::Warning,
            "10m",
            format!(r#"max by (pod) ({PEERS}{{state="missing"}}) > 0"#),
            "The gateway {{ $labels.pod }} misses others",
            "Gateways do not tell each other what keys have used: limits may be exceeded by a factor of their number.",
        ),
        alert(
            "WharfUsageLost",
            Severity::Warning,
            "1m",
            format!("sum by (pod) (increase({USAGE_LINES_LOST}[30m])) > 0"),
            "The gateway {{ $labels.pod }} loses lines of its usage log",
            "The disk is full or too slow. What keys used is counted in metrics, but not written down.",
        ),
        alert(
            "WharfCertificateStale",
            Severity::Warning,
            "1m",
            grew("pod", &format!(r#"{TLS_RELOADS}{{result="error"}}"#), "1h"),
            "The gateway {{ $labels.pod }} could not read its new certificate",
            "It goes on with the one before, until that expires. Its log says what is wrong with the files.",
        ),
    ]
}
