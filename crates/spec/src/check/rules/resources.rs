//! Amounts, GPUs and ranks.

use super::Findings;
use crate::LLMService;
use crate::scalar::Quantity;
use crate::service::Engine;

pub(super) fn service(object: &LLMService, findings: &mut Findings<'_>) {
    let spec = &object.spec;
    let (requests, limits) = (&spec.resources.requests, &spec.resources.limits);
    let pairs = [
        ("cpu", &requests.cpu, &limits.cpu),
        ("memory", &requests.memory, &limits.memory),
        ("ephemeralStorage", &requests.ephemeral_storage, &limits.ephemeral_storage),
    ];
    for (field, request, limit) in pairs {
        let zero = |amount: &Option<Quantity>| amount.as_ref().is_some_and(|amount| amount.milli() == 0);
        findings.require(!zero(limit), &format!("spec.resources.limits.{field}"), "must not be 0");
        if let (Some(request), Some(limit)) = (request, limit) {
            findings.require(
                request.milli() <= limit.milli(),
                &format!("spec.resources.requests.{field}"),
                format!("asks for {request}, more than the limit of {limit}"),
            );
        }
    }
    let parallelism = &spec.parallelism;
    let (ranks, nodes) = (parallelism.ranks(), parallelism.nodes);
    findings.require(
        nodes <= 1 || ranks.is_multiple_of(nodes),
        "spec.parallelism.nodes",
        format!(
            "{ranks} ranks (tensor {} times pipeline {}) cannot be divided evenly among {nodes} nodes",
            parallelism.tensor, parallelism.pipeline
        ),
    );
    let Some(gpu) = &spec.resources.gpu else { return };
    let (count, all) = (gpu.count, gpu.count * nodes);
    if spec.runtime.engine != Engine::Custom && ranks != all {
        let advice = match nodes {
            1 => format!("set parallelism.tensor to {count}, or gpu.count to {ranks}"),
            _ => format!("tensor times pipeline must be {nodes} nodes times {count} GPUs, which is {all}"),
        };
        findings.error(
            "spec.resources.gpu.count",
            format!("{all} GPUs for {ranks} ranks of one GPU each: {advice}"),
        );
    }
}
