//! The driver's functions, under their names. Each does what `cuda.h` says of it, for as much as Wharf needs.

#![expect(unsafe_code, reason = "a C library takes and gives pointers, and exports names")]

mod device;
mod graph;
mod launch;
mod memory;

use std::cell::Cell;
use std::ffi::{CStr, c_uint};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::errors::{
    CAPTURE_INVALIDATED, CAPTURE_UNSUPPORTED, INVALID_CONTEXT, INVALID_HANDLE, INVALID_VALUE,
    NOT_INITIALIZED, SUCCESS, UNKNOWN,
};
use crate::file::{self, Version};
use crate::process::{self, Process};
use crate::stream::Work;

thread_local! {
    /// The context of this thread: a GPU's index and one, or 0.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The file beside this library.
fn path() -> Option<&'static Path> {
    static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    PATH.get_or_init(find).as_deref()
}

fn find() -> Option<PathBuf> {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: the address is one of this library's functions, and the record is ours.
    let found = unsafe { libc::dladdr((device::cuInit as *const ()).cast(), &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader keeps the name for as long as the library is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(file::beside(Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))))
}

/// Reads the file again if it has changed.
fn refresh(process: &mut Process) -> io::Result<()> {
    static KNOWN: Mutex<Option<Version>> = Mutex::new(None);
    let path = path().ok_or(io::ErrorKind::NotFound)?;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let version = file::version(path)?;
    if *known != Some(version) {
        process.machine = file::read(path)?;
        *known = Some(version);
    }
    Ok(())
}

/// Answers for the machine as it is now. A file that cannot be read is an unknown error.
fn on_machine(function: &str, answer: impl FnOnce(&mut Process) -> c_uint) -> c_uint {
    process::with(|process| {
        if refresh(process).is_err() {
            return UNKNOWN;
        }
        match process.machine.errors.get(function) {
            Some(code) => *code,
            None => answer(process),
        }
    })
}

/// As [`on_machine`], for functions that need `cuInit`.
fn initialised(function: &str, answer: impl FnOnce(&mut Process) -> c_uint) -> c_uint {
    on_machine(function, |process| if process.initialised { answer(process) } else { NOT_INITIALIZED })
}

/// As [`initialised`], for functions that need a context.
fn on_gpu(function: &str, answer: impl FnOnce(&mut Process, usize) -> c_uint) -> c_uint {
    initialised(function, |process| {
        let Some(index) = CURRENT.get().checked_sub(1) else { return INVALID_CONTEXT };
        let Some(gpu) = process.gpus.get(&index).filter(|gpu| gpu.retained > 0) else {
            return INVALID_CONTEXT;
        };
        let error = process.machine.gpus.get(index).and_then(|gpu| gpu.errors.get(function));
        match gpu.lost.or(error.copied()) {
            Some(code) => code,
            None => answer(process, index),
        }
    })
}

/// As [`on_gpu`], for functions that a thread must not call while it records a graph: that spoils the recording.
fn unrecorded(function: &str, answer: impl FnOnce(&mut Process, usize) -> c_uint) -> c_uint {
    on_gpu(function, |process, gpu| {
        let here = std::thread::current().id();
        let recordings = process.streams.values_mut().filter_map(|stream| stream.recording.as_mut());
        let mut spoilt = false;
        for recording in recordings.filter(|recording| recording.thread == here) {
            (recording.invalid, spoilt) = (true, true);
        }
        if spoilt { CAPTURE_UNSUPPORTED } else { answer(process, gpu) }
    })
}

/// Puts work on a stream, or into the graph that is recorded of it.
fn submit(process: &mut Process, gpu: usize, stream: usize, work: Work) -> c_uint {
    match process.streams.get_mut(&stream).filter(|stream| stream.gpu == gpu) {
        None => INVALID_HANDLE,
        Some(stream) => match &mut stream.recording {
            Some(recording) if recording.invalid => CAPTURE_INVALIDATED,
            Some(recording) => {
                recording.work.push(work);
                SUCCESS
            }
            None => {
                stream.waiting.push_back(work);
                SUCCESS
            }
        },
    }
}

/// What a GPU answers after work was done.
fn state(process: &Process, gpu: usize) -> c_uint {
    process.gpus.get(&gpu).and_then(|gpu| gpu.lost).unwrap_or(SUCCESS)
}

/// # Safety
/// The pointer is null or may be written.
unsafe fn put<T>(place: *mut T, value: T) -> c_uint {
    if place.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: as the caller says.
    unsafe { place.write(value) };
    SUCCESS
}

/// The functions: their arguments, and what is done with them. Every pointer is one that CUDA's callers pass.
macro_rules! cuda {
    ($($name:ident($($argument:ident: $type:ty),* $(,)?) $body:expr;)+) => {$(
        #[doc = concat!("`", stringify!($name), "`.")]
        ///
        /// # Safety
        /// Pointers are null or may be used as `cuda.h` says.
        #[unsafe(no_mangle)]
        pub(super) unsafe extern "C" fn $name($($argument: $type),*) -> std::ffi::c_uint {
            let answer = |function: &'static str| $body(function);
            answer(stringify!($name))
        }
    )+};
}

/// `put` where a caller of CUDA said so.
macro_rules! give {
    ($place:expr, $value:expr) => {
        // SAFETY: CUDA's callers pass a pointer that may be written, or none.
        unsafe { $crate::exports::put($place, $value) }
    };
}

use {cuda, give};
