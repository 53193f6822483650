//! NVIDIA GPUs. What runs on them is compiled beforehand and lies in `objects`; all that a machine needs is the driver's `libcuda.so.1`, which
//! is opened when a GPU is asked for. A build needs nothing of NVIDIA's.

mod backend;
pub mod driver;
mod format;
mod forward;
mod layout;
#[doc(hidden)]
pub mod measure;
pub mod memory;
mod objects;
mod pack;
#[cfg(test)]
mod tests;
mod weights;

pub use backend::{CudaBackend, CudaOptions};
pub use weights::LoadError;

/// Sizes of heads that there are kernels of attention for. Others are filled up with zeros to the next.
pub(crate) const HEAD_DIMS: [usize; 6] = [32, 64, 96, 128, 192, 256];
