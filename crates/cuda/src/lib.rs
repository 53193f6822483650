//! NVIDIA GPUs. What runs on them is compiled beforehand and lies in `objects`; all that a machine needs is the driver's `libcuda.so.1`, which
//! is opened when a GPU is asked for. A build needs nothing of NVIDIA's.

pub mod driver;
pub mod memory;
mod objects;
