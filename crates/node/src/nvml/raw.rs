//! What nvml-wrapper does not wrap, or wraps without what is needed: instances of events, remapped rows, fabrics.

use std::ffi::c_uint;
use std::sync::Arc;

use nvml_wrapper::error::{NvmlError, nvml_sym, nvml_try};
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{nvmlEventData_t, nvmlEventSet_t, nvmlGpuFabricInfoV_t};

use super::{Library, Rows};

/// `nvmlEventTypeXidCriticalError`, with the single and double bit errors of memory.
const WANTED: u64 = 0b1011;
const XID: u64 = 0b1000;
/// `NVML_GPU_VIRTUALIZATION_MODE_VGPU`.
const VGPU: c_uint = 2;
/// `NVML_GPU_FABRIC_STATE_COMPLETED`.
const COMPLETED: c_uint = 3;

/// What was heard of the GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing, for as long as one waited.
    Nothing,
    /// An XID. Without a GPU, NVML could not say whose it is.
    Xid {
        /// Whose.
        gpu: Option<String>,
        /// Which.
        xid: u64,
        /// The instances, if it is of a part.
        part: Option<(u32, u32)>,
    },
    /// Waiting failed, as it does when a GPU is lost.
    Failed(String),
}

/// The events of all GPUs. It is used by one thread at a time.
pub(crate) struct Events {
    nvml: Arc<Nvml>,
    set: nvmlEventSet_t,
}

// SAFETY: a set may be used from any thread, by one at a time (nvml.h); `Events` has no copies and is waited on by `&mut`.
unsafe impl Send for Events {}

impl Events {
    /// Asks for the events of these GPUs. Those that have none are returned with the reason.
    pub(crate) fn of(
        library: &Library,
        uuids: &[String],
    ) -> Result<(Events, Vec<(String, NvmlError)>), NvmlError> {
        let lib = library.nvml.lib();
        let create = nvml_sym(lib.nvmlEventSetCreate.as_ref())?;
        // Whoever creates must be able to free and to wait.
        nvml_sym(lib.nvmlEventSetFree.as_ref())?;
        nvml_sym(lib.nvmlEventSetWait_v2.as_ref())?;
        let mut set: nvmlEventSet_t = std::ptr::null_mut();
        // SAFETY: NVML is initialised for as long as `library` lives, and the pointer is ours to write.
        nvml_try(unsafe { create(&raw mut set) })?;
        let events = Events { nvml: Arc::clone(&library.nvml), set };
        let deaf =
            uuids.iter().filter_map(|uuid| Some((uuid.clone(), events.register(uuid).err()?))).collect();
        Ok((events, deaf))
    }

    fn register(&self, uuid: &str) -> Result<(), NvmlError> {
        let device = self.nvml.device_by_uuid(uuid)?;
        let supported = device.supported_event_types().map_or(WANTED, |types| types.bits() & WANTED);
        if supported & XID == 0 {
            return Err(NvmlError::NotSupported);
        }
        let register = nvml_sym(self.nvml.lib().nvmlDeviceRegisterEvents.as_ref())?;
        // SAFETY: device and set are of this initialised NVML.
        nvml_try(unsafe { register(device.handle(), supported, self.set) })
    }

    /// Waits so many milliseconds for something to happen.
    pub(crate) fn wait(&mut self, milliseconds: u32) -> Heard {
        let wait = match nvml_sym(self.nvml.lib().nvmlEventSetWait_v2.as_ref()) {
            Ok(wait) => wait,
            Err(error) => return Heard::Failed(error.to_string()),
        };
        let mut data = nvmlEventData_t {
            device: std::ptr::null_mut(),
            eventType: 0,
            eventData: 0,
            gpuInstanceId: u32::MAX,
            computeInstanceId: u32::MAX,
        };
        // SAFETY: the set is of this initialised NVML, and the record is ours to write.
        match nvml_try(unsafe { wait(self.set, &raw mut data, milliseconds) }) {
            Err(NvmlError::Timeout) => return Heard::Nothing,
            Err(error) => return Heard::Failed(error.to_string()),
            Ok(()) => {}
        }
        if data.eventType != XID {
            return Heard::Nothing;
        }
        let gpu = if data.device.is_null() {
            None
        } else {
            // SAFETY: NVML has just given this handle, and it is not null.
            unsafe { Device::new(data.device, &self.nvml) }.uuid().ok()
        };
        let part = (data.gpuInstanceId != u32::MAX && data.computeInstanceId != u32::MAX)
            .then_some((data.gpuInstanceId, data.computeInstanceId));
        Heard::Xid { gpu, xid: data.eventData, part }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Ok(free) = nvml_sym(self.nvml.lib().nvmlEventSetFree.as_ref()) {
            // SAFETY: the set is of this initialised NVML, and nobody uses it after this. Nothing can be done about a refusal.
            let _ = nvml_try(unsafe { free(self.set) });
        }
    }
}

/// Rows of a GPU's memory that were replaced.
pub(super) fn rows(device: &Device<'_>) -> Result<Rows, NvmlError> {
    let ask = nvml_sym(device.nvml().lib().nvmlDeviceGetRemappedRows.as_ref())?;
    let (mut correctable, mut uncorrectable, mut pending, mut failed) = (0, 0, 0, 0);
    // SAFETY: the device is of an initialised NVML, and the pointers are ours to write.
    nvml_try(unsafe {
        ask(device.handle(), &raw mut correctable, &raw mut uncorrectable, &raw mut pending, &raw mut failed)
    })?;
    Ok(Rows { correctable, uncorrectable, pending: pending != 0, failed: failed != 0 })
}

/// The GPU instance of a MIG device.
pub(super) fn gpu_instance(device: &Device<'_>) -> Result<u32, NvmlError> {
    let ask = nvml_sym(device.nvml().lib().nvmlDeviceGetGpuInstanceId.as_ref())?;
    let mut id = 0;
    // SAFETY: the device is of an initialised NVML, and the pointer is ours to write.
    nvml_try(unsafe { ask(device.handle(), &raw mut id) })?;
    Ok(id)
}

/// The compute instance of a MIG device.
pub(super) fn compute_instance(device: &Device<'_>) -> Result<u32, NvmlError> {
    let ask = nvml_sym(device.nvml().lib().nvmlDeviceGetComputeInstanceId.as_ref())?;
    let mut id = 0;
    // SAFETY: the device is of an initialised NVML, and the pointer is ours to write.
    nvml_try(unsafe { ask(device.handle(), &raw mut id) })?;
    Ok(id)
}

/// Whether it is a virtual GPU in a virtual machine.
pub(super) fn is_virtual(device: &Device<'_>) -> bool {
    let Ok(ask) = nvml_sym(device.nvml().lib().nvmlDeviceGetVirtualizationMode.as_ref()) else {
        return false;
    };
    let mut mode = 0;
    // SAFETY: the device is of an initialised NVML, and the pointer is ours to write.
    nvml_try(unsafe { ask(device.handle(), &raw mut mode) }).is_ok() && mode == VGPU
}

/// The NVLink domain of a GPU that has joined one, as `cluster.clique`.
pub(super) fn clique(device: &Device<'_>) -> Option<String> {
    let ask = nvml_sym(device.nvml().lib().nvmlDeviceGetGpuFabricInfoV.as_ref()).ok()?;
    // SAFETY: a record of numbers, for which zero is a value.
    let mut info: nvmlGpuFabricInfoV_t = unsafe { std::mem::zeroed() };
    info.version = u32::try_from(size_of::<nvmlGpuFabricInfoV_t>()).ok()? | (2 << 24);
    // SAFETY: the device is of an initialised NVML, the record is ours to write and says its size.
    nvml_try(unsafe { ask(device.handle(), &raw mut info) }).ok()?;
    let joined = u32::from(info.state) == COMPLETED && info.status == 0;
    let hex = |from: usize, to: usize| {
        info.clusterUuid[from..to].iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let groups: [String; 5] = [hex(0, 4), hex(4, 6), hex(6, 8), hex(8, 10), hex(10, 16)];
    let somewhere = info.clusterUuid != [0; 16];
    (joined && somewhere).then(|| format!("{}.{}", groups.join("-"), info.cliqueId))
}
