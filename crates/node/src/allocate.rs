//! What a container needs to use its devices. Pure, but for looking which device files there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::config::{DeviceIds, DeviceList, PluginConfig};
use crate::gpu::Inventory;
use crate::kubelet::wire::{CdiDevice, ContainerAllocateResponse, DeviceSpec};
use crate::resources::{Device, Offer};

/// The variable of NVIDIA's container runtime.
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
/// Device files that belong to no GPU.
const CONTROL: [&str; 4] = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"];
/// CDI's annotations are of whoever writes them.
const CDI_ANNOTATION: &str = "cdi.k8s.io/wharf-node-agent_";

/// Why a container gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A device that is not there.
    #[error("{resource} has no device {id}")]
    Unknown {
        /// Of which resource.
        resource: String,
        /// Which.
        id: String,
    },
    /// More than one share.
    #[error(
        "{asked} of {resource} were asked for: devices of it are shared by turns, and a second share brings no more time; ask for 1"
    )]
    Several {
        /// Of which resource.
        resource: String,
        /// How many.
        asked: usize,
    },
    /// Something of the driver's that is not there.
    #[error("failed to find the device file {0}")]
    NoFile(String),
}

/// Numbers of the device files that guard MIG's instances, by what `/proc/driver/nvidia-caps/mig-minors` calls them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigMinors(BTreeMap<String, u32>);

impl MigMinors {
    /// Reads lines such as `gpu0/gi1/access 12`.
    pub fn parse(text: &str) -> MigMinors {
        let pairs = text.lines().filter_map(|line| {
            let (name, minor) = line.split_once(' ')?;
            Some((name.to_owned(), minor.trim().parse().ok()?))
        });
        MigMinors(pairs.collect())
    }

    fn file(&self, name: &str) -> Result<String, Refusal> {
        let minor = self.0.get(name).ok_or_else(|| Refusal::NoFile(name.to_owned()))?;
        Ok(format!("nvidia-caps/nvidia-cap{minor}"))
    }
}

/// What devices are allocated from.
#[derive(Clone, Copy, Debug)]
pub struct Stock<'a> {
    /// The GPUs.
    pub inventory: &'a Inventory,
    /// What of them is offered.
    pub offer: &'a Offer,
    /// How containers are told.
    pub config: &'a PluginConfig,
    /// Guards of MIG's instances.
    pub minors: &'a MigMinors,
    /// Where device files are, to see which there are.
    pub dev: &'a Path,
}

/// What a container needs for these devices.
///
/// # Errors
/// [`Refusal`].
pub fn allocate(stock: &Stock<'_>, ids: &[String]) -> Result<ContainerAllocateResponse, Refusal> {
    let Stock { offer, config, .. } = stock;
    let resource = || offer.resource.clone();
    if offer.replicas > 1 && offer.refuses_more_than_one && ids.len() > 1 {
        return Err(Refusal::Several { resource: resource(), asked: ids.len() });
    }
    let find = |id: &String| {
        let found = offer.devices.iter().find(|device| device.id == *id);
        found.ok_or_else(|| Refusal::Unknown { resource: resource(), id: id.clone() })
    };
    let mut devices: Vec<&Device> = ids.iter().map(find).collect::<Result<_, _>>()?;
    // In the order of the GPUs; two shares of one are that one.
    devices.sort_by_key(|device| offer.devices.iter().position(|other| other.unit == device.unit));
    devices.dedup_by_key(|device| device.unit.as_str());
    let name = |device: &Device| match config.device_ids {
        DeviceIds::Uuid => device.unit.clone(),
        DeviceIds::Index => device.place.clone(),
    };
    let names: Vec<String> = devices.iter().map(|device| name(device)).collect();
    let cdi = || names.iter().map(|name| format!("{}={name}", config.cdi_kind));
    let mut response = ContainerAllocateResponse::default();
    for way in &config.device_list {
        match way {
            DeviceList::Environment => drop(response.envs.insert(VISIBLE.to_owned(), names.join(","))),
            DeviceList::DeviceSpecs => response.devices = specs(stock, &devices)?,
            DeviceList::Cdi => response.cdi_devices = cdi().map(|name| CdiDevice { name }).collect(),
            DeviceList::CdiAnnotations => {
                // A key must be one container's alone, and a name of at most 63 characters.
                let key = devices.first().map_or("none", |device| device.unit.trim_start_matches("GPU-"));
                let key: String = key.chars().map(|c| if c == '/' { '_' } else { c }).take(40).collect();
                let value = cdi().collect::<Vec<_>>().join(",");
                response.annotations.insert(format!("{CDI_ANNOTATION}{key}"), value);
            }
        }
    }
    Ok(response)
}

/// Files of the GPUs, of the driver, and of the guards of their parts.
fn specs(stock: &Stock<'_>, devices: &[&Device]) -> Result<Vec<DeviceSpec>, Refusal> {
    let mut files = BTreeSet::new();
    for device in devices {
        let gpu = stock.inventory.gpus.iter().find(|gpu| gpu.uuid == device.gpu);
        let missing = || Refusal::NoFile(format!("of {}", device.gpu));
        let gpu = gpu.ok_or_else(missing)?;
        let minor = gpu.minor.ok_or_else(missing)?;
        files.insert(format!("nvidia{minor}"));
        if let Some(part) = gpu.parts().iter().find(|part| part.uuid == device.unit) {
            let (gi, ci) = (part.gpu_instance, part.compute_instance);
            files.insert(stock.minors.file(&format!("gpu{minor}/gi{gi}/access"))?);
            files.insert(stock.minors.file(&format!("gpu{minor}/gi{gi}/ci{ci}/access"))?);
        }
    }
    let control = CONTROL.iter().filter(|file| stock.dev.join(file).exists()).map(|file| (*file).to_owned());
    Ok(files.into_iter().chain(control).map(|file| spec(&file)).collect())
}

fn spec(file: &str) -> DeviceSpec {
    let path = format!("/dev/{file}");
    DeviceSpec { container_path: path.clone(), host_path: path, permissions: "rw".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{GPU, MigStrategy, Sharing};
    use crate::gpu::{Gpu, Mig};
    use crate::resources::offers;
    use crate::testing::{gpu, part};

    fn given(
        config: &PluginConfig,
        inventory: &Inventory,
        ids: &[&str],
    ) -> Result<ContainerAllocateResponse, Refusal> {
        let offers = offers(inventory, config).unwrap();
        let offer = offers.iter().find(|offer| offer.devices.iter().any(|d| ids.contains(&d.id.as_str())));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("nvidiactl"), "").unwrap();
        let minors = MigMinors::parse("config 1\ngpu1/gi3/access 30\ngpu1/gi3/ci0/access 31\n");
        let stock = Stock {
            inventory,
            offer: offer.unwrap_or(&offers[0]),
            config,
            minors: &minors,
            dev: folder.path(),
        };
        allocate(&stock, &ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>())
    }

    fn two() -> Inventory {
        Inventory { gpus: vec![gpu(0), gpu(1)], ..Inventory::default() }
    }

    fn by(device_list: Vec<DeviceList>) -> PluginConfig {
        PluginConfig { device_list, ..PluginConfig::default() }
    }

    fn paths(response: &ContainerAllocateResponse) -> Vec<&str> {
        response.devices.iter().map(|device| device.host_path.as_str()).collect()
    }

    #[test]
    fn the_variable_lists_gpus_in_their_order() {
        let response = given(&PluginConfig::default(), &two(), &["GPU-1", "GPU-0"]).unwrap();
        assert_eq!(response.envs[VISIBLE], "GPU-0,GPU-1");
        let by_index = PluginConfig { device_ids: DeviceIds::Index, ..PluginConfig::default() };
        assert_eq!(given(&by_index, &two(), &["GPU-1"]).unwrap().envs[VISIBLE], "1");
    }

    #[test]
    fn device_files_are_those_of_the_gpus_and_those_of_the_driver_that_exist() {
        let response = given(&by(vec![DeviceList::DeviceSpecs]), &two(), &["GPU-1"]).unwrap();
        assert_eq!(paths(&response), ["/dev/nvidia1", "/dev/nvidiactl"]);
        assert_eq!(response.devices[0].permissions, "rw");
        assert!(response.envs.is_empty());
    }

    #[test]
    fn a_part_needs_the_files_that_guard_it() {
        let split =
            Gpu { mig: Mig::On(vec![part("MIG-a", "1g.10gb", 3), part("MIG-b", "1g.10gb", 4)]), ..gpu(1) };
        let inventory = Inventory { gpus: vec![gpu(0), split], ..Inventory::default() };
        let config = PluginConfig { mig: MigStrategy::Mixed, ..by(vec![DeviceList::DeviceSpecs]) };
        let response = given(&config, &inventory, &["MIG-a"]).unwrap();
        assert_eq!(
            paths(&response),
            [
                "/dev/nvidia-caps/nvidia-cap30",
                "/dev/nvidia-caps/nvidia-cap31",
                "/dev/nvidia1",
                "/dev/nvidiactl"
            ]
        );
        let unguarded = given(&config, &inventory, &["MIG-b"]);
        assert_eq!(unguarded, Err(Refusal::NoFile("gpu1/gi4/access".to_owned())));
    }

    #[test]
    fn cdi_devices_are_named_by_kind_and_uuid() {
        let response =
            given(&by(vec![DeviceList::Cdi, DeviceList::CdiAnnotations]), &two(), &["GPU-0", "GPU-1"])
                .unwrap();
        let names: Vec<&str> = response.cdi_devices.iter().map(|device| device.name.as_str()).collect();
        assert_eq!(names, ["nvidia.com/gpu=GPU-0", "nvidia.com/gpu=GPU-1"]);
        let (key, value) = response.annotations.first_key_value().unwrap();
        assert!(key.starts_with(CDI_ANNOTATION), "{key}");
        assert_eq!(value, "nvidia.com/gpu=GPU-0,nvidia.com/gpu=GPU-1");
    }

    #[test]
    fn shares_of_one_gpu_are_that_gpu_once() {
        let sharing = |refuse| Sharing {
            resource: GPU.to_owned(),
            replicas: 2,
            rename: false,
            refuse_more_than_one: refuse,
        };
        let config = PluginConfig { sharing: vec![sharing(false)], ..PluginConfig::default() };
        let response = given(&config, &two(), &["GPU-0::1", "GPU-0::0"]).unwrap();
        assert_eq!(response.envs[VISIBLE], "GPU-0");
        let config = PluginConfig { sharing: vec![sharing(true)], ..PluginConfig::default() };
        assert!(matches!(
            given(&config, &two(), &["GPU-0::1", "GPU-0::0"]),
            Err(Refusal::Several { asked: 2, .. })
        ));
    }

    #[test]
    fn an_unknown_device_is_refused() {
        assert!(matches!(given(&PluginConfig::default(), &two(), &["GPU-7"]), Err(Refusal::Unknown { .. })));
    }
}
