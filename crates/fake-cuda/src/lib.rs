//! Development only: a `libcuda.so` whose GPUs are a JSON file beside it, and whose kernels run on the CPU.
//!
//! Built as a shared library it answers the functions of CUDA's driver for a [`Machine`]. What Wharf does with a driver and a GPU is thereby run as it is, down to
//! the calls of C; kernels are the same sources, compiled for the CPU by `build.rs`. It is stricter than a GPU, so that mistakes show:
//!
//! - Work waits until somebody waits for it. A copy that nobody waited for has not happened.
//! - Memory is full of what is no number, ends at a page that cannot be touched, and is checked in front.
//! - A module is one of our objects: what it says of its kernels' arguments, registers and threads holds for launches.
//!
//! Linked as a Rust library it is how a test gets hold of a machine ([`FakeCuda`]). It decides nothing of what Wharf does.

mod control;
mod elf;
mod emulator;
mod errors;
mod exports;
mod fault;
mod file;
mod guarded;
mod image;
mod machine;
mod process;
mod stream;

pub use control::FakeCuda;
pub use machine::{FakeGpu, Machine};
