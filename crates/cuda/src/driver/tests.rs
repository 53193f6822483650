//! The driver layer on GPUs that are emulated below it.

mod failures;
mod graphs;
mod work;

use wharf_fake_cuda::{FakeCuda, FakeGpu};

use super::{Address, Arg, DeviceError, Gpu, Grid};

/// A GPU of its own for one test.
fn gpu_like(gpu: FakeGpu) -> Gpu {
    let index = FakeCuda::of_this_process().add(gpu).unwrap();
    Gpu::open(index).unwrap()
}

fn gpu() -> Gpu {
    gpu_like(FakeGpu::default())
}

/// Fills words with a value.
fn fill(gpu: &Gpu, to: Address, words: i32, value: i32) -> Result<(), DeviceError> {
    let kernel = gpu.kernel("wharf_fill")?;
    let grid = Grid { blocks: [1, 1, 1], threads: 32, shared: 0 };
    gpu.launch(&kernel, grid, &[Arg::Address(to), Arg::I32(words), Arg::I32(value)])
}
