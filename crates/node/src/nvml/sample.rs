//! What a GPU measures of itself at a moment.

use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::structs::device::FieldId;

use super::{Library, raw};
use crate::gpu::Gpu;

/// `NVML_FI_DEV_MEMORY_TEMP`.
const MEMORY_TEMPERATURE: FieldId = FieldId(82);

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// By nobody.
    pub free: u64,
    /// By programs.
    pub used: u64,
    /// By driver and firmware.
    pub reserved: u64,
}

/// Rows of memory that were replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// What a GPU measures; nothing where it has no sensor for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// MHz.
    pub sm_clock: Option<u32>,
    /// MHz.
    pub memory_clock: Option<u32>,
    /// Degrees Celsius.
    pub temperature: Option<u32>,
    /// Degrees Celsius.
    pub memory_temperature: Option<u32>,
    /// Milliwatts.
    pub power: Option<u32>,
    /// Milliwatts.
    pub power_limit: Option<u32>,
    /// Millijoules since the driver was loaded.
    pub energy: Option<u64>,
    /// Since the driver was loaded.
    pub pcie_replays: Option<u32>,
    /// Percent of time that something was computed.
    pub gpu_utilization: Option<u32>,
    /// Percent of time that memory was read or written.
    pub memory_utilization: Option<u32>,
    /// Percent.
    pub encoder: Option<u32>,
    /// Percent.
    pub decoder: Option<u32>,
    /// Memory of the whole GPU.
    pub memory: Option<Memory>,
    /// Rows that were replaced.
    pub rows: Option<Rows>,
    /// Its parts, in the order of [`Gpu::parts`].
    pub parts: Vec<PartSample>,
}

/// What a part of a GPU measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartSample {
    /// Its memory.
    pub memory: Option<Memory>,
}

impl Library {
    /// What a GPU measures now; nothing of one that does not answer.
    pub fn sample(&self, gpu: &Gpu) -> Option<Sample> {
        let device = self.nvml.device_by_uuid(gpu.uuid.as_str()).ok()?;
        let utilization = device.utilization_rates().ok();
        Some(Sample {
            sm_clock: device.clock_info(Clock::SM).ok(),
            memory_clock: device.clock_info(Clock::Memory).ok(),
            temperature: device.temperature(TemperatureSensor::Gpu).ok(),
            memory_temperature: memory_temperature(&device),
            power: device.power_usage().ok(),
            power_limit: device.enforced_power_limit().ok(),
            energy: device.total_energy_consumption().ok(),
            pcie_replays: device.pcie_replay_counter().ok(),
            gpu_utilization: utilization.as_ref().map(|rates| rates.gpu),
            memory_utilization: utilization.as_ref().map(|rates| rates.memory),
            encoder: device.encoder_utilization().ok().map(|info| info.utilization),
            decoder: device.decoder_utilization().ok().map(|info| info.utilization),
            memory: memory(&device),
            rows: raw::rows(&device).ok(),
            parts: self.parts(&device, gpu),
        })
    }

    fn parts(&self, device: &Device<'_>, gpu: &Gpu) -> Vec<PartSample> {
        let count = u32::try_from(gpu.parts().len()).unwrap_or(0);
        let part = |index| device.mig_device_by_index(index).ok().and_then(|part| memory(&part));
        (0..count).map(|index| PartSample { memory: part(index) }).collect()
    }

    /// Rows that were replaced, of a GPU that can.
    pub(crate) fn rows(&self, uuid: &str) -> Option<Rows> {
        raw::rows(&self.nvml.device_by_uuid(uuid).ok()?).ok()
    }
}

fn memory(device: &Device<'_>) -> Option<Memory> {
    let info = device.memory_info().ok()?;
    Some(Memory { free: info.free, used: info.used, reserved: info.reserved })
}

fn memory_temperature(device: &Device<'_>) -> Option<u32> {
    let values = device.field_values_for(&[MEMORY_TEMPERATURE]).ok()?;
    match values.into_iter().next()?.ok()?.value.ok()? {
        SampleValue::U32(degrees) if degrees > 0 => Some(degrees),
        _ => None,
    }
}
