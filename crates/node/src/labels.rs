//! Labels that tell schedulers and people what GPUs a node has. Pure.
//!
//! The names and values are GPU feature discovery's, and `node-type`, `gpu-type` and `capacity-gpu` beside them.

use std::collections::BTreeMap;

use crate::config::{GPU, MigStrategy, NodeConfig};
use crate::gpu::{Gpu, Inventory, Mig, Part};
use crate::resources::resource_of;

/// Names and values.
pub type Labels = BTreeMap<String, String>;

/// A value has at most so many characters.
const LONGEST: usize = 63;

/// The labels of a node with GPUs; none of one without. `machine`: what the firmware calls it.
pub fn labels(inventory: &Inventory, config: &NodeConfig, machine: Option<&str>) -> Labels {
    let mut labels = Labels::new();
    let Some(first) = inventory.gpus.first() else { return labels };
    let mut set = |name: &str, value: String| drop(labels.insert(name.to_owned(), valid(&value)));
    let strategy = config.plugin.mig;
    let counted = Counted::of(inventory, config, first);
    set("node-type", "gpu".to_owned());
    set("gpu-type", gpu_type(&first.name));
    set("capacity-gpu", inventory.gpus.len().to_string());
    let gpu = "nvidia.com/gpu";
    set(&format!("{gpu}.present"), "true".to_owned());
    set(&format!("{gpu}.product"), counted.product);
    set(&format!("{gpu}.count"), counted.count.to_string());
    set(&format!("{gpu}.memory"), counted.memory_mib.to_string());
    set(&format!("{gpu}.replicas"), counted.replicas.to_string());
    set(&format!("{gpu}.sharing-strategy"), sharing_of(config, GPU).1.to_owned());
    set(&format!("{gpu}.family"), family(first.compute).to_owned());
    set(&format!("{gpu}.compute.major"), first.compute.0.to_string());
    set(&format!("{gpu}.compute.minor"), first.compute.1.to_string());
    set(
        &format!("{gpu}.mode"),
        if inventory.gpus.iter().any(|gpu| gpu.graphics) { "graphics" } else { "compute" }.to_owned(),
    );
    if let Some(machine) = machine {
        set(&format!("{gpu}.machine"), machine.to_owned());
    }
    if let Some(clique) = common(inventory, |gpu| gpu.clique.as_ref()) {
        set(&format!("{gpu}.clique"), clique.clone());
    }
    let capable = inventory.gpus.iter().any(|gpu| gpu.mig != Mig::Unable);
    set("nvidia.com/mig.capable", capable.to_string());
    if capable {
        set("nvidia.com/mig.strategy", strategy_name(strategy).to_owned());
    }
    set("nvidia.com/mps.capable", "false".to_owned());
    if inventory.gpus.iter().any(|gpu| gpu.virtual_gpu) {
        set("nvidia.com/vgpu.present", "true".to_owned());
    }
    driver(inventory, &mut set);
    match strategy {
        MigStrategy::None => {}
        MigStrategy::Single => {
            if let Some(part) = counted.part {
                details(gpu, part, &mut set);
            }
        }
        MigStrategy::Mixed => parts(inventory, config, first, &mut set),
    }
    labels
}

/// Versions, under their names and their older names.
fn driver(inventory: &Inventory, set: &mut impl FnMut(&str, String)) {
    let mut versions = inventory.driver.split('.');
    for (name, old) in [("major", "major"), ("minor", "minor"), ("revision", "rev")] {
        let version = versions.next().unwrap_or("").to_owned();
        set(&format!("nvidia.com/cuda.driver-version.{name}"), version.clone());
        set(&format!("nvidia.com/cuda.driver.{old}"), version);
    }
    set("nvidia.com/cuda.driver-version.full", inventory.driver.clone());
    let (major, minor) = inventory.cuda;
    for name in ["cuda.runtime-version", "cuda.runtime"] {
        set(&format!("nvidia.com/{name}.major"), major.to_string());
        set(&format!("nvidia.com/{name}.minor"), minor.to_string());
    }
    set("nvidia.com/cuda.runtime-version.full", format!("{major}.{minor}"));
}

/// What `nvidia.com/gpu` stands for.
struct Counted<'a> {
    product: String,
    count: usize,
    memory_mib: u64,
    replicas: u32,
    /// With the single strategy.
    part: Option<&'a Part>,
}

impl Counted<'_> {
    fn of<'a>(inventory: &'a Inventory, config: &NodeConfig, first: &Gpu) -> Counted<'a> {
        let name = dashed(&first.name);
        let (replicas, _) = sharing_of(config, GPU);
        let shared = if replicas > 1 && !renamed(config, GPU) { "-SHARED" } else { "" };
        let any_split = inventory.gpus.iter().any(Gpu::is_split);
        if config.plugin.mig == MigStrategy::Single && any_split {
            let parts: Vec<&Part> = inventory.gpus.iter().flat_map(Gpu::parts).collect();
            return match (crate::resources::offers(inventory, &config.plugin), parts.first()) {
                (Ok(_), Some(part)) => Counted {
                    product: format!("{name}-MIG-{}{shared}", part.profile.replace('+', ".")),
                    count: parts.len(),
                    memory_mib: part.memory_mib,
                    replicas,
                    part: Some(part),
                },
                _ => Counted {
                    product: format!("{name}-MIG-INVALID"),
                    count: 0,
                    memory_mib: 0,
                    replicas: 0,
                    part: None,
                },
            };
        }
        Counted {
            product: format!("{name}{shared}"),
            count: inventory.gpus.len(),
            memory_mib: first.memory >> 20,
            replicas,
            part: None,
        }
    }
}

/// With the mixed strategy each profile has labels of its own.
fn parts(inventory: &Inventory, config: &NodeConfig, first: &Gpu, set: &mut impl FnMut(&str, String)) {
    let mut by_profile: BTreeMap<&str, Vec<&Part>> = BTreeMap::new();
    for part in inventory.gpus.iter().flat_map(Gpu::parts) {
        by_profile.entry(&part.profile).or_default().push(part);
    }
    for (profile, parts) in by_profile {
        let resource = resource_of(profile);
        let (replicas, strategy) = sharing_of(config, &resource);
        let shared = if replicas > 1 && !renamed(config, &resource) { "-SHARED" } else { "" };
        let product = format!("{}-MIG-{}{shared}", dashed(&first.name), profile.replace('+', "."));
        set(&format!("{resource}.product"), product);
        set(&format!("{resource}.count"), parts.len().to_string());
        set(&format!("{resource}.replicas"), replicas.to_string());
        set(&format!("{resource}.sharing-strategy"), strategy.to_owned());
        set(&format!("{resource}.memory"), parts[0].memory_mib.to_string());
        details(&resource, parts[0], set);
    }
}

fn details(resource: &str, part: &Part, set: &mut impl FnMut(&str, String)) {
    set(&format!("{resource}.multiprocessors"), part.multiprocessors.to_string());
    set(&format!("{resource}.slices.gi"), part.gpu_slices.to_string());
    set(&format!("{resource}.slices.ci"), part.compute_slices.to_string());
    for (engine, count) in &part.engines {
        set(&format!("{resource}.engines.{engine}"), count.to_string());
    }
}

/// How many share a device of this resource, and what that is called.
fn sharing_of(config: &NodeConfig, resource: &str) -> (u32, &'static str) {
    let sharing = config.plugin.sharing.iter().find(|sharing| sharing.resource == resource);
    sharing.map_or((1, "none"), |sharing| (sharing.replicas, "time-slicing"))
}

fn renamed(config: &NodeConfig, resource: &str) -> bool {
    config.plugin.sharing.iter().any(|sharing| sharing.resource == resource && sharing.rename)
}

fn strategy_name(strategy: MigStrategy) -> &'static str {
    match strategy {
        MigStrategy::None => "none",
        MigStrategy::Single => "single",
        MigStrategy::Mixed => "mixed",
    }
}

/// What all GPUs have in common.
fn common<'a, T: PartialEq>(
    inventory: &'a Inventory,
    of: impl Fn(&'a Gpu) -> Option<&'a T>,
) -> Option<&'a T> {
    let mut all = inventory.gpus.iter().map(of);
    let first = all.next()??;
    all.all(|other| other == Some(first)).then_some(first)
}

fn dashed(name: &str) -> String {
    name.split_whitespace().collect::<Vec<_>>().join("-")
}

/// As the guide has it: `nvidia-tesla-v100`.
fn gpu_type(name: &str) -> String {
    let dashed = dashed(name).to_ascii_lowercase();
    if dashed.starts_with("nvidia") { dashed } else { format!("nvidia-{dashed}") }
}

/// NVIDIA's name of an architecture, by compute capability.
fn family(compute: (u32, u32)) -> &'static str {
    match compute {
        (1, _) => "tesla",
        (2, _) => "fermi",
        (3, _) => "kepler",
        (5, _) => "maxwell",
        (6, _) => "pascal",
        (7, 0..5) => "volta",
        (7, _) => "turing",
        (8, 0..9) => "ampere",
        (8, _) => "ada-lovelace",
        (9, _) => "hopper",
        (10 | 12, _) => "blackwell",
        (13, _) => "rubin",
        _ => "undefined",
    }
}

/// A value that Kubernetes takes: letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.
fn valid(value: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let value: String = value.chars().map(|c| if good(c) { c } else { '-' }).take(LONGEST).collect();
    value.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PluginConfig, Sharing};
    use crate::testing::{gpu, part};

    fn node(gpus: Vec<Gpu>) -> Inventory {
        Inventory { driver: "580.95.05".to_owned(), cuda: (13, 0), gpus, ..Inventory::default() }
    }

    fn with(plugin: PluginConfig) -> NodeConfig {
        NodeConfig { plugin, ..NodeConfig::default() }
    }

    fn lines(labels: &Labels) -> String {
        labels.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    #[test]
    fn a_node_is_labelled_as_feature_discovery_labels_it() {
        let labels = labels(&node(vec![gpu(0), gpu(1)]), &NodeConfig::default(), Some("PowerEdge XE9680 "));
        expect_test::expect![[r#"
            capacity-gpu=2
            gpu-type=nvidia-h100-80gb-hbm3
            node-type=gpu
            nvidia.com/cuda.driver-version.full=580.95.05
            nvidia.com/cuda.driver-version.major=580
            nvidia.com/cuda.driver-version.minor=95
            nvidia.com/cuda.driver-version.revision=05
            nvidia.com/cuda.driver.major=580
            nvidia.com/cuda.driver.minor=95
            nvidia.com/cuda.driver.rev=05
            nvidia.com/cuda.runtime-version.full=13.0
            nvidia.com/cuda.runtime-version.major=13
            nvidia.com/cuda.runtime-version.minor=0
            nvidia.com/cuda.runtime.major=13
            nvidia.com/cuda.runtime.minor=0
            nvidia.com/gpu.compute.major=9
            nvidia.com/gpu.compute.minor=0
            nvidia.com/gpu.count=2
            nvidia.com/gpu.family=hopper
            nvidia.com/gpu.machine=PowerEdge-XE9680
            nvidia.com/gpu.memory=81559
            nvidia.com/gpu.mode=compute
            nvidia.com/gpu.present=true
            nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3
            nvidia.com/gpu.replicas=1
            nvidia.com/gpu.sharing-strategy=none
            nvidia.com/mig.capable=true
            nvidia.com/mig.strategy=none
            nvidia.com/mps.capable=false
        "#]]
        .assert_eq(&lines(&labels));
    }

    #[test]
    fn a_node_without_gpus_has_no_labels() {
        assert_eq!(labels(&node(vec![]), &NodeConfig::default(), Some("machine")), Labels::new());
    }

    #[test]
    fn shared_gpus_say_so_unless_they_are_called_so() {
        let sharing =
            |rename| Sharing { resource: GPU.to_owned(), replicas: 4, rename, refuse_more_than_one: true };
        let config =
            |rename| with(PluginConfig { sharing: vec![sharing(rename)], ..PluginConfig::default() });
        let shared = labels(&node(vec![gpu(0)]), &config(false), None);
        assert_eq!(shared["nvidia.com/gpu.product"], "NVIDIA-H100-80GB-HBM3-SHARED");
        assert_eq!(
            (&*shared["nvidia.com/gpu.replicas"], &*shared["nvidia.com/gpu.sharing-strategy"]),
            ("4", "time-slicing")
        );
        assert_eq!(
            labels(&node(vec![gpu(0)]), &config(true), None)["nvidia.com/gpu.product"],
            "NVIDIA-H100-80GB-HBM3"
        );
    }

    #[test]
    fn parts_are_labelled_by_strategy() {
        let split = |profile| Gpu {
            mig: Mig::On(vec![part("MIG-a", profile, 1), part("MIG-b", profile, 2)]),
            ..gpu(0)
        };
        let of =
            |gpus, mig| labels(&node(gpus), &with(PluginConfig { mig, ..PluginConfig::default() }), None);
        let single = of(vec![split("1g.10gb")], MigStrategy::Single);
        assert_eq!(single["nvidia.com/gpu.product"], "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb");
        assert_eq!((&*single["nvidia.com/gpu.count"], &*single["nvidia.com/gpu.memory"]), ("2", "9856"));
        assert_eq!(single["nvidia.com/gpu.slices.gi"], "1");
        let invalid = of(vec![split("1g.10gb"), gpu(1)], MigStrategy::Single);
        assert_eq!(invalid["nvidia.com/gpu.product"], "NVIDIA-H100-80GB-HBM3-MIG-INVALID");
        assert_eq!(invalid["nvidia.com/gpu.count"], "0");
        let mixed = of(vec![split("1g.10gb+me"), gpu(1)], MigStrategy::Mixed);
        assert_eq!(mixed["nvidia.com/mig-1g.10gb.me.count"], "2");
        assert_eq!(mixed["nvidia.com/mig-1g.10gb.me.engines.copy"], "1");
        assert_eq!(mixed["nvidia.com/gpu.count"], "2");
        assert_eq!(mixed["nvidia.com/mig.strategy"], "mixed");
    }

    #[test]
    fn every_value_is_one_that_kubernetes_takes() {
        for (value, expected) in
            [("a b/c", "a-b-c"), ("-x-", "x"), ("", ""), (&"y".repeat(70), &"y".repeat(63))]
        {
            assert_eq!(valid(value), expected);
        }
    }

    #[test]
    fn families_are_told_by_compute_capability() {
        for (compute, expected) in [
            ((7, 0), "volta"),
            ((7, 5), "turing"),
            ((8, 0), "ampere"),
            ((8, 9), "ada-lovelace"),
            ((12, 0), "blackwell"),
        ] {
            assert_eq!(family(compute), expected);
        }
    }
}
