//! What the file says: the driver, its GPUs, what happened to them, and what was set.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The instance ids of an event that is of a whole GPU.
pub const WHOLE_GPU: u32 = u32::MAX;

/// A machine with a driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Machine {
    /// As `nvmlSystemGetDriverVersion` says it.
    pub driver: String,
    /// As `nvmlSystemGetCudaDriverVersion_v2` says it: 12040 is 12.4.
    pub cuda: i32,
    /// What functions answer in place of what they would: an `nvmlReturn_t` by the name of the function. One of [`FakeGpu::errors`] goes first.
    pub errors: BTreeMap<String, u32>,
    /// Milliseconds that functions take, by name.
    pub slow: BTreeMap<String, u64>,
    /// By their index.
    pub gpus: Vec<FakeGpu>,
    /// What happened, oldest first. Only what comes after a program asked for events is told.
    pub events: Vec<Event>,
    /// What was set, as `function uuid values`.
    pub calls: Vec<String>,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FakeGpu {
    /// `GPU-…`.
    pub uuid: String,
    /// Product.
    pub name: String,
    /// Of `/dev/nvidia…`.
    pub minor: u32,
    /// `00000000:18:00.0`.
    pub bus_id: String,
    /// CUDA's compute capability.
    pub compute: (i32, i32),
    /// Bytes.
    pub memory_total: u64,
    /// Bytes.
    pub memory_reserved: u64,
    /// Bytes.
    pub memory_used: u64,
    /// Percent.
    pub utilization_gpu: u32,
    /// Percent.
    pub utilization_memory: u32,
    /// Percent.
    pub encoder: u32,
    /// Percent.
    pub decoder: u32,
    /// Degrees Celsius.
    pub temperature: u32,
    /// Degrees Celsius.
    pub memory_temperature: u32,
    /// Milliwatts.
    pub power: u32,
    /// Millijoules since the driver was loaded.
    pub energy: u64,
    /// MHz.
    pub sm_clock: u32,
    /// MHz.
    pub memory_clock: u32,
    /// MHz.
    pub sm_clock_max: u32,
    /// Since the driver was loaded.
    pub pcie_replays: u32,
    /// KiB per second that were sent over PCIe, and received.
    pub pcie_throughput: (u32, u32),
    /// Rows of memory that were replaced; none for a GPU that cannot.
    pub rows: Option<Rows>,
    /// Persistence mode.
    pub persistence: bool,
    /// Milliwatts.
    pub power_limit: u32,
    /// Milliwatts.
    pub power_default: u32,
    /// Milliwatts.
    pub power_min: u32,
    /// Milliwatts.
    pub power_max: u32,
    /// MHz, lowest and highest; none when they are free.
    pub locked_clocks: Option<(u32, u32)>,
    /// Events it can tell of, `nvmlEventType…`.
    pub supported_events: u64,
    /// How far another GPU is, by its uuid: `nvmlGpuTopologyLevel_t`. Unmentioned ones are across CPUs.
    pub topology: BTreeMap<String, u32>,
    /// NVLink.
    pub links: Vec<Link>,
    /// Of an NVLink domain over several machines.
    pub fabric: Option<Fabric>,
    /// MIG; none for a GPU that cannot.
    pub mig: Option<Mig>,
    /// `nvmlGpuVirtualizationMode_t`.
    pub virtualization: u32,
    /// It does not answer at all: `NVML_ERROR_GPU_IS_LOST`.
    pub lost: bool,
    /// What functions answer in place of what they would.
    pub errors: BTreeMap<String, u32>,
}

/// Rows of memory that were replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rows {
    /// For errors that could be corrected.
    pub correctable: u32,
    /// For errors that could not.
    pub uncorrectable: u32,
    /// Some will be with the next reset.
    pub pending: bool,
    /// Some could not be.
    pub failed: bool,
}

/// One NVLink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Whether it is up.
    pub active: bool,
    /// Bus id of what is at its other end: a GPU or a switch.
    pub remote: String,
}

/// Which NVLink domain it is of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fabric {
    /// Sixteen bytes.
    pub cluster: [u8; 16],
    /// Within it.
    pub clique: u32,
}

/// How a GPU is split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mig {
    /// Whether it is.
    pub enabled: bool,
    /// Into what.
    pub instances: Vec<Instance>,
}

/// A part of a GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Instance {
    /// `MIG-…`.
    pub uuid: String,
    /// Its GPU instance.
    pub gpu_instance: u32,
    /// Its compute instance.
    pub compute_instance: u32,
    /// Of the GPU's seven.
    pub gpu_slices: u32,
    /// Of the GPU instance's.
    pub compute_slices: u32,
    /// MiB.
    pub memory_mib: u64,
    /// Bytes.
    pub memory_used: u64,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Engines: copy, decoder, encoder, JPEG, optical flow.
    pub engines: [u32; 5],
}

/// Something happened to a GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Event {
    /// Counted up.
    pub sequence: u64,
    /// To which.
    pub gpu: String,
    /// `nvmlEventType…`; 8 is an XID.
    pub kind: u64,
    /// The XID.
    pub data: u64,
    /// To which part, or [`WHOLE_GPU`].
    pub gpu_instance: u32,
    /// To which part, or [`WHOLE_GPU`].
    pub compute_instance: u32,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine {
            driver: "580.95.05".to_owned(),
            cuda: 13_000,
            errors: BTreeMap::new(),
            slow: BTreeMap::new(),
            gpus: Vec::new(),
            events: Vec::new(),
            calls: Vec::new(),
        }
    }
}

impl Default for FakeGpu {
    fn default() -> FakeGpu {
        FakeGpu {
            uuid: String::new(),
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            minor: 0,
            bus_id: "00000000:18:00.0".to_owned(),
            compute: (9, 0),
            memory_total: 81_559 << 20,
            memory_reserved: 579 << 20,
            memory_used: 0,
            utilization_gpu: 0,
            utilization_memory: 0,
            encoder: 0,
            decoder: 0,
            temperature: 31,
            memory_temperature: 38,
            power: 71_500,
            energy: 1_000_000,
            sm_clock: 345,
            memory_clock: 2619,
            sm_clock_max: 1980,
            pcie_replays: 0,
            pcie_throughput: (0, 0),
            rows: Some(Rows::default()),
            persistence: false,
            power_limit: 700_000,
            power_default: 700_000,
            power_min: 200_000,
            power_max: 700_000,
            locked_clocks: None,
            supported_events: 0b1011,
            topology: BTreeMap::new(),
            links: Vec::new(),
            fabric: None,
            mig: Some(Mig::default()),
            virtualization: 0,
            lost: false,
            errors: BTreeMap::new(),
        }
    }
}

impl Default for Instance {
    fn default() -> Instance {
        Instance {
            uuid: String::new(),
            gpu_instance: 1,
            compute_instance: 0,
            gpu_slices: 1,
            compute_slices: 1,
            memory_mib: 9856,
            memory_used: 0,
            multiprocessors: 16,
            engines: [1, 1, 0, 1, 0],
        }
    }
}

impl Default for Event {
    fn default() -> Event {
        Event {
            sequence: 0,
            gpu: String::new(),
            kind: 8,
            data: 0,
            gpu_instance: WHOLE_GPU,
            compute_instance: WHOLE_GPU,
        }
    }
}

impl Machine {
    /// A machine with so many GPUs, as a server has them: half of them at each CPU, each pair of neighbours at one switch.
    pub fn of(gpus: u32) -> Machine {
        let uuid = |index: u32| format!("GPU-{index:08x}-0000-4000-8000-{index:012x}");
        let level = |a: u32, b: u32| match () {
            () if a / 2 == b / 2 => 10,
            () if a / gpus.div_ceil(2) == b / gpus.div_ceil(2) => 30,
            () => 50,
        };
        let gpu = |index: u32| FakeGpu {
            uuid: uuid(index),
            minor: index,
            bus_id: format!("00000000:{:02X}:00.0", 0x18 + index),
            topology: (0..gpus)
                .filter(|other| *other != index)
                .map(|other| (uuid(other), level(index, other)))
                .collect(),
            ..FakeGpu::default()
        };
        Machine { gpus: (0..gpus).map(gpu).collect(), ..Machine::default() }
    }

    /// Something happens to a GPU.
    pub fn happen(&mut self, event: Event) {
        let sequence = self.events.last().map_or(1, |last| last.sequence + 1);
        self.events.push(Event { sequence, ..event });
    }
}
