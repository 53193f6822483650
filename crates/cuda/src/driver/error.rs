//! What can go wrong with a GPU, in three classes: it cannot be opened, a call failed, or it is lost.

#![expect(unsafe_code, reason = "the driver's names of errors are pointers")]

use std::ffi::{CStr, c_char};
use std::fmt;

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{self, CUresult};

/// A version of CUDA as drivers and toolkits have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion {
    /// 12 of 12.4.
    pub major: u32,
    /// 4 of 12.4.
    pub minor: u32,
}

impl CudaVersion {
    /// As `cuDriverGetVersion` says it: 12040 is 12.4.
    pub(super) fn of(number: i32) -> CudaVersion {
        let number = number.unsigned_abs();
        CudaVersion { major: number / 1000, minor: number % 1000 / 10 }
    }
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What the driver answered, other than success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the driver answered {name} ({number}): {description}")]
pub struct DriverFault {
    /// `CUresult`.
    pub number: u32,
    /// `CUDA_ERROR_…`.
    pub name: String,
    /// The driver's own sentence.
    pub description: String,
}

/// Why a GPU cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No `libcuda.so.1` where the loader looks.
    #[error(
        "there is no CUDA driver: libcuda.so.1 was not found; install NVIDIA's driver for CUDA {} or later, or let this container see it \
         (`--gpus all`, `nvidia.com/gpu` in Kubernetes)",
        crate::objects::OLDEST_DRIVER
    )]
    NoDriver,
    /// A `libcuda` that is not whole.
    #[error(
        "the libcuda that was found has no {symbol}, which every driver since CUDA 12.0 has; install NVIDIA's driver again"
    )]
    Incomplete {
        /// What it lacks.
        symbol: &'static str,
    },
    /// What is there to link against was found in place of the driver.
    #[error(
        "the libcuda.so that was found is the stub of CUDA's toolkit, not the driver: take its folder `stubs` out of LD_LIBRARY_PATH"
    )]
    Stub,
    /// The driver is older than the kernels.
    #[error(
        "the NVIDIA driver is too old: it knows CUDA {found}, and {needed} or later is needed; update the driver"
    )]
    DriverTooOld {
        /// What the driver knows.
        found: CudaVersion,
        /// What it has to know.
        needed: CudaVersion,
    },
    /// A driver without GPUs.
    #[error("the NVIDIA driver sees no GPU: see what `nvidia-smi` lists, and CUDA_VISIBLE_DEVICES")]
    NoDevice,
    /// Fewer GPUs than that.
    #[error("there is no GPU {index}: the NVIDIA driver sees {count}, counted from 0")]
    NoSuchDevice {
        /// Which was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The GPU is older than the kernels.
    #[error("GPU {index} ({name}) is too old: it has compute capability {}.{}, and {}.{} or later is needed", .capability.0, .capability.1,
        crate::objects::OLDEST_CAPABILITY.0, crate::objects::OLDEST_CAPABILITY.1)]
    DeviceTooOld {
        /// Which was asked for.
        index: usize,
        /// What it is.
        name: String,
        /// Major and minor.
        capability: (u32, u32),
    },
    /// The driver refused.
    #[error("failed to {doing}")]
    Driver {
        /// What, and of what.
        doing: String,
        /// Why.
        source: DriverFault,
    },
}

/// Why a call to an opened GPU failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The GPU has no room.
    #[error("the GPU has no room for {asked} bytes: {free} are free")]
    OutOfMemory {
        /// Bytes of the allocation.
        asked: u64,
        /// Bytes that are free, not necessarily in one piece.
        free: u64,
    },
    /// No later call to this GPU from this process can succeed: a kernel touched memory that is not its own, memory failed, the GPU fell off
    /// the bus. What `doing` names is what noticed, which may be later than what broke it.
    #[error("the GPU is lost, noticed on trying to {doing}")]
    Lost {
        /// What, and of what.
        doing: String,
        /// Why.
        source: DriverFault,
    },
    /// This call failed, others may not.
    #[error("failed to {doing}")]
    Call {
        /// What, and of what.
        doing: String,
        /// Why.
        source: DriverFault,
    },
}

impl DeviceError {
    pub(super) fn of(doing: String, error: DriverError) -> DeviceError {
        let source = DriverFault::of(error);
        match lost(error) {
            true => DeviceError::Lost { doing, source },
            false => DeviceError::Call { doing, source },
        }
    }
}

impl DriverFault {
    pub(super) fn of(DriverError(code): DriverError) -> DriverFault {
        DriverFault {
            number: code as u32,
            name: text(code, sys::cuGetErrorName),
            description: text(code, sys::cuGetErrorString),
        }
    }
}

fn text(code: CUresult, ask: unsafe fn(CUresult, *mut *const c_char) -> CUresult) -> String {
    let mut text = std::ptr::null();
    // SAFETY: both functions write a pointer to a text that the driver keeps, or none.
    let answer = unsafe { ask(code, &raw mut text) };
    if answer != CUresult::CUDA_SUCCESS || text.is_null() {
        return "unknown to the driver".to_owned();
    }
    // SAFETY: as above, and it ends with a zero byte.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Whether CUDA says of an error that it leaves the context unusable, or that there is no GPU any more
/// (<https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html>). By number, since names differ between versions of CUDA.
fn lost(DriverError(code): DriverError) -> bool {
    matches!(
        code as u32,
        // Gone or never there again: unavailable, no device.
        46 | 100
        // Memory that failed, links that failed, an error that was contained to this process.
        | 214 | 220 | 226
        // Illegal address, a launch that took too long, a context that was destroyed, an assertion.
        | 700 | 702 | 709 | 710
        // Stack, instruction, alignment, address space, program counter, unspecified failure, tensor memory.
        | 714
            ..=719 | 721
        // The MPS server that shares the GPU is gone, or ended us.
        | 806 | 807 | 810
        // An unknown error: nothing says that it is over.
        | 999
    )
}
