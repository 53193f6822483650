//! CUDA's driver as far as it is needed: one GPU, one stream in order, memory, launches and graphs of them. Everything is safe to call. What a
//! kernel does with its arguments nobody can check, which is why only this crate launches.
//!
//! A pass over a model should cost the host three calls: [`Staging::write`], [`Gpu::replay`] of a graph that copies the staging buffer
//! to the GPU, runs the kernels and copies the result back, and [`Staging::read`], which waits for it.
//!
//! Work is done in the order in which it was asked for, and errors of what ran meanwhile come out of whatever is called next.

mod context;
mod error;
mod gpu;
mod graph;
#[cfg_attr(not(test), allow(dead_code, reason = "only tests launch until there is a backend"))]
mod launch;
mod memory;
#[cfg(test)]
mod tests;

pub use error::{CudaVersion, DeviceError, DriverFault, OpenError};
pub use gpu::{Gpu, Memory, Timer};
pub use graph::Graph;
pub use launch::{Arg, Grid, Kernel};
pub use memory::{Address, Buffer, Staging};
