//! What pods use of GPUs, from the metrics of node agents or of dcgm-exporter. Pure.

use std::collections::HashMap;

use wharf_telemetry::exposition::samples;
use wharf_telemetry::metrics::dcgm;

const MIB: f64 = (1 << 20) as f64;

/// What a pod or container uses of its GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct GpuUse {
    /// Utilisations, summed over its GPUs, in percent.
    busy: f64,
    /// GPUs that say how busy they are.
    count: f64,
    /// Memory in use, in bytes.
    pub(crate) memory_used: f64,
}

impl GpuUse {
    /// Mean utilisation in percent; none where no GPU tells it, as parts of one that is split do not.
    pub(crate) fn utilization(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.busy / self.count)
    }

    /// As many GPUs as it keeps busy.
    pub(crate) fn gpus(&self) -> f64 {
        self.busy / 100.0
    }

    /// Of both.
    pub(crate) fn and(self, other: GpuUse) -> GpuUse {
        GpuUse {
            busy: self.busy + other.busy,
            count: self.count + other.count,
            memory_used: self.memory_used + other.memory_used,
        }
    }
}

/// Whose a GPU is: namespace, pod, container.
pub(crate) type Holder = (String, String, String);

/// Use of GPUs by container, in a node's metrics.
pub(crate) fn by_container(text: &str) -> HashMap<Holder, GpuUse> {
    let mut used: HashMap<Holder, GpuUse> = HashMap::new();
    for sample in samples(text) {
        let is_util = sample.name == dcgm::GPU_UTIL.name;
        if !(is_util || sample.name == dcgm::FB_USED.name) || !sample.value.is_finite() {
            continue;
        }
        let mut labels = sample.labels();
        let mut label = |name: &str| labels.remove(name).filter(|value| !value.is_empty());
        let (Some(namespace), Some(pod), Some(container)) =
            (label("namespace"), label("pod"), label("container"))
        else {
            continue;
        };
        let of = used.entry((namespace, pod, container)).or_default();
        if is_util {
            of.busy += sample.value;
            of.count += 1.0;
        } else {
            of.memory_used += sample.value * MIB;
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_of_a_container_are_taken_together_and_those_of_nobody_left_out() {
        let text = "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\",container=\"server\",namespace=\"demo\",pod=\"a\"} 80\n\
                    DCGM_FI_DEV_GPU_UTIL{gpu=\"1\",container=\"server\",namespace=\"demo\",pod=\"a\"} 40\n\
                    DCGM_FI_DEV_GPU_UTIL{gpu=\"2\"} 99\n\
                    DCGM_FI_DEV_FB_USED{gpu=\"0\",container=\"server\",namespace=\"demo\",pod=\"a\"} 3\n\
                    DCGM_FI_DEV_FB_USED{gpu=\"1\",container=\"server\",namespace=\"demo\",pod=\"a\"} 1\n";
        let used = by_container(text);
        assert_eq!(used.len(), 1);
        let of = used[&("demo".to_owned(), "a".to_owned(), "server".to_owned())];
        assert_eq!((of.utilization(), of.gpus(), of.memory_used), (Some(60.0), 1.2, 4.0 * MIB));
    }

    #[test]
    fn a_part_of_a_split_gpu_has_memory_and_no_utilisation() {
        let used = by_container("DCGM_FI_DEV_FB_USED{container=\"c\",namespace=\"n\",pod=\"p\"} 1\n");
        assert_eq!(used.values().next().unwrap().utilization(), None);
    }
}
