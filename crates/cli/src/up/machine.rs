//! What this machine has to give to replicas: memory that is free, and the GPUs that NVML tells of.

use std::path::Path;

use wharf_local::{Gpu, Machine};
use wharf_node::gpu::{Inventory, Mig};
use wharf_node::nvml::Library;
use wharf_plan::Product;

use crate::Env;
use crate::model::memory;

/// Share of the memory that is free now which models may take: the rest is for everything else that runs.
const SHARE: f64 = 0.9;

/// This machine, with the GPUs that the environment leaves.
pub(super) fn detect(memory: Option<u64>, env: &Env) -> Machine {
    let free = (memory::free() as f64 * SHARE) as u64;
    let machine = Machine::detect(Some(memory.unwrap_or(free)));
    // Without NVML the driver's own list says which products there are, and a table how much memory they have.
    let gpus = told(None).unwrap_or_else(|| machine.gpus.into_iter().map(with_memory).collect());
    let gpus = visible(gpus, env.get("CUDA_VISIBLE_DEVICES").map(String::as_str));
    Machine { gpus, ..machine }
}

/// The GPUs that NVML tells of, in the order of the bus; nothing where there is no NVML.
fn told(library: Option<&Path>) -> Option<Vec<Gpu>> {
    let library = Library::open(library, Path::new("/sys"))
        .inspect_err(|error| tracing::debug!(error = %wharf_telemetry::log::chain(error), "no NVML"))
        .ok()?;
    let inventory = library
        .inventory()
        .inspect_err(|error| tracing::warn!(error = %wharf_telemetry::log::chain(error), "no list of GPUs"))
        .ok()?;
    for (index, why) in &inventory.silent {
        tracing::warn!(index, why, "a GPU does not answer, and is given to nobody");
    }
    Some(gpus(&inventory))
}

/// What processes can be given: GPUs, and of those that MIG has split their parts.
fn gpus(inventory: &Inventory) -> Vec<Gpu> {
    let mut gpus = Vec::new();
    for gpu in &inventory.gpus {
        match &gpu.mig {
            Mig::Unable | Mig::Off => gpus.push(Gpu {
                id: gpu.uuid.clone(),
                product: gpu.name.clone(),
                memory: Some(gpu.memory).filter(|bytes| *bytes > 0),
            }),
            Mig::On(parts) => gpus.extend(parts.iter().map(|part| Gpu {
                id: part.uuid.clone(),
                product: format!("{} MIG {}", gpu.name, part.profile),
                memory: Some(part.memory_mib << 20),
            })),
        }
    }
    gpus
}

/// With the memory that its product has, if that is known.
fn with_memory(gpu: Gpu) -> Gpu {
    Gpu { memory: Product::find(&gpu.product).ok().map(|product| product.memory), ..gpu }
}

/// Those that `CUDA_VISIBLE_DEVICES` names, by their number or by the beginning of their UUID. What follows a name that is nobody's is hidden,
/// as CUDA does it.
fn visible(gpus: Vec<Gpu>, names: Option<&str>) -> Vec<Gpu> {
    let Some(names) = names else { return gpus };
    let named = |name: &str| match name.parse::<usize>() {
        Ok(number) => gpus.get(number).cloned(),
        Err(_) => gpus.iter().find(|gpu| !name.is_empty() && gpu.id.starts_with(name)).cloned(),
    };
    names.split(',').map(str::trim).map_while(named).collect()
}

#[cfg(test)]
mod tests {
    use wharf_fake_nvml::{FakeNvml, Instance, Machine as Fake, Mig as FakeMig};

    use super::*;

    fn ids(gpus: &[Gpu]) -> Vec<&str> {
        gpus.iter().map(|gpu| gpu.id.as_str()).collect()
    }

    #[test]
    fn gpus_are_those_that_nvml_tells_of_and_of_a_split_one_its_parts() {
        let folder = tempfile::tempdir().unwrap();
        let mut machine = Fake::of(3);
        machine.gpus[0].memory_total = 24 << 30;
        let parts = ["MIG-a", "MIG-b"].map(|uuid| Instance { uuid: uuid.to_owned(), ..Instance::default() });
        machine.gpus[1].mig = Some(FakeMig { enabled: true, instances: parts.to_vec() });
        machine.gpus[2].lost = true;
        let whole = machine.gpus[0].uuid.clone();
        let fake = FakeNvml::install(folder.path(), &machine).unwrap();
        let gpus = told(Some(fake.library())).unwrap();
        assert_eq!(ids(&gpus), [whole.as_str(), "MIG-a", "MIG-b"]);
        assert_eq!((gpus[0].product.as_str(), gpus[0].memory), ("NVIDIA H100 80GB HBM3", Some(24 << 30)));
        assert!(gpus[1].product.starts_with("NVIDIA H100 80GB HBM3 MIG 1g."), "{gpus:?}");
        assert_eq!(gpus[1].memory, Some(9856 << 20));
        assert_eq!(told(Some(&folder.path().join("nothing.so"))), None);
    }

    #[test]
    fn the_driver_s_own_list_is_completed_from_the_table_of_products() {
        let of = |product: &str| {
            let gpu = Gpu { id: "GPU-a".to_owned(), product: product.to_owned(), memory: None };
            with_memory(gpu).memory
        };
        assert_eq!(of("NVIDIA H100 80GB HBM3"), Some(81_559 << 20));
        assert_eq!(of("NVIDIA Abacus"), None);
    }

    #[test]
    fn only_those_are_given_that_the_environment_leaves() {
        let gpu = |id: &str| Gpu { id: id.to_owned(), product: String::new(), memory: None };
        let found = |names: Option<&str>| {
            ids(&visible(vec![gpu("GPU-aa"), gpu("GPU-ab"), gpu("GPU-b")], names)).join(" ")
        };
        let cases = [
            (None, "GPU-aa GPU-ab GPU-b"),
            (Some("2,0"), "GPU-b GPU-aa"),
            (Some("GPU-b, GPU-ab"), "GPU-b GPU-ab"),
            (Some("1,7,2"), "GPU-ab"),
            (Some("-1"), ""),
            (Some(""), ""),
        ];
        for (names, expected) in cases {
            assert_eq!(found(names), expected, "{names:?}");
        }
    }
}
