//! What can be set of a GPU here: persistence mode, power limit, locked clocks. MIG, ECC, compute mode and resets are nobody's business here, so
//! there is no function for them.

use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::enums::device::GpuLockedClocksSetting;
use serde::{Deserialize, Serialize};

use super::{CallError, Library};

/// How a GPU is set, and within which bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Whether the driver stays loaded for it when nobody uses it.
    pub persistence: Option<bool>,
    /// Milliwatts.
    pub power_limit: Option<u32>,
    /// Milliwatts, that it came with.
    pub power_default: Option<u32>,
    /// Milliwatts, lowest and highest.
    pub power_bounds: Option<(u32, u32)>,
    /// MHz, highest.
    pub clock_max: Option<u32>,
}

/// Something that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Write {
    /// Persistence mode.
    Persistence(bool),
    /// Milliwatts.
    PowerLimit(u32),
    /// MHz, lowest and highest.
    LockClocks(u32, u32),
    /// As the driver likes.
    FreeClocks,
}

impl Library {
    /// How a GPU is set.
    ///
    /// # Errors
    /// When the GPU does not answer. What it cannot be set to is left out.
    pub fn settings(&self, uuid: &str) -> Result<Settings, CallError> {
        let device = self.device(uuid)?;
        let bounds = device.power_management_limit_constraints().ok();
        Ok(Settings {
            persistence: device.is_in_persistent_mode().ok(),
            power_limit: device.power_management_limit().ok(),
            power_default: device.power_management_limit_default().ok(),
            power_bounds: bounds.map(|bounds| (bounds.min_limit, bounds.max_limit)),
            clock_max: device.max_clock_info(Clock::SM).ok(),
        })
    }

    /// Sets something of a GPU.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn set(&self, uuid: &str, write: Write) -> Result<(), CallError> {
        let mut device = self.device(uuid)?;
        match write {
            Write::Persistence(on) => device.set_persistent(on),
            Write::PowerLimit(milliwatts) => device.set_power_management_limit(milliwatts),
            Write::LockClocks(min, max) => device.set_gpu_locked_clocks(GpuLockedClocksSetting::Numeric {
                min_clock_mhz: min,
                max_clock_mhz: max,
            }),
            Write::FreeClocks => device.reset_gpu_locked_clocks(),
        }
        .map_err(CallError::new(format!("set {write:?} of GPU {uuid}")))
    }
}
