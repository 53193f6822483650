//! Modules and launches.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use super::{cuda, give, on_gpu, submit, unrecorded};
use crate::elf::Elf;
use crate::emulator::{self, Launch};
use crate::errors::{
    INVALID_HANDLE, INVALID_IMAGE, INVALID_VALUE, LAUNCH_OUT_OF_RESOURCES, NOT_FOUND, SUCCESS,
};
use crate::fault;
use crate::image;
use crate::process::{Function, Module};
use crate::stream::Work;

/// Of `CUfunction_attribute`.
const MOST_THREADS: c_uint = 0;
const SHARED: c_uint = 1;
const REGISTERS: c_uint = 4;
const DYNAMIC: c_uint = 8;

/// What every block may have without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;
const MOST_THREADS_OF_ALL: u32 = 1024;
/// Of a multiprocessor, in each GPU since 2014; a warp takes them in pieces of 256.
const REGISTERS_OF_ALL: u32 = 65_536;
const REGISTERS_PIECE: u32 = 256;
const WARP: u32 = 32;

/// An image's bytes: an ELF file as long as it says, or a text with its end.
///
/// # Safety
/// It is one or the other, or at least 64 bytes of something else.
unsafe fn image<'a>(image: *const c_void) -> &'a [u8] {
    // SAFETY: as the caller says.
    unsafe {
        let start = std::slice::from_raw_parts(image.cast::<u8>(), 4);
        if start != b"\x7fELF" {
            return CStr::from_ptr(image.cast()).to_bytes();
        }
        let header = std::slice::from_raw_parts(image.cast::<u8>(), 64);
        std::slice::from_raw_parts(image.cast(), Elf::length(header).unwrap_or(64))
    }
}

/// Whether a launch has what its kernel needs, and no more than there is.
fn check(function: &Function, grid: [u32; 3], block: [u32; 3], shared: u32) -> c_uint {
    let threads =
        block.iter().try_fold(1_u32, |product, side| product.checked_mul(*side)).unwrap_or(u32::MAX);
    let most = function.kernel.most_threads.unwrap_or(MOST_THREADS_OF_ALL).min(MOST_THREADS_OF_ALL);
    let [x, y, z] = grid;
    let sides =
        (1..=i32::MAX.cast_unsigned()).contains(&x) && [y, z].iter().all(|side| (1..=65_535).contains(side));
    if !sides || threads == 0 || threads > most || shared > function.dynamic {
        return INVALID_VALUE;
    }
    let of_a_warp = (function.kernel.registers.unwrap_or(0) * WARP).next_multiple_of(REGISTERS_PIECE);
    if of_a_warp * threads.div_ceil(WARP) > REGISTERS_OF_ALL {
        return LAUNCH_OUT_OF_RESOURCES;
    }
    SUCCESS
}

cuda! {
    cuModuleLoadData(module: *mut usize, data: *const c_void)
        |f| unrecorded(f, |process, gpu| {
            let Some(capability) = process.machine.gpus.get(gpu).map(|gpu| gpu.compute) else { return INVALID_IMAGE };
            // SAFETY: what CUDA's callers pass.
            match image::read(unsafe { image(data) }, capability, process.machine.cuda) {
                Err(code) => code,
                Ok(kernels) => {
                    let handle = process.handle();
                    process.modules.insert(handle, Module { gpu, kernels });
                    give!(module, handle)
                }
            }
        });
    cuModuleUnload(module: usize)
        |f| unrecorded(f, |process, _| match process.modules.remove(&module) {
            None => INVALID_HANDLE,
            Some(_) => {
                process.functions.retain(|_, function| function.module != module);
                SUCCESS
            }
        });
    cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char)
        |f| on_gpu(f, |process, gpu| {
            // SAFETY: CUDA's callers pass a string.
            let name = unsafe { CStr::from_ptr(name) };
            let Some(found) = process.modules.get(&module).filter(|module| module.gpu == gpu) else {
                return INVALID_HANDLE;
            };
            let kernel = found.kernels.iter().find(|kernel| kernel.name.as_bytes() == name.to_bytes());
            let Some(kernel) = kernel.cloned() else { return NOT_FOUND };
            if !emulator::known(name) {
                fault::say(format_args!("the module has the kernel {}, and the emulator has not", kernel.name));
                return NOT_FOUND;
            }
            let dynamic = SHARED_WITHOUT_ASKING.saturating_sub(kernel.shared);
            let handle = process.handle();
            process.functions.insert(handle, Function { gpu, module, name: name.to_owned(), kernel, dynamic });
            give!(function, handle)
        });
    cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: usize)
        |f| on_gpu(f, |process, _| match process.functions.get(&function) {
            None => INVALID_HANDLE,
            Some(Function { kernel, dynamic, .. }) => {
                let known = match attribute {
                    MOST_THREADS => kernel.most_threads.unwrap_or(MOST_THREADS_OF_ALL),
                    SHARED => kernel.shared,
                    REGISTERS => kernel.registers.unwrap_or(0),
                    DYNAMIC => *dynamic,
                    _ => return INVALID_VALUE,
                };
                give!(value, known.cast_signed())
            }
        });
    cuFuncSetAttribute(function: usize, attribute: c_uint, value: c_int)
        |f| on_gpu(f, |process, gpu| {
            let limit = process.machine.gpus.get(gpu).map_or(0, |gpu| gpu.shared_limit);
            match (process.functions.get_mut(&function), u32::try_from(value)) {
                (None, _) => INVALID_HANDLE,
                (Some(function), Ok(bytes)) if attribute == DYNAMIC && bytes + function.kernel.shared <= limit => {
                    function.dynamic = bytes;
                    SUCCESS
                }
                _ => INVALID_VALUE,
            }
        });
    cuLaunchKernel(
        function: usize, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
        block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared: c_uint, stream: usize, arguments: *mut *mut c_void, _extra: *mut *mut c_void,
    )
        |f| on_gpu(f, |process, gpu| {
            let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
            let Some(function) = process.functions.get(&function).filter(|function| function.gpu == gpu) else {
                return INVALID_HANDLE;
            };
            let sizes = &function.kernel.arguments;
            match check(function, grid, block, shared) {
                SUCCESS if sizes.is_empty() || !arguments.is_null() => {}
                SUCCESS => return INVALID_VALUE,
                code => return code,
            }
            let argument = |(index, bytes): (usize, &usize)| {
                let mut value = vec![0_u128; bytes.div_ceil(size_of::<u128>())];
                // SAFETY: CUDA's callers pass a pointer for each argument, to as many bytes as the module says.
                unsafe {
                    let from = (*arguments.add(index)).cast::<u8>();
                    value.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(from, *bytes);
                }
                value
            };
            let arguments = sizes.iter().enumerate().map(argument).collect();
            let launch = Launch { kernel: function.name.clone(), grid, block, shared, arguments };
            submit(process, gpu, stream, Work::Launch(Arc::new(launch)))
        });
}
