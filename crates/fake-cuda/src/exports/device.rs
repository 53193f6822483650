//! GPUs, contexts and errors.

use std::ffi::{c_char, c_int, c_uint};

use super::{CURRENT, cuda, give, initialised, on_gpu, on_machine, state, unrecorded};
use crate::errors::{INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, NO_DEVICE, SUCCESS, texts};
use crate::machine::FakeGpu;
use crate::process::Process;

/// Of `CUdevice_attribute`.
const MOST_THREADS: c_uint = 1;
const SHARED_MEMORY: c_uint = 8;
const WARP_SIZE: c_uint = 10;
const MULTIPROCESSORS: c_uint = 16;
const MAJOR: c_uint = 75;
const MINOR: c_uint = 76;
const SHARED_LIMIT: c_uint = 97;

fn gpu(process: &Process, device: c_int, answer: impl FnOnce(&FakeGpu) -> c_uint) -> c_uint {
    let gpu = usize::try_from(device).ok().and_then(|index| process.machine.gpus.get(index));
    gpu.map_or(INVALID_DEVICE, answer)
}

fn attribute(gpu: &FakeGpu, attribute: c_uint) -> Option<u32> {
    match attribute {
        MOST_THREADS => Some(1024),
        SHARED_MEMORY => Some(48 << 10),
        WARP_SIZE => Some(32),
        MULTIPROCESSORS => Some(gpu.multiprocessors),
        MAJOR => Some(gpu.compute.0),
        MINOR => Some(gpu.compute.1),
        SHARED_LIMIT => Some(gpu.shared_limit),
        _ => None,
    }
}

cuda! {
    cuInit(_flags: c_uint)
        |f| on_machine(f, |process| {
            if process.machine.gpus.is_empty() {
                return NO_DEVICE;
            }
            process.initialised = true;
            SUCCESS
        });
    cuDriverGetVersion(version: *mut c_int) |f| on_machine(f, |process| give!(version, process.machine.cuda));
    cuDeviceGetCount(count: *mut c_int)
        |f| initialised(f, |process| give!(count, process.machine.gpus.len() as c_int));
    cuDeviceGet(device: *mut c_int, ordinal: c_int)
        |f| initialised(f, |process| gpu(process, ordinal, |_| give!(device, ordinal)));
    cuDeviceGetName(text: *mut c_char, length: c_int, device: c_int)
        |f| initialised(f, |process| gpu(process, device, |gpu| {
            let Some(most) = usize::try_from(length).unwrap_or(0).checked_sub(1) else { return INVALID_VALUE };
            let name = &gpu.name.as_bytes()[..gpu.name.len().min(most)];
            // SAFETY: CUDA's callers say how much may be written.
            unsafe {
                text.copy_from_nonoverlapping(name.as_ptr().cast(), name.len());
                text.add(name.len()).write(0);
            }
            SUCCESS
        }));
    cuDeviceGetAttribute(value: *mut c_int, wanted: c_uint, device: c_int)
        |f| initialised(f, |process| gpu(process, device, |gpu| match attribute(gpu, wanted) {
            Some(known) => give!(value, known.cast_signed()),
            None => INVALID_VALUE,
        }));
    cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int)
        |f| initialised(f, |process| gpu(process, device, |gpu| give!(bytes, gpu.memory as usize)));
    cuDevicePrimaryCtxRetain(context: *mut usize, device: c_int)
        |f| initialised(f, |process| {
            let code = gpu(process, device, |gpu| gpu.errors.get(f).copied().unwrap_or(SUCCESS));
            if code != SUCCESS {
                return code;
            }
            let index = device as usize;
            process.gpus.entry(index).or_default().retained += 1;
            give!(context, index + 1)
        });
    cuDevicePrimaryCtxRelease_v2(device: c_int)
        |f| initialised(f, |process| {
            let index = device as usize;
            match process.gpus.get_mut(&index).filter(|gpu| gpu.retained > 0) {
                None => INVALID_CONTEXT,
                Some(gpu) => {
                    gpu.retained -= 1;
                    if gpu.retained == 0 {
                        gpu.forget();
                        process.streams.retain(|_, stream| stream.gpu != index);
                        process.modules.retain(|_, module| module.gpu != index);
                        process.functions.retain(|_, function| function.gpu != index);
                        process.events.retain(|_, event| event.gpu != index);
                    }
                    SUCCESS
                }
            }
        });
    cuCtxSetCurrent(context: usize)
        |f| initialised(f, |process| {
            let known = |context: usize| process.gpus.get(&(context - 1)).is_some_and(|gpu| gpu.retained > 0);
            if context > 0 && !known(context) {
                return INVALID_CONTEXT;
            }
            CURRENT.set(context);
            SUCCESS
        });
    cuCtxGetCurrent(context: *mut usize) |f| initialised(f, |_| give!(context, CURRENT.get()));
    cuCtxSynchronize()
        |f| unrecorded(f, |process, gpu| {
            process.finish_all(gpu);
            state(process, gpu)
        });
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize)
        |f| on_gpu(f, |process, gpu| {
            let taken = process.gpus.get(&gpu).map_or(0, |gpu| gpu.allocated);
            let Some(kind) = process.machine.gpus.get(gpu) else { return INVALID_DEVICE };
            let left = kind.memory.saturating_sub(kind.used).saturating_sub(taken);
            match give!(free, left as usize) {
                SUCCESS => give!(total, kind.memory as usize),
                code => code,
            }
        });
    cuGetErrorName(code: c_uint, text: *mut *const c_char)
        |_| match texts(code) {
            Some((name, _)) => give!(text, name.as_ptr()),
            None => INVALID_VALUE,
        };
    cuGetErrorString(code: c_uint, text: *mut *const c_char)
        |_| match texts(code) {
            Some((_, sentence)) => give!(text, sentence.as_ptr()),
            None => INVALID_VALUE,
        };
}
