//! What everything of one GPU shares: its context, stream and module, and the one way to call the driver.

#![expect(unsafe_code, reason = "CUDA's driver is a C library")]

use std::ffi::{CString, c_int};
use std::ptr;
use std::sync::OnceLock;

use cudarc::driver::result::{self, DriverError, ctx, device, module, primary_ctx, stream};
use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute, CUfunction, CUmodule, CUstream};

use super::error::{CudaVersion, DeviceError, DriverFault, OpenError};
use crate::objects::{OLDEST_DRIVER, object_for};

/// What is called of the driver. Whoever calls a function that a library lacks would panic, so all are looked up before any is called.
const SYMBOLS: [&str; 40] = [
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
];

/// A GPU's primary context, with one stream and the module of all kernels.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) name: String,
    pub(super) capability: (u32, u32),
    pub(super) version: CudaVersion,
    pub(super) multiprocessors: usize,
    /// Bytes that one block may use if its kernel asks for it.
    pub(super) shared_limit: u32,
    pub(super) stream: CUstream,
    device: CUdevice,
    context: CUcontext,
    module: CUmodule,
    /// The first error after which nothing can succeed.
    lost: OnceLock<DeviceError>,
}

// SAFETY: the handles are not tied to a thread: the driver may be called from every thread, at the same time, as long as the context is current,
// which `call` sees to. <https://docs.nvidia.com/cuda/cuda-driver-api/driver-vs-runtime-api.html>
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn open(index: usize) -> Result<Context, OpenError> {
        let version = load()?;
        let failed = |doing: &str| {
            let doing = doing.to_owned();
            move |error| OpenError::Driver { doing, source: DriverFault::of(error) }
        };
        match result::init() {
            Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Err(OpenError::NoDevice),
            answer => answer.map_err(failed("initialise the CUDA driver"))?,
        }
        let count = device::get_count().map_err(failed("count the GPUs"))?;
        let count = usize::try_from(count).unwrap_or(0);
        match (count, c_int::try_from(index)) {
            (0, _) => return Err(OpenError::NoDevice),
            (_, Ok(_)) if index < count => {}
            _ => return Err(OpenError::NoSuchDevice { index, count }),
        }
        let device = device::get(index as c_int).map_err(failed(&format!("find GPU {index}")))?;
        let name = device::get_name(device).map_err(failed(&format!("ask GPU {index} for its name")))?;
        let attribute = |attribute| {
            // SAFETY: the device is one that the driver gave.
            let value = unsafe { device::get_attribute(device, attribute) };
            let value = value.map_err(failed(&format!("ask GPU {index} ({name}) for what it can do")))?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let capability = (
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let Some(object) = object_for(capability) else {
            return Err(OpenError::DeviceTooOld { index, name, capability });
        };
        if version < object.needs {
            return Err(OpenError::DriverTooOld { found: version, needed: object.needs });
        }
        let multiprocessors =
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let shared_limit =
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        // SAFETY: the device is one that the driver gave; `drop` releases its context.
        let context = unsafe { primary_ctx::retain(device) };
        let context = context.map_err(failed(&format!("take GPU {index} ({name})")))?;
        let mut opened = Context {
            name,
            capability,
            version,
            multiprocessors,
            shared_limit,
            stream: ptr::null_mut(),
            device,
            context,
            module: ptr::null_mut(),
            lost: OnceLock::new(),
        };
        let what = format!("GPU {index} ({})", opened.name);
        // SAFETY: the context was just retained.
        unsafe { ctx::set_current(context) }.map_err(failed(&format!("take {what}")))?;
        // Not one that waits for the default stream: what others in this process do on the GPU is no business of ours.
        opened.stream = stream::create(stream::StreamKind::NonBlocking)
            .map_err(failed(&format!("open a stream on {what}")))?;
        let image = object.image();
        // SAFETY: a whole cubin, or PTX that ends with a zero byte. The driver keeps nothing of it.
        let loaded = unsafe { module::load_data(image.as_ptr().cast()) };
        opened.module = loaded.map_err(failed(&format!("load the kernels into {what}")))?;
        Ok(opened)
    }

    /// Calls the driver with this context. `doing` goes on after "failed to".
    pub(super) fn call<T>(
        &self,
        doing: impl FnOnce() -> String,
        call: impl FnOnce() -> Result<T, DriverError>,
    ) -> Result<T, DeviceError> {
        if let Some(lost) = self.lost.get() {
            return Err(lost.clone());
        }
        // Each time: cheaper than asking, and others may have set another one.
        // SAFETY: the context is retained until `drop`.
        let answer = unsafe { ctx::set_current(self.context) }.and_then(|()| call());
        answer.map_err(|error| self.note(DeviceError::of(doing(), error)))
    }

    fn note(&self, error: DeviceError) -> DeviceError {
        if let DeviceError::Lost { .. } = error {
            // A second thread may have been first; then what it has noticed stays.
            let _ = self.lost.set(error.clone());
        }
        error
    }

    /// Waits for the stream.
    pub(super) fn synchronize(&self, doing: impl FnOnce() -> String) -> Result<(), DeviceError> {
        // SAFETY: the stream lives as long as `self`.
        self.call(doing, || unsafe { stream::synchronize(self.stream) })
    }

    pub(super) fn function(&self, name: &str) -> Result<CUfunction, DeviceError> {
        let doing = || format!("find the kernel {name}");
        self.call(doing, || {
            // A name with a zero byte is no kernel's.
            let c_name = CString::new(name).map_err(|_| DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND))?;
            // SAFETY: the module lives as long as `self`.
            unsafe { module::get_function(self.module, c_name) }
        })
    }
}

impl Drop for Context {
    /// Errors are not looked at: either the GPU is lost, or a process that ends takes everything with it.
    fn drop(&mut self) {
        // SAFETY: everything was made by `open` and nobody else has it any more; what was not made is null.
        unsafe {
            let _ = ctx::set_current(self.context);
            if !self.stream.is_null() {
                let _ = stream::synchronize(self.stream);
                let _ = stream::destroy(self.stream);
            }
            if !self.module.is_null() {
                let _ = module::unload(self.module);
            }
            let _ = ctx::set_current(ptr::null_mut());
            let _ = primary_ctx::release(self.device);
        }
    }
}

/// Opens the library and says of what version it is.
fn load() -> Result<CudaVersion, OpenError> {
    // SAFETY: loading NVIDIA's driver runs its initialisers, which is what is wanted.
    if !unsafe { sys::is_culib_present() } {
        return Err(OpenError::NoDriver);
    }
    // SAFETY: it is there, so that this does not panic; the symbols are not called here.
    let library = unsafe { sys::culib() };
    for symbol in SYMBOLS {
        // SAFETY: as above.
        if unsafe { library.get::<unsafe extern "C" fn()>(symbol) }.is_err() {
            return Err(OpenError::Incomplete { symbol });
        }
    }
    let mut version = 0;
    // SAFETY: writes a number.
    match unsafe { sys::cuDriverGetVersion(&raw mut version) }.result() {
        // All that a stub answers.
        Err(DriverError(sys::CUresult::CUDA_ERROR_STUB_LIBRARY)) => return Err(OpenError::Stub),
        answer => answer.map_err(|error| OpenError::Driver {
            doing: "ask the CUDA driver for its version".to_owned(),
            source: DriverFault::of(error),
        })?,
    }
    let found = CudaVersion::of(version);
    match found < OLDEST_DRIVER {
        true => Err(OpenError::DriverTooOld { found, needed: OLDEST_DRIVER }),
        false => Ok(found),
    }
}
