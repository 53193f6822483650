//! Releases that do not go on or were taken back, and models that were not made.

use wharf_telemetry::metrics::operator::{
    GATE_REFUSED, MODEL_STATE, RELEASE_PATIENCE, RELEASE_PHASE, RELEASE_SINCE,
};

use super::alert;
use crate::rule::{Alert, Severity};

/// Seconds for which a model may be fetched and made before a person should look.
const MAKING: u32 = 6 * 3600;
/// Seconds beside a release's own deadline: gateways, draining, a look now and then.
const SLACK: u32 = 600;

pub(super) fn alerts() -> Vec<Alert> {
    let phase =
        |phases: &str| format!(r#"max by (service, phase) ({RELEASE_PHASE}{{phase=~"{phases}"}}) == 1"#);
    let takes = format!("time() - max by (service) ({RELEASE_SINCE})");
    let patience = format!("(max by (service) ({RELEASE_PATIENCE}) + {SLACK})");
    let under_way = phase("Draining|Warming|Shifting|Verifying|RollingBack");
    let refused =
        format!(r#"label_replace({GATE_REFUSED}{{kind="Model"}} == 1, "model", "$1", "name", "(.*)")"#);
    vec![
        alert(
            "WharfReleaseStuck",
            Severity::Warning,
            "5m",
            format!(
                "({under_way} and on (service) {takes} > {patience}) or ({} and on (service) {takes} > {MAKING})",
                phase("Preparing")
            ),
            "The release of {{ $labels.service }} stays in {{ $labels.phase }}",
            "A phase of the release takes longer than its deadline, or the model has not been made for six hours.",
        ),
        alert(
            "WharfReleaseTakenBack",
            Severity::Warning,
            "1m",
            phase("RolledBack"),
            "A release of {{ $labels.service }} was taken back",
            "The new version did not do what it should, and the one before serves. The condition Progressing says why.",
        ),
        alert(
            "WharfGateFailed",
            Severity::Warning,
            "1m",
            format!("max by (kind, name) ({GATE_REFUSED}) == 1"),
            "The quality gate of the {{ $labels.kind }} {{ $labels.name }} refused what was made",
            "The optimised model is worse than the gate allows and is not served. The condition Ready says by how much.",
        ),
        alert(
            "WharfModelFailed",
            Severity::Warning,
            "5m",
            format!(r#"max by (model) ({MODEL_STATE}{{state="Failed"}}) == 1 unless on (model) {refused}"#),
            "The Model {{ $labels.model }} could not be made",
            "A Job of it failed, or the object is wrong. The condition Ready says what.",
        ),
    ]
}
