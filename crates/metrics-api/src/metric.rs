//! Which metrics there are, and how each is made of what pods, node agents and gateways say. Pure. A new metric is a row.

use wharf_autoscaler::Load;
use wharf_manifests::names::metric as names;

use crate::gpus::GpuUse;
use crate::history::EngineSeen;

/// A metric of things that look like `T`.
pub(crate) struct Metric<T: 'static> {
    /// As autoscalers ask for it.
    pub(crate) name: &'static str,
    /// What it is, for people.
    pub(crate) help: &'static str,
    /// What has to be known for it.
    pub(crate) needs: Needs,
    /// Its value; none where it is not known.
    pub(crate) value: fn(&T) -> Option<f64>,
}

/// What has to be known for a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// What is said now.
    Gauge,
    /// What is said now and what was said a while ago.
    Rate,
    /// What the node says.
    Gpu,
}

/// A pod, as it is seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodSeen {
    pub(crate) engine: Option<EngineSeen>,
    pub(crate) gpu: Option<GpuUse>,
}

fn engine(pod: &PodSeen) -> Option<&EngineSeen> {
    pod.engine.as_ref()
}

/// Metrics of pods.
pub(crate) static POD: &[Metric<PodSeen>] = &[
    Metric {
        name: names::REQUESTS_PER_SECOND,
        help: "Requests that ended, a second",
        needs: Needs::Rate,
        value: |pod| engine(pod)?.rate,
    },
    Metric {
        name: names::REQUESTS_RUNNING,
        help: "Requests that are computed",
        needs: Needs::Gauge,
        value: |pod| Some(engine(pod)?.load.running.into()),
    },
    Metric {
        name: names::REQUESTS_WAITING,
        help: "Requests that wait in the engine",
        needs: Needs::Gauge,
        value: |pod| Some(engine(pod)?.load.waiting.into()),
    },
    Metric {
        name: names::KV_CACHE_USAGE,
        help: "Share of the KV cache in use, 0 to 1",
        needs: Needs::Gauge,
        value: |pod| Some(engine(pod)?.load.kv_cache),
    },
    Metric {
        name: names::GPU_UTILIZATION,
        help: "Mean utilisation of its GPUs, in percent",
        needs: Needs::Gpu,
        value: |pod| pod.gpu.as_ref()?.utilization(),
    },
    Metric {
        name: "gpu_memory_used",
        help: "Memory in use on its GPUs, in bytes",
        needs: Needs::Gpu,
        value: |pod| Some(pod.gpu.as_ref()?.memory_used),
    },
];

/// Metrics of services, summed over the gateways: what is asked of all of a service's replicas together.
pub(crate) static SERVICE: &[Metric<Load>] = &[
    Metric {
        name: names::REQUESTS_PER_SECOND,
        help: "Requests that came, a second",
        needs: Needs::Rate,
        value: |load| Some(load.stable.arrivals),
    },
    Metric {
        name: names::REQUESTS_RUNNING,
        help: "Requests that gateways hold or endpoints work on",
        needs: Needs::Gauge,
        value: |load| Some(load.latest.in_flight + load.latest.queued),
    },
    Metric {
        name: names::REQUESTS_WAITING,
        help: "Requests that wait, at gateways or in engines",
        needs: Needs::Gauge,
        value: |load| Some(load.latest.queued + load.latest.waiting),
    },
    Metric {
        name: "tokens_in_flight",
        help: "Tokens of the prompts and answers that are worked on",
        needs: Needs::Gauge,
        value: |load| Some(load.latest.tokens_in_flight),
    },
    Metric {
        name: names::KV_CACHE_USAGE,
        help: "Shares of KV caches in use, summed over the replicas",
        needs: Needs::Gauge,
        value: |load| Some(load.latest.kv_cache),
    },
];

/// The metric of this name.
pub(crate) fn find<T>(table: &'static [Metric<T>], name: &str) -> Option<&'static Metric<T>> {
    table.iter().find(|metric| metric.name == name)
}

/// A number as Kubernetes writes quantities: to a thousandth, without an exponent.
pub(crate) fn quantity(value: f64) -> String {
    let milli = (value * 1000.0).round();
    if milli % 1000.0 == 0.0 { format!("{:.0}", milli / 1000.0) } else { format!("{milli:.0}m") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_exact_to_a_thousandth() {
        let all = [0.0, 3.0, 1.5, 0.0004, 12.3456, 2e9].map(quantity);
        assert_eq!(all, ["0", "3", "1500m", "0", "12346m", "2000000000"]);
    }

    #[test]
    fn what_a_service_has_to_do_includes_what_waits_for_it_to_wake() {
        let mut load = Load::default();
        load.latest.queued = 3.0;
        load.latest.in_flight = 2.0;
        load.latest.waiting = 1.0;
        let value = |name| (find(SERVICE, name).unwrap().value)(&load);
        assert_eq!((value("requests_running"), value("requests_waiting")), (Some(5.0), Some(4.0)));
    }
}
