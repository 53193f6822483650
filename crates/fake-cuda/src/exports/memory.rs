//! Memory of GPUs and of the host, and copies.

use std::ffi::{c_uint, c_void};

use super::{cuda, give, state, submit, unrecorded};
use crate::errors::{CAPTURE_UNSUPPORTED, INVALID_DEVICE, INVALID_VALUE, OUT_OF_MEMORY, SUCCESS};
use crate::exports::on_gpu;
use crate::guarded::Guarded;
use crate::process::{Process, look_beside, pointer};
use crate::stream::{Pattern, Work};

/// Allocations on a GPU take whole pieces of this many bytes.
const PIECE: usize = 512;

fn allocate(process: &mut Process, gpu: usize, bytes: usize, address: *mut u64) -> c_uint {
    let Some((kind, own)) = process.machine.gpus.get(gpu).zip(process.gpus.get_mut(&gpu)) else {
        return INVALID_DEVICE;
    };
    let free = kind.memory.saturating_sub(kind.used).saturating_sub(own.allocated);
    let taken = bytes.next_multiple_of(PIECE) as u64;
    if bytes == 0 {
        return INVALID_VALUE;
    }
    let Some(memory) = (taken <= free).then(|| Guarded::new(bytes)).flatten() else { return OUT_OF_MEMORY };
    own.allocated += taken;
    let start = memory.address();
    own.memory.insert(start, memory);
    give!(address, start)
}

fn allocate_host(process: &mut Process, bytes: usize, place: *mut *mut c_void) -> c_uint {
    let Some(memory) = (bytes > 0).then(|| Guarded::new(bytes)).flatten() else { return INVALID_VALUE };
    let start = memory.address();
    process.host.insert(start, memory);
    give!(place, pointer(start).cast())
}

/// Copies from the host to a GPU. What is copied is read when the copy is made.
fn send(
    process: &mut Process,
    gpu: usize,
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: usize,
) -> c_uint {
    let place = from.expose_provenance() as u64;
    if !process.on_gpu(gpu, to, bytes) {
        return INVALID_VALUE;
    }
    if process.on_host(place, bytes) {
        return submit(process, gpu, stream, Work::Copy { to, from: place, bytes });
    }
    if let Some(recording) = recording(process, stream) {
        // A GPU would read what is there when the graph is launched; nobody can want that.
        recording.invalid = true;
        return CAPTURE_UNSUPPORTED;
    }
    submit(process, gpu, stream, Work::Read { to, from: place, bytes })
}

/// Copies from a GPU to the host. Into memory that may move it is done at once, after what waits.
fn fetch(
    process: &mut Process,
    gpu: usize,
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: usize,
) -> c_uint {
    let place = to.expose_provenance() as u64;
    if !process.on_gpu(gpu, from, bytes) {
        return INVALID_VALUE;
    }
    if process.on_host(place, bytes) {
        return submit(process, gpu, stream, Work::Copy { to: place, from, bytes });
    }
    if let Some(recording) = recording(process, stream) {
        recording.invalid = true;
        return CAPTURE_UNSUPPORTED;
    }
    process.finish(stream);
    let code = state(process, gpu);
    if code == SUCCESS {
        // SAFETY: CUDA's callers pass so many bytes, and the GPU has them.
        unsafe { to.cast::<u8>().copy_from_nonoverlapping(pointer(from), bytes) };
    }
    code
}

fn recording(process: &mut Process, stream: usize) -> Option<&mut crate::stream::Recording> {
    process.streams.get_mut(&stream)?.recording.as_mut()
}

/// Fills memory with a pattern.
fn fill(process: &mut Process, gpu: usize, to: u64, bytes: usize, pattern: Pattern, stream: usize) -> c_uint {
    match process.on_gpu(gpu, to, bytes) {
        true => submit(process, gpu, stream, Work::Fill { to, bytes, pattern }),
        false => INVALID_VALUE,
    }
}

cuda! {
    cuMemAlloc_v2(address: *mut u64, bytes: usize)
        |f| unrecorded(f, |process, gpu| allocate(process, gpu, bytes, address));
    cuMemFree_v2(address: u64)
        |f| unrecorded(f, |process, gpu| {
            process.finish_all(gpu);
            let own = process.gpus.get_mut(&gpu);
            match own.and_then(|own| own.memory.remove(&address).map(|memory| (own, memory))) {
                None => INVALID_VALUE,
                Some((own, memory)) => {
                    look_beside(&memory);
                    own.allocated -= memory.bytes().next_multiple_of(PIECE) as u64;
                    state(process, gpu)
                }
            }
        });
    cuMemHostAlloc(place: *mut *mut c_void, bytes: usize, _flags: c_uint)
        |f| unrecorded(f, |process, _| allocate_host(process, bytes, place));
    cuMemAllocHost_v2(place: *mut *mut c_void, bytes: usize)
        |f| unrecorded(f, |process, _| allocate_host(process, bytes, place));
    cuMemFreeHost(place: *mut c_void)
        |f| unrecorded(f, |process, _| match process.host.remove(&(place.addr() as u64)) {
            None => INVALID_VALUE,
            Some(memory) => {
                look_beside(&memory);
                SUCCESS
            }
        });
    cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: usize)
        |f| on_gpu(f, |process, gpu| send(process, gpu, to, from, bytes, stream));
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: usize)
        |f| on_gpu(f, |process, gpu| fetch(process, gpu, to, from, bytes, stream));
    cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize)
        |f| on_gpu(f, |process, gpu| match process.on_gpu(gpu, to, bytes) && process.on_gpu(gpu, from, bytes) {
            true => submit(process, gpu, stream, Work::Copy { to, from, bytes }),
            false => INVALID_VALUE,
        });
    cuMemsetD8Async(to: u64, byte: u8, count: usize, stream: usize)
        |f| on_gpu(f, |process, gpu| fill(process, gpu, to, count, Pattern::Byte(byte), stream));
    cuMemsetD32Async(to: u64, word: c_uint, count: usize, stream: usize)
        |f| on_gpu(f, |process, gpu| fill(process, gpu, to, count.saturating_mul(4), Pattern::Word(word), stream));
}
