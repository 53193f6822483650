//! NVML's functions, under their names. Each does what `nvml.h` says of it, for as much as the file tells.

#![expect(unsafe_code, reason = "a C library takes and gives pointers, and exports names")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlDeviceAttributes_t, nvmlEventData_t, nvmlEventSet_t, nvmlFieldValue_t,
    nvmlGpuFabricInfoV_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlPciInfo_t, nvmlUtilization_t, nvmlValue_t,
};

use crate::events;
use crate::file::{self, Version};
use crate::machine::{FakeGpu, Instance, Machine};

const SUCCESS: c_uint = 0;
const INVALID_ARGUMENT: c_uint = 2;
const NOT_SUPPORTED: c_uint = 3;
const NOT_FOUND: c_uint = 6;
const INSUFFICIENT_SIZE: c_uint = 7;
const TIMEOUT: c_uint = 10;
const GPU_IS_LOST: c_uint = 15;
const UNKNOWN: c_uint = 999;

/// `NVML_TOPOLOGY_SYSTEM`.
const ACROSS_CPUS: c_uint = 50;
/// `NVML_FI_DEV_MEMORY_TEMP`.
const MEMORY_TEMPERATURE: c_uint = 82;
/// `NVML_VALUE_TYPE_UNSIGNED_INT`.
const UNSIGNED_INT: c_uint = 1;
/// How often the file is looked at while a program waits for events.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Handles are numbers: of the GPU from one, and of its part from one in the upper half.
const PART: usize = 1 << 16;

static READ: Mutex<Option<(Version, Machine)>> = Mutex::new(None);

/// The file beside this library.
fn path() -> Option<&'static Path> {
    static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    PATH.get_or_init(find).as_deref()
}

fn find() -> Option<PathBuf> {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: the address is one of this library's functions, and the record is ours.
    let found = unsafe { libc::dladdr((nvmlInit_v2 as *const ()).cast(), &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader keeps the name for as long as the library is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(file::beside(Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))))
}

/// Answers from the machine as it is now. A file that cannot be read is an unknown error.
fn with(function: &str, answer: impl FnOnce(&Machine) -> c_uint) -> c_uint {
    let Ok(slow) = read(|machine| machine.slow.get(function).copied()) else { return UNKNOWN };
    if let Some(milliseconds) = slow {
        // Others are answered meanwhile.
        std::thread::sleep(Duration::from_millis(milliseconds));
    }
    let answer = |machine: &Machine| match machine.errors.get(function) {
        Some(code) => *code,
        None => answer(machine),
    };
    read(answer).unwrap_or(UNKNOWN)
}

/// Reads the machine, and its file before that if it has changed.
fn read<T>(of: impl FnOnce(&Machine) -> T) -> io::Result<T> {
    let path = path().ok_or(io::ErrorKind::NotFound)?;
    let mut known = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let version = file::version(path)?;
    let machine = match known.take() {
        Some((of, machine)) if of == version => machine,
        _ => file::read(path)?,
    };
    let (_, machine) = known.insert((version, machine));
    Ok(of(machine))
}

fn on_gpu(device: nvmlDevice_t, function: &str, answer: impl FnOnce(&FakeGpu, &Machine) -> c_uint) -> c_uint {
    let (gpu, _) = places(device);
    with(function, |machine| match gpu.and_then(|gpu| machine.gpus.get(gpu)) {
        None => INVALID_ARGUMENT,
        Some(gpu) if gpu.lost => GPU_IS_LOST,
        Some(gpu) => gpu.errors.get(function).copied().unwrap_or_else(|| answer(gpu, machine)),
    })
}

fn places(device: nvmlDevice_t) -> (Option<usize>, Option<usize>) {
    let handle = device.addr();
    ((handle % PART).checked_sub(1), (handle / PART).checked_sub(1))
}

/// The part that a handle stands for, if it stands for one.
fn part(device: nvmlDevice_t, gpu: &FakeGpu) -> Option<&Instance> {
    gpu.mig.as_ref()?.instances.get(places(device).1?)
}

/// Changes a GPU, and notes that it was.
fn set(device: nvmlDevice_t, function: &str, values: &str, change: impl FnOnce(&mut FakeGpu)) -> c_uint {
    let refused = on_gpu(device, function, |_, _| SUCCESS);
    let (Some(index), Some(path), SUCCESS) = (places(device).0, path(), refused) else { return refused };
    let changed = file::change(path, |machine| {
        let Some(gpu) = machine.gpus.get_mut(index) else { return INVALID_ARGUMENT };
        change(gpu);
        let call = format!("{function} {} {values}", gpu.uuid);
        machine.calls.push(call.trim_end().to_owned());
        SUCCESS
    });
    changed.unwrap_or(UNKNOWN)
}

/// # Safety
/// The pointer is null or may be written.
unsafe fn put<T>(place: *mut T, value: T) -> c_uint {
    if place.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: as the caller says.
    unsafe { place.write(value) };
    SUCCESS
}

/// # Safety
/// The pointer may be written for so many bytes.
unsafe fn put_text(place: *mut c_char, length: usize, text: &str) -> c_uint {
    if text.len() >= length {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: as the caller says, and the text and its end fit.
    unsafe {
        place.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        place.add(text.len()).write(0);
    }
    SUCCESS
}

fn handle(number: usize) -> nvmlDevice_t {
    std::ptr::without_provenance_mut(number)
}

fn pci(bus_id: &str) -> nvmlPciInfo_t {
    // SAFETY: numbers and arrays of numbers, for which zero is a value.
    let mut info: nvmlPciInfo_t = unsafe { std::mem::zeroed() };
    let number = |text: Option<&str>| text.and_then(|text| u32::from_str_radix(text, 16).ok()).unwrap_or(0);
    let mut parts = bus_id.split([':', '.']);
    (info.domain, info.bus, info.device) = (number(parts.next()), number(parts.next()), number(parts.next()));
    for (place, byte) in info.busId.iter_mut().take(31).zip(bus_id.bytes()) {
        *place = byte.cast_signed();
    }
    info
}

/// The functions: their arguments, and what is done with them. Every pointer is one that NVML's callers pass.
macro_rules! nvml {
    ($($name:ident($($argument:ident: $type:ty),*) $body:expr;)+) => {$(
        #[doc = concat!("`", stringify!($name), "`.")]
        ///
        /// # Safety
        /// Pointers are null or may be used as `nvml.h` says.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) -> c_uint {
            let answer = |function: &'static str| $body(function);
            answer(stringify!($name))
        }
    )+};
}

/// `put` where a caller of NVML said so.
macro_rules! give {
    ($place:expr, $value:expr) => {
        // SAFETY: NVML's callers pass a pointer that may be written, or none.
        unsafe { put($place, $value) }
    };
}

macro_rules! give_text {
    ($place:expr, $length:expr, $text:expr) => {
        // SAFETY: NVML's callers say how much may be written.
        unsafe { put_text($place, $length as usize, $text) }
    };
}

nvml! {
    nvmlInit_v2() |f| with(f, |_| SUCCESS);
    nvmlInitWithFlags(_flags: c_uint) |f| with(f, |_| SUCCESS);
    nvmlShutdown() |f| with(f, |_| SUCCESS);
    nvmlSystemGetDriverVersion(text: *mut c_char, length: c_uint)
        |f| with(f, |machine| give_text!(text, length, &machine.driver));
    nvmlSystemGetNVMLVersion(text: *mut c_char, length: c_uint)
        |f| with(f, |machine| give_text!(text, length, &format!("13.{}", machine.driver)));
    nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) |f| with(f, |machine| give!(version, machine.cuda));
    nvmlDeviceGetCount_v2(count: *mut c_uint) |f| with(f, |machine| give!(count, machine.gpus.len() as c_uint));
    nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t)
        |f| {
            let found = handle(index as usize + 1);
            match on_gpu(found, f, |_, _| SUCCESS) {
                SUCCESS => give!(device, found),
                code => code,
            }
        };
    nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t)
        |f| with(f, |machine| {
            // SAFETY: NVML's callers pass a string.
            let wanted = unsafe { CStr::from_ptr(uuid) }.to_string_lossy();
            match machine.gpus.iter().position(|gpu| gpu.uuid == wanted) {
                Some(index) if machine.gpus[index].lost => GPU_IS_LOST,
                Some(index) => give!(device, handle(index + 1)),
                None => NOT_FOUND,
            }
        });
    nvmlDeviceGetUUID(device: nvmlDevice_t, text: *mut c_char, length: c_uint)
        |f| on_gpu(device, f, |gpu, _| {
            let uuid = part(device, gpu).map_or(&gpu.uuid, |part| &part.uuid);
            give_text!(text, length, uuid)
        });
    nvmlDeviceGetName(device: nvmlDevice_t, text: *mut c_char, length: c_uint)
        |f| on_gpu(device, f, |gpu, _| give_text!(text, length, &gpu.name));
    nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minor: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(minor, gpu.minor));
    nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, info: *mut nvmlPciInfo_t)
        |f| on_gpu(device, f, |gpu, _| give!(info, pci(&gpu.bus_id)));
    nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, info: *mut nvmlMemory_t)
        |f| on_gpu(device, f, |gpu, _| {
            let (total, used) = (gpu.memory_total, gpu.memory_used + gpu.memory_reserved);
            give!(info, nvmlMemory_t { total, free: total - used, used })
        });
    nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, info: *mut nvmlMemory_v2_t)
        |f| on_gpu(device, f, |gpu, _| {
            let (total, reserved, used) = part(device, gpu).map_or(
                (gpu.memory_total, gpu.memory_reserved, gpu.memory_used),
                |part| (part.memory_mib << 20, 0, part.memory_used),
            );
            let free = total - reserved - used;
            // SAFETY: NVML's callers say in the record which version it is.
            let version = unsafe { (*info).version };
            give!(info, nvmlMemory_v2_t { version, total, reserved, free, used })
        });
    nvmlDeviceGetCudaComputeCapability(device: nvmlDevice_t, major: *mut c_int, minor: *mut c_int)
        |f| on_gpu(device, f, |gpu, _| give!(major, gpu.compute.0).max(give!(minor, gpu.compute.1)));
    nvmlDeviceGetMigMode(device: nvmlDevice_t, current: *mut c_uint, pending: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| match &gpu.mig {
            None => NOT_SUPPORTED,
            Some(mig) => give!(current, c_uint::from(mig.enabled)).max(give!(pending, c_uint::from(mig.enabled))),
        });
    nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(count, if gpu.mig.is_some() { 7 } else { 0 }));
    nvmlDeviceGetMigDeviceHandleByIndex(device: nvmlDevice_t, index: c_uint, part: *mut nvmlDevice_t)
        |f| on_gpu(device, f, |gpu, _| match &gpu.mig {
            None => NOT_SUPPORTED,
            Some(mig) if !mig.enabled || index as usize >= mig.instances.len() => NOT_FOUND,
            Some(_) => give!(part, handle(device.addr() % PART + (index as usize + 1) * PART)),
        });
    nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part: nvmlDevice_t, device: *mut nvmlDevice_t)
        |f| on_gpu(part, f, |_, _| give!(device, handle(part.addr() % PART)));
    nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, is: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(is, c_uint::from(part(device, gpu).is_some())));
    nvmlDeviceGetGpuInstanceId(device: nvmlDevice_t, id: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| part(device, gpu).map_or(NOT_FOUND, |part| give!(id, part.gpu_instance)));
    nvmlDeviceGetComputeInstanceId(device: nvmlDevice_t, id: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| part(device, gpu).map_or(NOT_FOUND, |part| give!(id, part.compute_instance)));
    nvmlDeviceGetAttributes_v2(device: nvmlDevice_t, attributes: *mut nvmlDeviceAttributes_t)
        |f| on_gpu(device, f, |gpu, _| part(device, gpu).map_or(NOT_SUPPORTED, |part| {
            let [copy, decoder, encoder, jpeg, ofa] = part.engines;
            give!(attributes, nvmlDeviceAttributes_t {
                multiprocessorCount: part.multiprocessors,
                sharedCopyEngineCount: copy,
                sharedDecoderCount: decoder,
                sharedEncoderCount: encoder,
                sharedJpegCount: jpeg,
                sharedOfaCount: ofa,
                gpuInstanceSliceCount: part.gpu_slices,
                computeInstanceSliceCount: part.compute_slices,
                memorySizeMB: part.memory_mib,
            })
        }));
    nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, types: *mut c_ulonglong)
        |f| on_gpu(device, f, |gpu, _| give!(types, gpu.supported_events));
    nvmlDeviceGetTopologyCommonAncestor(one: nvmlDevice_t, other: nvmlDevice_t, level: *mut c_uint)
        |f| on_gpu(one, f, |gpu, machine| match places(other).0.and_then(|index| machine.gpus.get(index)) {
            Some(other) => give!(level, gpu.topology.get(&other.uuid).copied().unwrap_or(ACROSS_CPUS)),
            None => INVALID_ARGUMENT,
        });
    nvmlDeviceGetNvLinkState(device: nvmlDevice_t, link: c_uint, active: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| match gpu.links.get(link as usize) {
            Some(link) => give!(active, c_uint::from(link.active)),
            None if gpu.links.is_empty() => NOT_SUPPORTED,
            None => INVALID_ARGUMENT,
        });
    nvmlDeviceGetNvLinkRemotePciInfo_v2(device: nvmlDevice_t, link: c_uint, info: *mut nvmlPciInfo_t)
        |f| on_gpu(device, f, |gpu, _| match gpu.links.get(link as usize) {
            Some(link) => give!(info, pci(&link.remote)),
            None => INVALID_ARGUMENT,
        });
    nvmlDeviceGetGpuFabricInfoV(device: nvmlDevice_t, info: *mut nvmlGpuFabricInfoV_t)
        |f| on_gpu(device, f, |gpu, _| match &gpu.fabric {
            None => NOT_SUPPORTED,
            Some(fabric) => {
                // SAFETY: NVML's callers pass a record of their own.
                unsafe {
                    (*info).clusterUuid = fabric.cluster;
                    (*info).cliqueId = fabric.clique;
                    (*info).status = SUCCESS;
                    (*info).state = 3;
                }
                SUCCESS
            }
        });
    nvmlDeviceGetVirtualizationMode(device: nvmlDevice_t, mode: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(mode, gpu.virtualization));
    nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, rates: *mut nvmlUtilization_t)
        |f| on_gpu(device, f, |gpu, _| match &gpu.mig {
            // A GPU that is split tells none, nor do its parts.
            Some(mig) if mig.enabled => NOT_SUPPORTED,
            _ => give!(rates, nvmlUtilization_t { gpu: gpu.utilization_gpu, memory: gpu.utilization_memory }),
        });
    nvmlDeviceGetTemperature(device: nvmlDevice_t, _sensor: c_uint, degrees: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(degrees, gpu.temperature));
    nvmlDeviceGetPowerUsage(device: nvmlDevice_t, power: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(power, gpu.power));
    nvmlDeviceGetTotalEnergyConsumption(device: nvmlDevice_t, energy: *mut c_ulonglong)
        |f| on_gpu(device, f, |gpu, _| give!(energy, gpu.energy));
    nvmlDeviceGetClockInfo(device: nvmlDevice_t, kind: c_uint, clock: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(clock, if kind == 2 { gpu.memory_clock } else { gpu.sm_clock }));
    nvmlDeviceGetMaxClockInfo(device: nvmlDevice_t, kind: c_uint, clock: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(clock, if kind == 2 { gpu.memory_clock } else { gpu.sm_clock_max }));
    nvmlDeviceGetFieldValues(device: nvmlDevice_t, count: c_int, values: *mut nvmlFieldValue_t)
        |f| on_gpu(device, f, |gpu, _| {
            for index in 0..usize::try_from(count).unwrap_or(0) {
                // SAFETY: NVML's callers pass so many records of their own.
                let value = unsafe { &mut *values.add(index) };
                value.nvmlReturn = if value.fieldId == MEMORY_TEMPERATURE { SUCCESS } else { NOT_SUPPORTED };
                value.valueType = UNSIGNED_INT;
                value.value = nvmlValue_t { uiVal: gpu.memory_temperature };
            }
            SUCCESS
        });
    nvmlDeviceGetEncoderUtilization(device: nvmlDevice_t, percent: *mut c_uint, period: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(percent, gpu.encoder).max(give!(period, 167_000)));
    nvmlDeviceGetDecoderUtilization(device: nvmlDevice_t, percent: *mut c_uint, period: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(percent, gpu.decoder).max(give!(period, 167_000)));
    nvmlDeviceGetPcieReplayCounter(device: nvmlDevice_t, count: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(count, gpu.pcie_replays));
    nvmlDeviceGetPcieThroughput(device: nvmlDevice_t, way: c_uint, rate: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| {
            give!(rate, if way == 0 { gpu.pcie_throughput.0 } else { gpu.pcie_throughput.1 })
        });
    nvmlDeviceGetRemappedRows(
        device: nvmlDevice_t, correctable: *mut c_uint, uncorrectable: *mut c_uint, pending: *mut c_uint,
        failed: *mut c_uint
    )
        |f| on_gpu(device, f, |gpu, _| match gpu.rows {
            None => NOT_SUPPORTED,
            Some(rows) => give!(correctable, rows.correctable)
                .max(give!(uncorrectable, rows.uncorrectable))
                .max(give!(pending, c_uint::from(rows.pending)))
                .max(give!(failed, c_uint::from(rows.failed))),
        });
    nvmlDeviceGetPersistenceMode(device: nvmlDevice_t, mode: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(mode, c_uint::from(gpu.persistence)));
    nvmlDeviceGetPowerManagementLimit(device: nvmlDevice_t, limit: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(limit, gpu.power_limit));
    nvmlDeviceGetEnforcedPowerLimit(device: nvmlDevice_t, limit: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(limit, gpu.power_limit));
    nvmlDeviceGetPowerManagementDefaultLimit(device: nvmlDevice_t, limit: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(limit, gpu.power_default));
    nvmlDeviceGetPowerManagementLimitConstraints(device: nvmlDevice_t, least: *mut c_uint, most: *mut c_uint)
        |f| on_gpu(device, f, |gpu, _| give!(least, gpu.power_min).max(give!(most, gpu.power_max)));
    nvmlDeviceSetPersistenceMode(device: nvmlDevice_t, mode: c_uint)
        |f| set(device, f, &mode.to_string(), |gpu| gpu.persistence = mode != 0);
    nvmlDeviceSetPowerManagementLimit(device: nvmlDevice_t, limit: c_uint)
        |f| match on_gpu(device, f, |gpu, _| {
            if (gpu.power_min..=gpu.power_max).contains(&limit) { SUCCESS } else { INVALID_ARGUMENT }
        }) {
            SUCCESS => set(device, f, &limit.to_string(), |gpu| gpu.power_limit = limit),
            refused => refused,
        };
    nvmlDeviceSetGpuLockedClocks(device: nvmlDevice_t, least: c_uint, most: c_uint)
        |f| set(device, f, &format!("{least} {most}"), |gpu| gpu.locked_clocks = Some((least, most)));
    nvmlDeviceResetGpuLockedClocks(device: nvmlDevice_t) |f| set(device, f, "", |gpu| gpu.locked_clocks = None);
    nvmlEventSetCreate(events: *mut nvmlEventSet_t)
        |f| with(f, |machine| give!(events, std::ptr::without_provenance_mut(events::create(machine))));
    nvmlEventSetFree(events: nvmlEventSet_t)
        |_| if events::free(events.addr()) { SUCCESS } else { INVALID_ARGUMENT };
    nvmlDeviceRegisterEvents(device: nvmlDevice_t, types: c_ulonglong, events: nvmlEventSet_t)
        |f| on_gpu(device, f, |gpu, _| match () {
            () if types & !gpu.supported_events != 0 => NOT_SUPPORTED,
            () if events::register(events.addr(), &gpu.uuid) => SUCCESS,
            () => INVALID_ARGUMENT,
        });
    nvmlEventSetWait_v2(events: nvmlEventSet_t, data: *mut nvmlEventData_t, timeout: c_uint)
        |f| {
            let until = Instant::now() + Duration::from_millis(timeout.into());
            loop {
                let code = with(f, |machine| match events::next(events.addr(), machine) {
                    None => INVALID_ARGUMENT,
                    Some(None) => TIMEOUT,
                    Some(Some(event)) => {
                        let index = machine.gpus.iter().position(|gpu| gpu.uuid == event.gpu);
                        give!(data, nvmlEventData_t {
                            device: handle(index.map_or(0, |index| index + 1)),
                            eventType: event.kind,
                            eventData: event.data,
                            gpuInstanceId: event.gpu_instance,
                            computeInstanceId: event.compute_instance,
                        })
                    }
                });
                if code != TIMEOUT || Instant::now() >= until {
                    return code;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        };
}
