//! Bounds, modes and targets of scaling.

use super::Findings;
use crate::LLMService;
use crate::service::{ScalingMode, Targets};

pub(super) fn service(object: &LLMService, findings: &mut Findings<'_>) {
    let spec = &object.spec;
    let scaling = &spec.scaling;
    if let Some(max) = scaling.max {
        findings.require(
            scaling.min <= max,
            "spec.scaling.max",
            format!("must be at least min, which is {}, not {max}", scaling.min),
        );
    }
    let can_sleep = matches!(scaling.mode, ScalingMode::Native | ScalingMode::Keda);
    findings.require(
        scaling.min > 0 || can_sleep,
        "spec.scaling.min",
        "0 needs mode native or keda: nobody would wake the service",
    );
    let Targets {
        concurrency,
        requests_per_second,
        queue,
        kv_cache,
        tokens_in_flight,
        gpu,
        cpu,
        memory,
        ttft_p95,
    } = &scaling.target;
    let target = [
        ("concurrency", concurrency.is_some()),
        ("requestsPerSecond", requests_per_second.is_some()),
        ("queue", queue.is_some()),
        ("kvCache", kv_cache.is_some()),
        ("tokensInFlight", tokens_in_flight.is_some()),
        ("gpu", gpu.is_some()),
        ("cpu", cpu.is_some()),
        ("memory", memory.is_some()),
        ("ttftP95", ttft_p95.is_some()),
    ];
    let given: Vec<&str> = target.iter().filter(|(_, given)| *given).map(|(field, _)| *field).collect();
    match scaling.mode {
        ScalingMode::Hpa | ScalingMode::Keda => {
            findings.require(
                !given.is_empty(),
                "spec.scaling.target",
                "needs a target: without one there is nothing to scale on",
            );
            findings.require(
                ttft_p95.is_none(),
                "spec.scaling.target.ttftP95",
                "is known to mode native only: a latency is not proportional to replicas, as an HPA assumes",
            );
            findings.require(
                tokens_in_flight.is_none(),
                "spec.scaling.target.tokensInFlight",
                "is known to mode native only: the gateway counts them, and no model server reports them to an HPA",
            );
            findings.require(
                scaling.schedules.is_empty() || scaling.mode == ScalingMode::Keda,
                "spec.scaling.schedules",
                "a HorizontalPodAutoscaler has no schedules; use mode native or keda",
            );
        }
        ScalingMode::None => {
            for field in &given {
                let path = format!("spec.scaling.target.{field}");
                findings.error(&path, "has no effect with mode none; choose native, hpa or keda");
            }
        }
        ScalingMode::Native => {}
    }
    let amounts = [
        ("cpu", cpu.is_some(), &spec.resources.requests.cpu),
        ("memory", memory.is_some(), &spec.resources.requests.memory),
    ];
    for (field, given, request) in amounts {
        findings.require(
            !given || request.is_some(),
            &format!("spec.scaling.target.{field}"),
            format!("is a share of what is requested: set resources.requests.{field}"),
        );
    }
    findings.require(
        gpu.is_none() || spec.resources.gpu.is_some(),
        "spec.scaling.target.gpu",
        "needs resources.gpu: there is no GPU to use",
    );
    if requests_per_second.as_ref().is_some_and(|rate| rate.milli() == 0) {
        findings.error("spec.scaling.target.requestsPerSecond", "must not be 0");
    }
    if kv_cache.as_ref().is_some_and(|share| !(0.01..=1.0).contains(&share.ratio())) {
        findings.error("spec.scaling.target.kvCache", "must be between 1% and 100%");
    }
    if let (Some(memory), Some(request), true) =
        (memory, &spec.resources.requests.memory, spec.resources.gpu.is_none())
        && let Some(limit) = &spec.resources.limits.memory
        && u128::from(*memory) * request.milli() > 100 * limit.milli()
    {
        findings.warning(
            "spec.scaling.target.memory",
            format!(
                "{memory}% of the {request} requested is more than the limit of {limit}: it is never reached"
            ),
        );
    }
}

/// Whether the weights alone, in bytes resident in each pod, exceed a memory target: the service would grow to its maximum and
/// stay there. The sentence says what to do.
pub fn memory_target(service: &LLMService, weights: u64) -> Option<String> {
    let target = service.spec.scaling.target.memory?;
    let request = service.spec.resources.requests.memory.as_ref()?;
    let allowed = request.units() / 100 * u64::from(target);
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    (weights > allowed).then(|| {
        format!(
            "the weights alone take {:.1} GiB, more than {target}% of the {request} requested ({:.1} GiB): every replica would \
             ask for another; request at least {:.0}Gi or leave the target out",
            gib(weights),
            gib(allowed),
            (gib(weights) * 100.0 / f64::from(target) * 1.2).ceil().max(1.0),
        )
    })
}
