//! Which GPUs are left for replicas of services that ask for none, and among how many each is divided. Pure.
//!
//! A server that computes on a GPU takes its part of the memory when it starts and keeps it. So GPUs are divided beforehand, among as many replicas as there may be at
//! once: all of every service's, and those of its next version beside them. Who asks for GPUs comes first.

use wharf_spec::LLMService;
use wharf_spec::service::{Engine, KvCacheType, ScalingMode, Strategy};

use crate::place::Machine;

/// How GPUs are divided among those that ask for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Division {
    /// Ids of the GPUs that they may have.
    pub(crate) gpus: Vec<String>,
    /// Replicas among which each of these is divided.
    pub(crate) parts: u32,
}

/// Divides the GPUs of a machine among services.
pub(crate) fn divide<'a>(
    machine: &Machine,
    services: impl Iterator<Item = &'a LLMService> + Clone,
) -> Division {
    let mut left: Vec<_> = machine.gpus.iter().collect();
    for object in services.clone() {
        let Some(asked) = &object.spec.resources.gpu else { continue };
        for _ in 0..at_once(object).saturating_mul(asked.count) {
            let Some(index) = left.iter().position(|gpu| gpu.is(asked.product.as_deref())) else { break };
            left.remove(index);
        }
    }
    let replicas = services.filter(|object| shares(object)).map(at_once).fold(0, u32::saturating_add);
    let gpus = u32::try_from(left.len()).unwrap_or(u32::MAX);
    Division {
        gpus: left.into_iter().map(|gpu| gpu.id.clone()).collect(),
        parts: replicas.div_ceil(gpus.max(1)).max(1),
    }
}

/// Whether a service asks for no GPU and can compute on one all the same: what Wharf's own engine does on GPUs, unless its user says otherwise.
pub(crate) fn shares(object: &LLMService) -> bool {
    let spec = &object.spec;
    let says_cpu = |name: &str, value: Option<&str>| name == "WHARF_DEVICE" && value == Some("cpu");
    spec.runtime.engine == Engine::Wharf
        && spec.resources.gpu.is_none()
        && spec.parallelism.ranks() == 1
        && spec.server.kv_cache.kind.is_none_or(|kind| kind == KvCacheType::F16)
        && !spec.runtime.env.iter().any(|theirs| says_cpu(&theirs.name, theirs.value.as_deref()))
}

/// Replicas that a service has at once at most, both versions of a release together.
fn at_once(object: &LLMService) -> u32 {
    let spec = &object.spec;
    let most = match spec.scaling.mode {
        ScalingMode::None => spec.replicas.max(1),
        ScalingMode::Native | ScalingMode::Hpa | ScalingMode::Keda => spec.scaling.most(),
    };
    match spec.rollout.strategy {
        Strategy::BlueGreen | Strategy::Canary => most.saturating_mul(2),
        Strategy::Rolling => most.saturating_add(1),
        Strategy::Recreate => most,
    }
}

#[cfg(test)]
mod tests {
    use wharf_spec::{Document, Object, check};

    use super::*;
    use crate::place::Gpu;

    fn service(spec: &str) -> LLMService {
        let text = format!(
            "{{apiVersion: wharf.dev/v1alpha1, kind: LLMService, metadata: {{name: a}}, spec: {{model: {{source: 'hf://o/r'}}, {spec}}}}}"
        );
        match check(&Document::read("llm.yaml", &text).unwrap()[0]).0 {
            Some(Object::Service(object)) => *object,
            other => panic!("{other:?}"),
        }
    }

    fn divided(specs: &[&str]) -> (String, u32) {
        let gpu = |id: &str, product: &str| Gpu { id: id.into(), product: product.into(), memory: None };
        let machine = Machine {
            gpus: vec![gpu("0", "NVIDIA L4"), gpu("1", "NVIDIA L4"), gpu("2", "NVIDIA H200")],
            ..Machine::default()
        };
        let services: Vec<LLMService> = specs.iter().map(|spec| service(spec)).collect();
        let Division { gpus, parts } = divide(&machine, services.iter());
        (gpus.join(","), parts)
    }

    #[test]
    fn gpus_are_divided_among_all_replicas_of_both_versions() {
        let cases: [(&[&str], (&str, u32)); 8] = [
            (&[], ("0,1,2", 1)),
            (&["replicas: 1"], ("0,1,2", 1)),
            (&["scaling: {max: 3}"], ("0,1,2", 2)),
            (&["scaling: {max: 3}", "scaling: {max: 2}"], ("0,1,2", 4)),
            (&["scaling: {max: 5}, rollout: {strategy: Rolling}"], ("0,1,2", 2)),
            (&["scaling: {max: 3}, rollout: {strategy: Recreate}"], ("0,1,2", 1)),
            (&["scaling: {mode: none}, replicas: 4"], ("0,1,2", 3)),
            (&["scaling: {max: 90}, runtime: {engine: llamacpp}"], ("0,1,2", 1)),
        ];
        for (specs, (gpus, parts)) in cases {
            assert_eq!(divided(specs), (gpus.to_owned(), parts), "{specs:?}");
        }
    }

    #[test]
    fn who_asks_for_gpus_comes_first() {
        let other = "scaling: {max: 2}";
        let cases = [
            ("resources: {gpu: {count: 1, product: NVIDIA-H200}}", ("0,1", 2)),
            ("resources: {gpu: {count: 1}}", ("2", 4)),
            ("resources: {gpu: {count: 1}}, rollout: {strategy: Recreate}", ("1,2", 2)),
            ("resources: {gpu: {count: 2}}, parallelism: {tensor: 2}, runtime: {engine: vllm}", ("", 4)),
        ];
        for (asks, (gpus, parts)) in cases {
            assert_eq!(divided(&[other, asks]), (gpus.to_owned(), parts), "{asks}");
        }
    }

    #[test]
    fn only_what_a_gpu_can_compute_shares_one() {
        let cases = [
            ("replicas: 1", true),
            ("server: {kvCache: {type: f16}}", true),
            ("server: {kvCache: {type: int8}}", false),
            ("parallelism: {tensor: 2}", false),
            ("resources: {gpu: {count: 1}}", false),
            ("runtime: {engine: llamacpp}", false),
            ("runtime: {env: [{name: WHARF_DEVICE, value: cpu}]}", false),
            ("runtime: {env: [{name: WHARF_DEVICE, value: cuda}]}", true),
        ];
        for (spec, expected) in cases {
            assert_eq!(shares(&service(spec)), expected, "{spec}");
        }
    }
}
