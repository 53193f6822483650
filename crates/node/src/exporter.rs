//! What GPUs measure, as dcgm-exporter's metrics: names, labels and units are its own. Pure.
//!
//! A value that a GPU does not tell makes no line. A GPU that several containers share has a line for each of them, told apart by `vgpu`, as
//! dcgm-exporter has it. What belongs to a whole GPU is of nobody's where the GPU is split; memory is each part's.

use wharf_telemetry::metrics::{Metric, dcgm};

use crate::gpu::{Gpu, Part};
use crate::kubelet::pod_resources::{Holder, Holders};
use crate::lines::Lines;
use crate::nvml::{Memory, Sample};

/// A GPU and what it measures.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Which.
    pub gpu: Gpu,
    /// What it measures.
    pub sample: Sample,
    /// Its last XID; 0 if there was none.
    pub last_xid: u64,
}

/// What is the same for all lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The node.
    pub node: String,
    /// What its label is called.
    pub hostname_label: String,
    /// The driver.
    pub driver: String,
}

type Value = fn(&Reading) -> Option<f64>;
type MemoryValue = fn(&Memory) -> u64;

const MIB: f64 = (1 << 20) as f64;

/// What is of a whole GPU.
static OF_GPU: &[(&Metric, Value)] = &[
    (&dcgm::SM_CLOCK, |r| r.sample.sm_clock.map(f64::from)),
    (&dcgm::MEM_CLOCK, |r| r.sample.memory_clock.map(f64::from)),
    (&dcgm::MEMORY_TEMP, |r| r.sample.memory_temperature.map(f64::from)),
    (&dcgm::GPU_TEMP, |r| r.sample.temperature.map(f64::from)),
    (&dcgm::POWER_USAGE, |r| r.sample.power.map(|milliwatts| f64::from(milliwatts) / 1000.0)),
    (&dcgm::POWER_MGMT_LIMIT, |r| r.sample.power_limit.map(|milliwatts| f64::from(milliwatts) / 1000.0)),
    (&dcgm::TOTAL_ENERGY, |r| r.sample.energy.map(|millijoules| millijoules as f64)),
    (&dcgm::PCIE_REPLAY, |r| r.sample.pcie_replays.map(f64::from)),
    (&dcgm::GPU_UTIL, |r| r.sample.gpu_utilization.map(f64::from)),
    (&dcgm::MEM_COPY_UTIL, |r| r.sample.memory_utilization.map(f64::from)),
    (&dcgm::ENC_UTIL, |r| r.sample.encoder.map(f64::from)),
    (&dcgm::DEC_UTIL, |r| r.sample.decoder.map(f64::from)),
    (&dcgm::XID_ERRORS, |r| Some(r.last_xid as f64)),
    (&dcgm::UNCORRECTABLE_ROWS, |r| r.sample.rows.map(|rows| rows.uncorrectable.into())),
    (&dcgm::CORRECTABLE_ROWS, |r| r.sample.rows.map(|rows| rows.correctable.into())),
    (&dcgm::ROW_REMAP_FAILURE, |r| r.sample.rows.map(|rows| f64::from(u8::from(rows.failed)))),
    (&dcgm::ROW_REMAP_PENDING, |r| r.sample.rows.map(|rows| f64::from(u8::from(rows.pending)))),
];

/// What each part has of its own.
static OF_MEMORY: &[(&Metric, MemoryValue)] = &[
    (&dcgm::FB_FREE, |memory| memory.free),
    (&dcgm::FB_USED, |memory| memory.used),
    (&dcgm::FB_RESERVED, |memory| memory.reserved),
];

/// All lines, in Prometheus' text format.
pub fn render(readings: &[Reading], holders: &Holders, about: &About) -> String {
    let mut text = String::new();
    for (metric, value) in OF_GPU {
        let mut page = Page::new(&mut text, metric, about);
        for reading in readings {
            if let Some(value) = value(reading) {
                page.lines(&reading.gpu, None, value, holders);
            }
        }
    }
    for (metric, value) in OF_MEMORY {
        let mut page = Page::new(&mut text, metric, about);
        let mib = |memory: &Memory| (value(memory) as f64 / MIB).floor();
        for Reading { gpu, sample, .. } in readings {
            if !gpu.is_split() {
                if let Some(memory) = &sample.memory {
                    page.lines(gpu, None, mib(memory), holders);
                }
                continue;
            }
            for (part, sample) in gpu.parts().iter().zip(&sample.parts) {
                if let Some(memory) = &sample.memory {
                    page.lines(gpu, Some(part), mib(memory), holders);
                }
            }
        }
    }
    text
}

/// The lines of one metric.
struct Page<'a> {
    lines: Lines<'a>,
    about: &'a About,
}

impl<'a> Page<'a> {
    fn new(text: &'a mut String, metric: &'static Metric, about: &'a About) -> Page<'a> {
        Page { lines: Lines::new(text, metric, &about.hostname_label), about }
    }

    /// A line for each holder, or one for nobody.
    fn lines(&mut self, gpu: &Gpu, part: Option<&Part>, value: f64, holders: &Holders) {
        let unit = part.map_or(&gpu.uuid, |part| &part.uuid);
        match holders.get(unit).map(Vec::as_slice) {
            None | Some([]) => self.line(gpu, part, None, value),
            Some(held) => held.iter().for_each(|holder| self.line(gpu, part, Some(holder), value)),
        }
    }

    fn line(&mut self, gpu: &Gpu, part: Option<&Part>, holder: Option<&Holder>, value: f64) {
        let about = self.about;
        self.lines.add(value, |label| about.label(label, gpu, part, holder));
    }
}

impl About {
    fn label(&self, label: &str, gpu: &Gpu, part: Option<&Part>, holder: Option<&Holder>) -> String {
        let of = |text: Option<&String>| text.cloned().unwrap_or_default();
        match label {
            "gpu" => gpu.index.to_string(),
            "UUID" => gpu.uuid.clone(),
            "pci_bus_id" => gpu.bus_id.clone(),
            "device" => gpu.minor.map_or_else(String::new, |minor| format!("nvidia{minor}")),
            "modelName" => gpu.name.clone(),
            "GPU_I_PROFILE" => of(part.map(|part| &part.profile)),
            "GPU_I_ID" => part.map_or_else(String::new, |part| part.gpu_instance.to_string()),
            "Hostname" => self.node.clone(),
            "DCGM_FI_DRIVER_VERSION" => self.driver.clone(),
            "container" => of(holder.map(|holder| &holder.container)),
            "namespace" => of(holder.map(|holder| &holder.namespace)),
            "pod" => of(holder.map(|holder| &holder.pod)),
            "vgpu" => of(holder.and_then(|holder| holder.share.as_ref())),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Mig;
    use crate::nvml::{PartSample, Rows};
    use crate::testing::{gpu, part};

    fn about() -> About {
        About {
            node: "node-1".to_owned(),
            hostname_label: "Hostname".to_owned(),
            driver: "580.95.05".to_owned(),
        }
    }

    fn sample() -> Sample {
        Sample {
            power: Some(71_500),
            memory: Some(Memory { free: 80_000 << 20, used: 1559 << 20, reserved: 579 << 20 }),
            rows: Some(Rows { correctable: 1, uncorrectable: 2, pending: true, failed: false }),
            ..Sample::default()
        }
    }

    fn holder(pod: &str, share: Option<&str>) -> Holder {
        Holder {
            namespace: "default".to_owned(),
            pod: pod.to_owned(),
            container: "model".to_owned(),
            share: share.map(str::to_owned),
        }
    }

    fn lines<'a>(text: &'a str, metric: &str) -> Vec<&'a str> {
        text.lines().filter(|line| line.starts_with(&format!("{metric}{{"))).collect()
    }

    #[test]
    fn a_line_has_dcgms_name_unit_and_labels() {
        let readings = [Reading { gpu: gpu(0), sample: sample(), last_xid: 79 }];
        let holders = Holders::from([("GPU-0".to_owned(), vec![holder("llm-0", None)])]);
        let text = render(&readings, &holders, &about());
        let labels = "gpu=\"0\",UUID=\"GPU-0\",pci_bus_id=\"00000000:18:00.0\",device=\"nvidia0\",modelName=\"NVIDIA H100 80GB HBM3\",\
                      Hostname=\"node-1\",DCGM_FI_DRIVER_VERSION=\"580.95.05\",container=\"model\",namespace=\"default\",pod=\"llm-0\"";
        assert_eq!(
            lines(&text, "DCGM_FI_DEV_POWER_USAGE"),
            [format!("DCGM_FI_DEV_POWER_USAGE{{{labels}}} 71.5")]
        );
        assert_eq!(lines(&text, "DCGM_FI_DEV_FB_USED"), [format!("DCGM_FI_DEV_FB_USED{{{labels}}} 1559")]);
        assert_eq!(
            lines(&text, "DCGM_FI_DEV_XID_ERRORS"),
            [format!("DCGM_FI_DEV_XID_ERRORS{{{labels}}} 79")]
        );
        assert!(text.contains("# TYPE DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS counter\n"));
    }

    #[test]
    fn what_is_not_told_makes_no_line_and_no_header() {
        let readings = [Reading { gpu: gpu(0), sample: sample(), last_xid: 0 }];
        assert!(!render(&readings, &Holders::new(), &about()).contains("DCGM_FI_DEV_GPU_TEMP"));
    }

    #[test]
    fn a_shared_gpu_has_a_line_for_each_share() {
        let held = vec![holder("a", Some("0")), holder("b", Some("1"))];
        let readings = [Reading { gpu: gpu(0), sample: sample(), last_xid: 0 }];
        let text = render(&readings, &Holders::from([("GPU-0".to_owned(), held)]), &about());
        let lines = lines(&text, "DCGM_FI_DEV_POWER_USAGE");
        assert!(
            lines[0].contains("pod=\"a\",vgpu=\"0\"") && lines[1].contains("pod=\"b\",vgpu=\"1\""),
            "{lines:?}"
        );
    }

    #[test]
    fn memory_is_of_the_parts_of_a_split_gpu() {
        let gpu =
            Gpu { mig: Mig::On(vec![part("MIG-a", "1g.10gb", 3), part("MIG-b", "1g.10gb", 4)]), ..gpu(0) };
        let of_part =
            |used: u64| PartSample { memory: Some(Memory { used: used << 20, ..Memory::default() }) };
        let sample = Sample { parts: vec![of_part(7), of_part(9)], ..sample() };
        let holders = Holders::from([("MIG-b".to_owned(), vec![holder("b", None)])]);
        let text = render(&[Reading { gpu, sample, last_xid: 0 }], &holders, &about());
        let used = lines(&text, "DCGM_FI_DEV_FB_USED");
        assert!(
            used[0].contains("GPU_I_PROFILE=\"1g.10gb\",GPU_I_ID=\"3\"") && used[0].ends_with("} 7"),
            "{used:?}"
        );
        assert!(
            used[1].contains("GPU_I_ID=\"4\"") && used[1].contains("pod=\"b\"") && used[1].ends_with("} 9"),
            "{used:?}"
        );
        assert_eq!(lines(&text, "DCGM_FI_DEV_POWER_USAGE").len(), 1);
    }

    #[test]
    fn the_label_of_the_node_is_called_as_configured_and_values_are_escaped() {
        let odd = Gpu { name: "A \"quoted\\ one".to_owned(), ..gpu(0) };
        let about = About { hostname_label: "hostname".to_owned(), ..about() };
        let text = render(&[Reading { gpu: odd, sample: sample(), last_xid: 0 }], &Holders::new(), &about);
        assert!(text.contains("modelName=\"A \\\"quoted\\\\ one\",hostname=\"node-1\""), "{text}");
    }
}
