//! Steps and limits of releases.

use super::Findings;
use crate::LLMService;
use crate::service::Strategy;

pub(super) fn service(object: &LLMService, findings: &mut Findings<'_>) {
    let rollout = &object.spec.rollout;
    findings.require(
        rollout.steps.is_empty() || rollout.strategy == Strategy::Canary,
        "spec.rollout.steps",
        "belong to the strategy Canary",
    );
    let mut last = 0.0;
    for (index, step) in rollout.steps.iter().enumerate() {
        let share = step.weight.ratio();
        let path = format!("spec.rollout.steps[{index}].weight");
        findings.require(
            share > last && share < 1.0,
            &path,
            format!("must be above the step before it and below 100%, not {}", step.weight),
        );
        last = share;
    }
    findings.require(
        rollout.rollback_on.error_rate.ratio() <= 1.0,
        "spec.rollout.rollbackOn.errorRate",
        "must be at most 100%",
    );
}
