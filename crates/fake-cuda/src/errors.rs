//! The driver's error codes, with their names and sentences.

use std::ffi::{CStr, c_uint};

pub(crate) const SUCCESS: c_uint = 0;
pub(crate) const INVALID_VALUE: c_uint = 1;
pub(crate) const OUT_OF_MEMORY: c_uint = 2;
pub(crate) const NOT_INITIALIZED: c_uint = 3;
pub(crate) const NO_DEVICE: c_uint = 100;
pub(crate) const INVALID_DEVICE: c_uint = 101;
pub(crate) const INVALID_IMAGE: c_uint = 200;
pub(crate) const INVALID_CONTEXT: c_uint = 201;
pub(crate) const NO_BINARY_FOR_GPU: c_uint = 209;
pub(crate) const UNSUPPORTED_PTX_VERSION: c_uint = 222;
pub(crate) const INVALID_HANDLE: c_uint = 400;
pub(crate) const NOT_FOUND: c_uint = 500;
pub(crate) const NOT_READY: c_uint = 600;
pub(crate) const ILLEGAL_ADDRESS: c_uint = 700;
pub(crate) const LAUNCH_OUT_OF_RESOURCES: c_uint = 701;
pub(crate) const LAUNCH_FAILED: c_uint = 719;
pub(crate) const CAPTURE_UNSUPPORTED: c_uint = 900;
pub(crate) const CAPTURE_INVALIDATED: c_uint = 901;
pub(crate) const ILLEGAL_STATE: c_uint = 401;
pub(crate) const UNKNOWN: c_uint = 999;

/// Number, name, sentence.
const ERRORS: [(c_uint, &CStr, &CStr); 32] = [
    (SUCCESS, c"CUDA_SUCCESS", c"no error"),
    (INVALID_VALUE, c"CUDA_ERROR_INVALID_VALUE", c"an argument is not allowed"),
    (OUT_OF_MEMORY, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (NOT_INITIALIZED, c"CUDA_ERROR_NOT_INITIALIZED", c"the driver is not initialised"),
    (34, c"CUDA_ERROR_STUB_LIBRARY", c"this library is only there to be linked against"),
    (46, c"CUDA_ERROR_DEVICE_UNAVAILABLE", c"the device is in use or not available"),
    (NO_DEVICE, c"CUDA_ERROR_NO_DEVICE", c"there is no device"),
    (INVALID_DEVICE, c"CUDA_ERROR_INVALID_DEVICE", c"there is no such device"),
    (INVALID_IMAGE, c"CUDA_ERROR_INVALID_IMAGE", c"this is no module"),
    (INVALID_CONTEXT, c"CUDA_ERROR_INVALID_CONTEXT", c"there is no such context, or none is current"),
    (NO_BINARY_FOR_GPU, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"the module is for other devices"),
    (214, c"CUDA_ERROR_ECC_UNCORRECTABLE", c"memory failed"),
    (220, c"CUDA_ERROR_NVLINK_UNCORRECTABLE", c"an NVLink failed"),
    (UNSUPPORTED_PTX_VERSION, c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", c"the PTX is newer than the driver"),
    (INVALID_HANDLE, c"CUDA_ERROR_INVALID_HANDLE", c"there is nothing with such a handle"),
    (ILLEGAL_STATE, c"CUDA_ERROR_ILLEGAL_STATE", c"this cannot be done now"),
    (NOT_FOUND, c"CUDA_ERROR_NOT_FOUND", c"there is nothing of that name"),
    (NOT_READY, c"CUDA_ERROR_NOT_READY", c"the work is not done yet"),
    (ILLEGAL_ADDRESS, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"memory was used that is nobody's"),
    (LAUNCH_OUT_OF_RESOURCES, c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", c"a block needs more than there is"),
    (702, c"CUDA_ERROR_LAUNCH_TIMEOUT", c"a launch took too long"),
    (710, c"CUDA_ERROR_ASSERT", c"an assertion failed"),
    (714, c"CUDA_ERROR_HARDWARE_STACK_ERROR", c"a stack was corrupted"),
    (715, c"CUDA_ERROR_ILLEGAL_INSTRUCTION", c"there is no such instruction"),
    (716, c"CUDA_ERROR_MISALIGNED_ADDRESS", c"an address is not aligned"),
    (718, c"CUDA_ERROR_INVALID_PC", c"there are no instructions at that place"),
    (LAUNCH_FAILED, c"CUDA_ERROR_LAUNCH_FAILED", c"a launch failed"),
    (802, c"CUDA_ERROR_SYSTEM_NOT_READY", c"the system is not ready, as without its fabric manager"),
    (803, c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", c"library and kernel module are of different versions"),
    (CAPTURE_UNSUPPORTED, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"this cannot be recorded"),
    (CAPTURE_INVALIDATED, c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", c"the recording has failed before"),
    (UNKNOWN, c"CUDA_ERROR_UNKNOWN", c"unknown error"),
];

/// Name and sentence of a code.
pub(crate) fn texts(code: c_uint) -> Option<(&'static CStr, &'static CStr)> {
    ERRORS.iter().find(|(number, _, _)| *number == code).map(|(_, name, sentence)| (*name, *sentence))
}
