//! The operator itself.

use wharf_telemetry::metrics::operator::{FAILURES, LEADER};

use super::alert;
use crate::rule::{Alert, Severity};

pub(super) fn alerts() -> Vec<Alert> {
    vec![
        alert(
            "WharfOperatorAbsent",
            Severity::Critical,
            "5m",
            format!("absent({LEADER} == 1)"),
            "No operator works",
            "Services go on as they are, but nothing is scaled, released, woken or put right.",
        ),
        alert(
            "WharfOperatorFails",
            Severity::Warning,
            "15m",
            format!("sum by (kind, reason) (increase({FAILURES}[30m])) > 3"),
            "Looks at {{ $labels.kind }} objects fail again and again: {{ $labels.reason }}",
            "The operator cannot do what it wants to. The condition Applied of the objects says what the API server answered.",
        ),
    ]
}
