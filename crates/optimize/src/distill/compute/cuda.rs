//! Decides whether this machine can train on an NVIDIA GPU, without touching the framework's own loader, which panics when
//! a library is missing.

use super::{Compute, DistillError};

/// What this machine lacks to train on a GPU, or `None` when it has all of it.
pub(super) fn missing() -> Option<String> {
    #[cfg(not(feature = "cuda"))]
    {
        Some("this binary was built without the feature `cuda`".into())
    }
    #[cfg(feature = "cuda")]
    {
        missing_library()
    }
}

#[cfg(feature = "cuda")]
fn missing_library() -> Option<String> {
    let driver = ["libcuda.so.1", "libcuda.so"];
    if !driver.iter().any(|name| opens(name)) {
        return Some(
            "there is no libcuda.so.1: no NVIDIA driver is installed, or it is not visible in this container"
                .into(),
        );
    }
    // Kernels are compiled for the card when they are first used.
    let compiler = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2"];
    if !compiler.iter().any(|name| opens(name)) {
        return Some(
            "there is no libnvrtc.so: install the CUDA run-time compiler (package cuda-nvrtc)".into(),
        );
    }
    if !std::path::Path::new("/dev/nvidiactl").exists() {
        return Some("there is no /dev/nvidiactl: the driver has found no GPU".into());
    }
    None
}

/// Whether the dynamic loader finds a library. It stays open: what was found shall not go away.
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "the dynamic loader has no safe interface")]
fn opens(name: &str) -> bool {
    let Ok(name) = std::ffi::CString::new(name) else { return false };
    // SAFETY: `name` is a terminated string; the libraries asked for have no initialisers with requirements.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    !handle.is_null()
}

#[cfg(feature = "cuda")]
pub(super) fn open_f32() -> Result<Box<dyn Compute>, DistillError> {
    check()?;
    Ok(Box::new(super::On::<burn_cuda::Cuda<f32, i32>> { device: Default::default() }))
}

#[cfg(feature = "cuda")]
pub(super) fn open_bf16() -> Result<Box<dyn Compute>, DistillError> {
    check()?;
    Ok(Box::new(super::On::<burn_cuda::Cuda<half::bf16, i32>> { device: Default::default() }))
}

#[cfg(not(feature = "cuda"))]
pub(super) fn open_f32() -> Result<Box<dyn Compute>, DistillError> {
    Err(error(missing().unwrap_or_default()))
}

#[cfg(not(feature = "cuda"))]
pub(super) fn open_bf16() -> Result<Box<dyn Compute>, DistillError> {
    Err(error(missing().unwrap_or_default()))
}

#[cfg(feature = "cuda")]
fn check() -> Result<(), DistillError> {
    missing().map_or(Ok(()), |why| Err(error(why)))
}

fn error(why: String) -> DistillError {
    DistillError::Device { device: "cuda", why }
}
