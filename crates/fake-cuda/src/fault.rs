//! Says which kernel touched what, when one touches memory that is nobody's, before the program ends as it would anyway.

#![expect(unsafe_code, reason = "handles a signal")]

use std::ffi::{CStr, c_int, c_void};
use std::fmt;
use std::io::Write;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};

/// What runs, for the handler.
struct Running<'a> {
    kernel: &'a CStr,
    /// Where memory begins, and its bytes.
    ranges: Vec<(u64, usize)>,
}

static RUNNING: AtomicPtr<Running<'static>> = AtomicPtr::new(ptr::null_mut());
/// Who handled the signal before.
static mut BEFORE: libc::sigaction = {
    // SAFETY: numbers and null pointers.
    unsafe { std::mem::zeroed() }
};

/// Runs what may touch memory that is nobody's. Nothing else does meanwhile, since whoever calls this has the process.
pub(crate) fn explain<T>(kernel: &CStr, ranges: Vec<(u64, usize)>, run: impl FnOnce() -> T) -> T {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(install);
    let mut running = Running { kernel, ranges };
    RUNNING.store((&raw mut running).cast(), Ordering::Release);
    let result = run();
    RUNNING.store(ptr::null_mut(), Ordering::Release);
    result
}

/// One line on standard error, which tests do not swallow.
pub(crate) fn say(text: fmt::Arguments<'_>) {
    let mut line = [0_u8; 512];
    let mut rest = &mut line[..];
    // A text that is too long is cut.
    let _ = write!(rest, "wharf-fake-cuda: {text}");
    let left = rest.len();
    let length = (line.len() - left).min(line.len() - 1);
    line[length] = b'\n';
    // SAFETY: bytes of ours; allowed within a handler.
    unsafe { libc::write(2, line.as_ptr().cast(), length + 1) };
}

fn install() {
    // SAFETY: a handler that does only what handlers may do, on the stack that Rust's threads have for it. The former one is stored once, and read only by the handler.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSEGV, &raw const action, &raw mut BEFORE);
    }
}

extern "C" fn handle(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: what is stored lives for as long as it is stored, and the system gives the address.
    unsafe {
        if let Some(running) = RUNNING.load(Ordering::Acquire).as_ref() {
            tell(running, (*info).si_addr().addr() as u64);
        }
        // The instruction is tried again, and faults into whoever was there before.
        libc::sigaction(libc::SIGSEGV, &raw const BEFORE, ptr::null_mut());
    }
}

fn tell(Running { kernel, ranges }: &Running<'_>, address: u64) {
    let kernel = kernel.to_str().unwrap_or("?");
    let distance = |(start, bytes): &(u64, usize)| match address.checked_sub(*start) {
        None => start - address,
        Some(offset) => offset.saturating_sub(*bytes as u64),
    };
    let nearest = ranges.iter().min_by_key(|range| distance(range));
    match nearest {
        Some(range @ (start, bytes)) if address < *start => say(format_args!(
            "kernel {kernel} touched {address:#x}, {} bytes before {bytes} bytes at {start:#x}",
            distance(range)
        )),
        Some(range @ (start, bytes)) => say(format_args!(
            "kernel {kernel} touched {address:#x}, {} bytes behind the end of {bytes} bytes at {start:#x}",
            distance(range)
        )),
        None => say(format_args!("kernel {kernel} touched {address:#x}, and no memory is allocated")),
    }
}
