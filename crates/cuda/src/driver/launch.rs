//! Launching kernels. A kernel trusts its arguments: it reads and writes wherever addresses and counts lead it, so nobody outside of this crate launches.

#![expect(unsafe_code, reason = "CUDA's driver is a C library")]

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::result::{self, function};
use cudarc::driver::sys::{CUfunction, CUfunction_attribute};

use super::context::Context;
use super::error::DeviceError;
use super::gpu::Gpu;
use super::memory::Address;

/// More arguments than any kernel has.
const MOST_ARGUMENTS: usize = 48;

/// A kernel of the module.
#[derive(Clone, Debug)]
pub struct Kernel {
    name: Arc<str>,
    function: CUfunction,
    context: Arc<Context>,
}

// SAFETY: functions belong to a module, which the context keeps, and may be used on every thread.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x, y and z.
    pub blocks: [u32; 3],
    /// Threads of each block, in x.
    pub threads: u32,
    /// Bytes of dynamic shared memory of each block, at most [`Gpu::shared_limit`] less what the kernel has itself.
    pub shared: u32,
}

/// One argument of a kernel, of exactly the type that the kernel declares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A pointer.
    Address(Address),
    /// An `int`, or the bits of an `unsigned`.
    I32(i32),
    /// A `float`.
    F32(f32),
}

impl Kernel {
    /// As in the sources.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Gpu {
    /// Finds a kernel by its name in the sources, and allows it all the shared memory that the GPU has.
    pub fn kernel(&self, name: &str) -> Result<Kernel, DeviceError> {
        let context = self.context.clone();
        let function = context.function(name)?;
        let doing = || format!("allow the kernel {name} more shared memory");
        context.call(doing, || {
            // SAFETY: the function was just found.
            unsafe {
                let own = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
                let own = function::get_function_attribute(function, own)?;
                let dynamic = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                // Without it 48 KiB are all there is. That much is allowed takes nothing from kernels that use less.
                let most = context.shared_limit.cast_signed() - own;
                function::set_function_attribute(function, dynamic, most)
            }
        })?;
        Ok(Kernel { name: name.into(), function, context })
    }

    /// Launches a kernel; within [`Gpu::capture`] it becomes part of the graph. Nothing checks that the arguments are those of the kernel,
    /// nor that what they lead to is there.
    pub(crate) fn launch(&self, kernel: &Kernel, grid: Grid, arguments: &[Arg]) -> Result<(), DeviceError> {
        assert!(
            Arc::ptr_eq(&self.context, &kernel.context),
            "a kernel is launched on the GPU that it was found on"
        );
        assert!(arguments.len() <= MOST_ARGUMENTS, "{} has {} arguments", kernel.name, arguments.len());
        let mut values = [0_u64; MOST_ARGUMENTS];
        let mut places = [std::ptr::null_mut::<c_void>(); MOST_ARGUMENTS];
        for ((argument, value), place) in arguments.iter().zip(&mut values).zip(&mut places) {
            // The low half of a number comes first on every machine that has such a GPU.
            *value = match *argument {
                Arg::Address(Address(address)) => address,
                Arg::I32(number) => u64::from(number.cast_unsigned()),
                Arg::F32(number) => u64::from(number.to_bits()),
            };
            *place = std::ptr::from_mut(value).cast();
        }
        let [x, y, z] = grid.blocks;
        let doing = || {
            format!(
                "launch {} in {x}x{y}x{z} blocks of {} threads with {} bytes of shared memory",
                kernel.name, grid.threads, grid.shared
            )
        };
        // SAFETY: the function lives as long as the context. The driver copies the arguments before it returns.
        self.context.call(doing, || unsafe {
            let (blocks, threads) = ((x, y, z), (grid.threads, 1, 1));
            let places = &mut places[..arguments.len()];
            result::launch_kernel(kernel.function, blocks, threads, grid.shared, self.context.stream, places)
        })
    }
}
