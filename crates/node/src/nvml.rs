//! NVML, opened at run time. This file asks and gives back data; what follows from it is decided elsewhere.
//!
//! What a driver does not know of is left out: an old one lacks functions, a GPU lacks sensors, a part lacks nearly everything. All calls
//! block, some for as long as a driver initialises a GPU.

#[expect(unsafe_code, reason = "NVML is a C library; what nvml-wrapper does not wrap is called here")]
mod raw;
mod sample;
mod settings;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TopologyLevel;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::MigMode;

use crate::gpu::{Gpu, Inventory, Mig, Nearness, Part, Path, profile, sysfs_name};

pub(crate) use raw::{Events, Heard};
pub use sample::{Memory, PartSample, Rows, Sample};
pub use settings::{Settings, Write};

/// Where a driver's container puts the library, when it is not where the loader looks.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// NVLinks of a GPU at most (`NVML_NVLINK_MAX_LINKS`).
const LINKS: u32 = 18;

/// Why there is no NVML.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No library.
    #[error(
        "failed to load {path}: there is no NVIDIA driver here, or its libraries are not mounted into this container"
    )]
    NoLibrary {
        /// What was looked for.
        path: PathBuf,
        /// Why.
        source: NvmlError,
    },
    /// The library has no driver to talk with.
    #[error("{path} is there, but the NVIDIA driver is not loaded")]
    NoDriver {
        /// What was loaded.
        path: PathBuf,
        /// Why.
        source: NvmlError,
    },
    /// Anything else.
    #[error("failed to initialise NVML ({path})")]
    Init {
        /// What was loaded.
        path: PathBuf,
        /// Why.
        source: NvmlError,
    },
}

impl OpenError {
    /// In one word, for conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            OpenError::NoLibrary { .. } => "NoLibrary",
            OpenError::NoDriver { .. } => "NoDriver",
            OpenError::Init { .. } => "InitFailed",
        }
    }
}

/// NVML said no.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what}")]
pub struct CallError {
    what: String,
    source: NvmlError,
}

impl CallError {
    fn new(what: impl Into<String>) -> impl FnOnce(NvmlError) -> CallError {
        move |source| CallError { what: what.into(), source }
    }

    /// The GPU or the driver cannot, or we may not: it is no use to try again.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self.source,
            NvmlError::NotSupported | NvmlError::NoPermission | NvmlError::FailedToLoadSymbol(_)
        )
    }
}

/// An open NVML. Clones are the same one; it is closed with the last of them.
#[derive(Clone, Debug)]
pub struct Library {
    nvml: Arc<Nvml>,
    sysfs: PathBuf,
}

impl Library {
    /// Opens `path`, or what the loader finds. `sysfs` is where `/sys` is.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: Option<&FilePath>, sysfs: &FilePath) -> Result<Library, OpenError> {
        let name = path.map_or(OsStr::new(LIBRARY), FilePath::as_os_str);
        let nvml = Nvml::builder().lib_path(name).init().map_err(|source| {
            let path = PathBuf::from(name);
            match source {
                NvmlError::LibloadingError(_) => OpenError::NoLibrary { path, source },
                NvmlError::DriverNotLoaded | NvmlError::LibraryNotFound => {
                    OpenError::NoDriver { path, source }
                }
                source => OpenError::Init { path, source },
            }
        })?;
        Ok(Library { nvml: Arc::new(nvml), sysfs: sysfs.to_owned() })
    }

    /// What the node has now.
    ///
    /// # Errors
    /// When GPUs cannot even be counted. One that does not answer is in [`Inventory::silent`].
    pub fn inventory(&self) -> Result<Inventory, CallError> {
        let count = self.nvml.device_count().map_err(CallError::new("count GPUs"))?;
        let cuda = self.nvml.sys_cuda_driver_version().unwrap_or(0);
        let mut inventory = Inventory {
            driver: self.nvml.sys_driver_version().unwrap_or_default(),
            cuda: (unsigned(cuda / 1000), unsigned(cuda % 1000 / 10)),
            ..Inventory::default()
        };
        for index in 0..count {
            match self.gpu(index) {
                Ok(gpu) => inventory.gpus.push(gpu),
                Err(error) => drop(inventory.silent.insert(index, error.to_string())),
            }
        }
        Ok(inventory)
    }

    fn gpu(&self, index: u32) -> Result<Gpu, NvmlError> {
        let device = self.nvml.device_by_index(index)?;
        let bus_id = device.pci_info()?.bus_id;
        let memory = device.memory_info().map(|memory| memory.total).unwrap_or(0);
        let compute = device.cuda_compute_capability().ok();
        Ok(Gpu {
            index,
            uuid: device.uuid()?,
            name: device.name().unwrap_or_else(|_| "unknown".to_owned()),
            minor: device.minor_number().ok(),
            memory,
            compute: compute.map_or((0, 0), |it| (unsigned(it.major), unsigned(it.minor))),
            numa: self.numa(&bus_id),
            graphics: self.pci_file(&bus_id, "class").is_some_and(|class| class.starts_with("0x0300")),
            virtual_gpu: raw::is_virtual(&device),
            clique: raw::clique(&device),
            mig: mig(&device, memory),
            bus_id,
        })
    }

    /// The kernel says -1 where there are no NUMA nodes.
    fn numa(&self, bus_id: &str) -> Option<u32> {
        self.pci_file(bus_id, "numa_node")?.parse().ok()
    }

    fn pci_file(&self, bus_id: &str, file: &str) -> Option<String> {
        let path = self.sysfs.join("bus/pci/devices").join(sysfs_name(bus_id)).join(file);
        Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
    }

    /// How near GPUs are to each other. Pairs that NVML knows nothing of are left out.
    pub fn nearness(&self, inventory: &Inventory) -> Nearness {
        let mut nearness = Nearness::default();
        let devices: Vec<_> = (inventory.gpus.iter())
            .filter_map(|gpu| Some((gpu, self.nvml.device_by_uuid(gpu.uuid.as_str()).ok()?)))
            .collect();
        let links: Vec<BTreeMap<String, u32>> = devices.iter().map(|(_, device)| links(device)).collect();
        for (at, (one, device)) in devices.iter().enumerate() {
            for (other_at, (other, _)) in devices.iter().enumerate().skip(at + 1) {
                let Some(path) = self.path(device, other) else { continue };
                let direct = links[at].get(&other.sysfs_name()).copied().unwrap_or(0);
                let count = direct.max(through_switches(&links[at], &links[other_at], &devices));
                nearness.note(&one.uuid, &other.uuid, path, count);
            }
        }
        nearness
    }

    fn path(&self, one: &nvml_wrapper::Device<'_>, other: &Gpu) -> Option<Path> {
        let other = self.nvml.device_by_uuid(other.uuid.as_str()).ok()?;
        Some(match one.topology_common_ancestor(other).ok()? {
            TopologyLevel::Internal => Path::Board,
            TopologyLevel::Single => Path::Switch,
            TopologyLevel::Multiple => Path::Switches,
            TopologyLevel::HostBridge => Path::HostBridge,
            TopologyLevel::Node => Path::Cpu,
            TopologyLevel::System => Path::Cpus,
        })
    }

    /// Whether a GPU answers: what a health check asks.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, uuid: &str) -> Result<(), CallError> {
        let failed = || CallError::new(format!("ask GPU {uuid}"));
        let device = self.nvml.device_by_uuid(uuid).map_err(failed())?;
        device.uuid().map_err(failed())?;
        device.memory_info().map(drop).or_else(passable).map_err(failed())
    }

    fn device(&self, uuid: &str) -> Result<nvml_wrapper::Device<'_>, CallError> {
        self.nvml.device_by_uuid(uuid).map_err(CallError::new(format!("find GPU {uuid}")))
    }
}

/// A function that a driver or a GPU lacks is nothing that happened to the GPU.
fn passable(error: NvmlError) -> Result<(), NvmlError> {
    match error {
        NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => Ok(()),
        error => Err(error),
    }
}

fn unsigned(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

fn mig(device: &nvml_wrapper::Device<'_>, memory: u64) -> Mig {
    match device.mig_mode() {
        Err(_) => Mig::Unable,
        Ok(MigMode { current: 0, .. }) => Mig::Off,
        Ok(_) => {
            let count = device.mig_device_count().unwrap_or(0);
            Mig::On(
                (0..count)
                    .filter_map(|index| part(&device.mig_device_by_index(index).ok()?, memory))
                    .collect(),
            )
        }
    }
}

fn part(device: &nvml_wrapper::Device<'_>, gpu_memory: u64) -> Option<Part> {
    let attributes = device.attributes().ok()?;
    let (gpu_slices, compute_slices) =
        (attributes.gpu_instance_slice_count, attributes.compute_instance_slice_count);
    let memory_mib = attributes.memory_size_mb;
    // Newer drivers name the profile, with what cannot be computed of it (`+me`).
    let named = device.name().ok().and_then(|name| Some(name.split_once(" MIG ")?.1.trim().to_owned()));
    Some(Part {
        uuid: device.uuid().ok()?,
        profile: named.unwrap_or_else(|| profile(gpu_slices, compute_slices, memory_mib, gpu_memory)),
        gpu_instance: raw::gpu_instance(device).ok()?,
        compute_instance: raw::compute_instance(device).ok()?,
        gpu_slices,
        compute_slices,
        memory_mib,
        multiprocessors: attributes.multiprocessor_count,
        engines: BTreeMap::from([
            ("copy", attributes.shared_copy_engine_count),
            ("decoder", attributes.shared_decoder_count),
            ("encoder", attributes.shared_encoder_count),
            ("jpeg", attributes.shared_jpeg_count),
            ("ofa", attributes.shared_ofa_count),
        ]),
    })
}

/// Active NVLinks by what is at their other end.
fn links(device: &nvml_wrapper::Device<'_>) -> BTreeMap<String, u32> {
    let mut links = BTreeMap::new();
    for index in 0..LINKS {
        let link = device.link_wrapper_for(index);
        match link.is_active() {
            Ok(true) => {
                if let Ok(remote) = link.remote_pci_info() {
                    *links.entry(sysfs_name(&remote.bus_id)).or_insert(0) += 1;
                }
            }
            Ok(false) => {}
            Err(_) => break,
        }
    }
    links
}

/// Where GPUs are joined by NVSwitches, each reaches the other over as many links as it has to switches that both are at.
fn through_switches(
    one: &BTreeMap<String, u32>,
    other: &BTreeMap<String, u32>,
    devices: &[(&Gpu, nvml_wrapper::Device<'_>)],
) -> u32 {
    let is_gpu = |name: &str| devices.iter().any(|(gpu, _)| gpu.sysfs_name() == name);
    let shared = one.iter().filter(|(name, _)| !is_gpu(name));
    shared.filter_map(|(name, count)| Some((*count).min(*other.get(name)?))).sum()
}
