//! What a node has, as data: GPUs, the parts that MIG makes of them, and how near they are to each other.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// What NVML tells of a node, when it was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// Version of the driver, such as `580.95.05`.
    pub driver: String,
    /// Newest CUDA that the driver runs: major and minor.
    pub cuda: (u32, u32),
    /// Those that answer, by their index.
    pub gpus: Vec<Gpu>,
    /// Those that do not, by their index: what NVML says instead.
    pub silent: BTreeMap<u32, String>,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// NVML's index.
    pub index: u32,
    /// `GPU-…`.
    pub uuid: String,
    /// Product, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Of `/dev/nvidia…`.
    pub minor: Option<u32>,
    /// NVML's form, such as `00000000:18:00.0`.
    pub bus_id: String,
    /// Bytes.
    pub memory: u64,
    /// CUDA's compute capability: major and minor.
    pub compute: (u32, u32),
    /// The NUMA node that it is at, where the machine has any.
    pub numa: Option<u32>,
    /// Whether it drives displays (PCI class 0x0300) rather than only computing.
    pub graphics: bool,
    /// Whether it is a part of one, as a virtual machine sees it.
    pub virtual_gpu: bool,
    /// Its NVLink domain over several machines, as `cluster.clique`.
    pub clique: Option<String>,
    /// What MIG makes of it.
    pub mig: Mig,
}

/// What MIG makes of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Mig {
    /// It cannot be split.
    Unable,
    /// It could be split.
    Off,
    /// It is split into these, possibly none yet.
    On(Vec<Part>),
}

/// A MIG device: a compute instance of a GPU instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// `MIG-…`.
    pub uuid: String,
    /// As NVIDIA writes it, such as `1g.10gb`.
    pub profile: String,
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
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Engines by what they do: `copy`, `decoder`, `encoder`, `jpeg`, `ofa`.
    pub engines: BTreeMap<&'static str, u32>,
}

/// How two GPUs reach each other, near to far. The values are what `go-gpuallocator`'s policies give a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Path {
    /// On one board.
    Board,
    /// Through one PCIe switch.
    Switch,
    /// Through several PCIe switches.
    Switches,
    /// Through a host bridge.
    HostBridge,
    /// Through the CPU.
    Cpu,
    /// Through two CPUs.
    Cpus,
}

impl Path {
    /// What it is worth to be so near.
    pub fn score(self) -> u32 {
        match self {
            Path::Board => 60,
            Path::Switch => 50,
            Path::Switches => 40,
            Path::HostBridge => 30,
            Path::Cpu => 20,
            Path::Cpus => 10,
        }
    }
}

/// What each NVLink between two GPUs is worth.
const LINK: u32 = 100;

/// How near GPUs are to each other, by their uuids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Nearness(BTreeMap<String, BTreeMap<String, u32>>);

impl Nearness {
    /// Notes a pair, in both directions.
    pub fn note(&mut self, one: &str, other: &str, path: Path, links: u32) {
        let score = path.score() + links * LINK;
        for (from, to) in [(one, other), (other, one)] {
            self.0.entry(from.to_owned()).or_default().insert(to.to_owned(), score);
        }
    }

    /// What the pair is worth; nothing if it is unknown.
    pub fn score(&self, one: &str, other: &str) -> u32 {
        self.0.get(one).and_then(|others| others.get(other)).copied().unwrap_or(0)
    }
}

impl Gpu {
    /// Its parts, if it is split.
    pub fn parts(&self) -> &[Part] {
        match &self.mig {
            Mig::On(parts) => parts,
            Mig::Unable | Mig::Off => &[],
        }
    }

    /// Whether it is split, into anything or nothing.
    pub fn is_split(&self) -> bool {
        matches!(self.mig, Mig::On(_))
    }

    /// The name that sysfs has for it: a domain of four digits, in lower case.
    pub fn sysfs_name(&self) -> String {
        sysfs_name(&self.bus_id)
    }
}

/// NVML writes domains with eight digits and in upper case, Linux with four and in lower case.
pub(crate) fn sysfs_name(bus_id: &str) -> String {
    let lower = bus_id.to_ascii_lowercase();
    match lower.split_once(':') {
        Some((domain, rest)) if domain.len() == 8 => format!("{}:{rest}", &domain[4..]),
        _ => lower,
    }
}

/// How NVIDIA writes a profile: slices, and the memory as eighths of what the GPU has, in GB.
pub(crate) fn profile(gpu_slices: u32, compute_slices: u32, memory_mib: u64, gpu_memory: u64) -> String {
    let share = (memory_mib << 20) as f64 / gpu_memory.max(1) as f64;
    let eighths = (share * 8.0).ceil() / 8.0;
    let gigabytes = (eighths * gpu_memory.div_ceil(1 << 30) as f64).round();
    if gpu_slices == compute_slices {
        format!("{gpu_slices}g.{gigabytes}gb")
    } else {
        format!("{compute_slices}c.{gpu_slices}g.{gigabytes}gb")
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPU {} ({}, {})", self.index, self.name, self.uuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_written_as_nvidia_writes_them() {
        let (a100, h100) = (40_536_u64 << 20, 81_559_u64 << 20);
        assert_eq!(profile(1, 1, 4864, a100), "1g.5gb");
        assert_eq!(profile(3, 3, 20_096, a100), "3g.20gb");
        assert_eq!(profile(1, 1, 9856, h100), "1g.10gb");
        assert_eq!(profile(7, 7, 80_896, h100), "7g.80gb");
        assert_eq!(profile(2, 1, 19_968, h100), "1c.2g.20gb");
    }

    #[test]
    fn sysfs_has_short_domains_in_lower_case() {
        assert_eq!(sysfs_name("00000000:AF:00.0"), "0000:af:00.0");
        assert_eq!(sysfs_name("00010000:01:00.0"), "0000:01:00.0");
    }

    #[test]
    fn a_pair_is_worth_its_path_and_its_links() {
        let mut near = Nearness::default();
        near.note("a", "b", Path::Switch, 4);
        assert_eq!((near.score("a", "b"), near.score("b", "a"), near.score("a", "c")), (450, 450, 0));
    }
}
