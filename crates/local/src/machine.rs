//! What this machine has: read from the system, decided nothing.

use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity};

use crate::place::{Gpu, Machine};

/// Where NVIDIA's driver lists its GPUs, a folder each, named by their place on the bus.
const GPUS: &str = "/proc/driver/nvidia/gpus";

impl Machine {
    /// This machine: the CPUs that this process may use, and the GPUs that the driver knows, without their memory.
    pub fn detect(memory: Option<u64>) -> Machine {
        let cpus = match sched_getaffinity(None) {
            Ok(set) => (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
            Err(error) => {
                tracing::debug!(%error, "the CPUs of this process are not known");
                (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
            }
        };
        Machine { cpus, memory, gpus: gpus(Path::new(GPUS)) }
    }
}

/// The GPUs in the order of the bus; none where there is no driver.
fn gpus(folder: &Path) -> Vec<Gpu> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut folders: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.sort();
    let texts = folders.iter().filter_map(|folder| std::fs::read_to_string(folder.join("information")).ok());
    texts.filter_map(|text| gpu(&text)).collect()
}

/// A GPU from what the driver says of it: lines of `name: value`.
fn gpu(information: &str) -> Option<Gpu> {
    let field = |name: &str| {
        let mut lines = information.lines().filter_map(|line| line.split_once(':'));
        lines.find_map(|(field, value)| (field.trim() == name).then(|| value.trim().to_owned()))
    };
    Some(Gpu { id: field("GPU UUID")?, product: field("Model").unwrap_or_default(), memory: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_read_in_the_order_of_the_bus() {
        let root = tempfile::tempdir().unwrap();
        for (bus, model, uuid) in
            [("0000:41:00.0", "NVIDIA L4", "GPU-b"), ("0000:01:00.0", "NVIDIA H200", "GPU-a")]
        {
            let folder = root.path().join(bus);
            std::fs::create_dir(&folder).unwrap();
            let text =
                format!("Model: \t\t {model}\nIRQ:   \t\t 7\nGPU UUID: \t {uuid}\nBus Location: \t {bus}\n");
            std::fs::write(folder.join("information"), text).unwrap();
        }
        let found: Vec<_> = gpus(root.path()).into_iter().map(|gpu| (gpu.id, gpu.product)).collect();
        let expected = [("GPU-a", "NVIDIA H200"), ("GPU-b", "NVIDIA L4")];
        assert_eq!(found, expected.map(|(id, product)| (id.to_owned(), product.to_owned())));
        assert_eq!(gpus(&root.path().join("nothing")), []);
    }

    #[test]
    fn this_machine_has_a_cpu() {
        assert!(!Machine::detect(None).cpus.is_empty());
    }
}
