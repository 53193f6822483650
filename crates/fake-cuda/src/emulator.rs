//! Runs a kernel on the CPU: the C++ of `emulator`, into which `build.rs` compiles the kernels.
//!
//! It is called for one launch at a time, on the thread that waits for the work. Addresses among the arguments are memory of this process, where a kernel finds
//! every byte of its buffers, each of which begins at a multiple of 16 bytes at least. What it answers other than 0 loses the GPU.

#![expect(unsafe_code, reason = "the emulator is C++")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulong, c_ulonglong, c_void};

unsafe extern "C" {
    fn wharf_emulate(
        kernel: *const c_char,
        grid: *const c_uint,
        block: *const c_uint,
        shared_bytes: c_uint,
        params: *mut *mut c_void,
        schedule: c_ulonglong,
        error: *mut c_char,
        error_len: c_ulong,
    ) -> c_int;
    fn wharf_emulate_known(kernel: *const c_char) -> c_int;
}

/// One launch.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) kernel: CString,
    pub(crate) grid: [c_uint; 3],
    pub(crate) block: [c_uint; 3],
    pub(crate) shared: c_uint,
    /// The bytes of each argument, in memory that is aligned for any of them.
    pub(crate) arguments: Vec<Vec<u128>>,
}

/// Whether there is such a kernel.
pub(crate) fn known(kernel: &CStr) -> bool {
    // SAFETY: a text with its end.
    unsafe { wharf_emulate_known(kernel.as_ptr()) != 0 }
}

/// Runs a launch to its end, or says what is wrong with it. One at a time: the emulator may keep the state of its threads in one place.
pub(crate) fn run(launch: &Launch, schedule: u64) -> Result<(), String> {
    let mut arguments: Vec<*mut c_void> =
        launch.arguments.iter().map(|argument| argument.as_ptr().cast_mut().cast()).collect();
    let mut error = [0_u8; 1024];
    // SAFETY: texts with their ends, three numbers each, an argument for each of the kernel's, and room for an error. Emulated kernels do not write arguments,
    // which are theirs by value.
    let code = unsafe {
        wharf_emulate(
            launch.kernel.as_ptr(),
            launch.grid.as_ptr(),
            launch.block.as_ptr(),
            launch.shared,
            arguments.as_mut_ptr(),
            schedule,
            error.as_mut_ptr().cast(),
            error.len() as c_ulong,
        )
    };
    let text = || CStr::from_bytes_until_nul(&error).unwrap_or(c"").to_string_lossy().into_owned();
    if code == 0 { Ok(()) } else { Err(text()) }
}
