//! Memory of the GPU, memory of the host that the GPU copies by itself, and copies between them.

#![expect(
    unsafe_code,
    reason = "CUDA's driver is a C library, and what it copies is memory that only pointers name"
)]

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError, event};
use cudarc::driver::sys::{self, CUdeviceptr, CUevent, CUevent_flags, CUresult};

use super::context::Context;
use super::error::DeviceError;
use super::gpu::Gpu;

/// A place in a GPU's memory. Holding one keeps no buffer alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub(super) u64);

impl Address {
    /// Of nothing: what kernels take for the absence of an argument.
    pub const NULL: Address = Address(0);

    /// `bytes` further on.
    pub(crate) fn plus(self, bytes: usize) -> Address {
        Address(self.0 + bytes as u64)
    }
}

/// Memory of a GPU, given back on drop. Its beginning lies at a multiple of 256 bytes.
#[derive(Debug)]
pub struct Buffer {
    start: CUdeviceptr,
    bytes: usize,
    context: Arc<Context>,
}

/// Memory of the host that does not move, so that the GPU copies to and from it while the host goes on. Its end does not come before the end of
/// copies and graphs that use it.
#[derive(Debug)]
pub struct Staging {
    pub(super) pinned: Arc<Pinned>,
}

/// What [`Staging`] and graphs hold.
#[derive(Debug)]
pub(super) struct Pinned {
    start: *mut u8,
    bytes: usize,
    /// Behind the last work that uses it.
    used: CUevent,
    context: Arc<Context>,
}

// SAFETY: the memory belongs to whoever holds this, on whichever thread; the driver's handles may be used on every thread.
unsafe impl Send for Pinned {}
// SAFETY: its bytes are only touched by `Staging::write`, which takes it exclusively, and copied from by `Staging::read`; copies of the GPU are waited
// for before either.
unsafe impl Sync for Pinned {}

impl Gpu {
    /// Memory of the GPU, filled with zeros before anything that is asked for later.
    pub fn alloc(&self, bytes: usize) -> Result<Buffer, DeviceError> {
        let context = self.context.clone();
        if bytes == 0 {
            return Ok(Buffer { start: 0, bytes, context });
        }
        let doing = || format!("allocate {bytes} bytes on the GPU");
        let answer = context.call(doing, || {
            // SAFETY: the context is current.
            match unsafe { result::malloc_sync(bytes) } {
                Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
                answer => answer.map(Some),
            }
        })?;
        let Some(start) = answer else {
            return Err(DeviceError::OutOfMemory { asked: bytes as u64, free: self.memory()?.free });
        };
        let buffer = Buffer { start, bytes, context };
        let doing = || format!("clear {bytes} bytes on the GPU");
        let stream = self.context.stream;
        // SAFETY: the whole of a new allocation.
        self.context.call(doing, || unsafe { result::memset_d8_async(start, 0, bytes, stream) })?;
        Ok(buffer)
    }

    /// Copies bytes into a buffer and waits until they are there.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn upload(&self, buffer: &Buffer, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let start = self.range(buffer, offset, bytes.len());
        let doing = || format!("copy {} bytes to the GPU", bytes.len());
        if bytes.is_empty() {
            return Ok(());
        }
        let stream = self.context.stream;
        // SAFETY: the range is the buffer's.
        self.context.call(doing, || unsafe { result::memcpy_htod_async(start, bytes, stream) })?;
        // Where the GPU reads the host's page tables the copy may still be under way, and the bytes are only lent.
        self.context.synchronize(doing)
    }

    /// Copies bytes out of a buffer, after all that was asked for before.
    ///
    /// # Panics
    /// When the buffer has fewer.
    pub fn download(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let start = self.range(buffer, offset, bytes.len());
        let length = bytes.len();
        let doing = || format!("copy {length} bytes from the GPU");
        if bytes.is_empty() {
            return Ok(());
        }
        let stream = self.context.stream;
        // SAFETY: the range is the buffer's.
        self.context.call(doing, || unsafe { result::memcpy_dtoh_async(bytes, start, stream) })?;
        self.context.synchronize(doing)
    }

    /// Memory of the host that does not move, filled with zeros. It is scarce; it is meant for what goes with every pass.
    pub fn staging(&self, bytes: usize) -> Result<Staging, DeviceError> {
        let doing = || format!("allocate {bytes} bytes of memory of the host for copies");
        let context = self.context.clone();
        let used = context.call(doing, || event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING))?;
        let mut pinned = Pinned { start: std::ptr::null_mut(), bytes, used, context };
        // The driver allocates no empty memory.
        // SAFETY: the context is current.
        let start = self.context.call(doing, || unsafe { result::malloc_host(bytes.max(1), 0) })?;
        pinned.start = start.cast();
        // SAFETY: the whole of a new allocation.
        unsafe { pinned.start.write_bytes(0, bytes) };
        Ok(Staging { pinned: Arc::new(pinned) })
    }

    /// Copies a part of a staging buffer into a buffer, while the host goes on. Within [`Gpu::capture`] the copy becomes part of the graph.
    ///
    /// # Panics
    /// When the range lies outside of either.
    pub fn send(
        &self,
        from: &Staging,
        range: Range<usize>,
        to: &Buffer,
        offset: usize,
    ) -> Result<(), DeviceError> {
        let (host, bytes) = from.range(range);
        let start = self.range(to, offset, bytes);
        let doing = || format!("send {bytes} bytes to the GPU");
        if bytes == 0 {
            return Ok(());
        }
        let stream = self.context.stream;
        self.context.call(doing, || {
            // SAFETY: both ranges were checked; the staging buffer is kept until the copy is over (`in_use`).
            unsafe { sys::cuMemcpyHtoDAsync_v2(start, host.cast::<c_void>(), bytes, stream) }.result()
        })?;
        self.in_use(&from.pinned)
    }

    /// Copies a part of a buffer into a staging buffer, while the host goes on. Within [`Gpu::capture`] the copy becomes part of the graph.
    ///
    /// # Panics
    /// When the range lies outside of either.
    pub fn fetch(
        &self,
        from: &Buffer,
        offset: usize,
        to: &Staging,
        range: Range<usize>,
    ) -> Result<(), DeviceError> {
        let (host, bytes) = to.range(range);
        let start = self.range(from, offset, bytes);
        let doing = || format!("fetch {bytes} bytes from the GPU");
        if bytes == 0 {
            return Ok(());
        }
        let stream = self.context.stream;
        self.context.call(doing, || {
            // SAFETY: both ranges were checked; the staging buffer is kept until the copy is over (`in_use`).
            unsafe { sys::cuMemcpyDtoHAsync_v2(host.cast::<c_void>(), start, bytes, stream) }.result()
        })?;
        self.in_use(&to.pinned)
    }

    /// The driver's address of a part of a buffer.
    fn range(&self, buffer: &Buffer, offset: usize, bytes: usize) -> CUdeviceptr {
        assert!(Arc::ptr_eq(&self.context, &buffer.context), "a buffer is used with the GPU that it is on");
        assert!(
            offset <= buffer.bytes && bytes <= buffer.bytes - offset,
            "{bytes} bytes from byte {offset} do not lie in a buffer of {}",
            buffer.bytes
        );
        buffer.start + offset as u64
    }
}

impl Buffer {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Where a byte of it lies; its end is allowed.
    ///
    /// # Panics
    /// When it is beyond the end.
    pub fn at(&self, offset: usize) -> Address {
        assert!(offset <= self.bytes, "byte {offset} does not lie in a buffer of {}", self.bytes);
        Address(self.start + offset as u64)
    }
}

impl Drop for Buffer {
    /// A GPU that is lost has lost its memory too, and the driver waits for what still uses it.
    fn drop(&mut self) {
        if self.bytes > 0 {
            let doing = || format!("free {} bytes on the GPU", self.bytes);
            // SAFETY: allocated by `alloc`, and not freed before.
            let _ = self.context.call(doing, || unsafe { result::free_sync(self.start) });
        }
    }
}

impl Staging {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.pinned.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.pinned.bytes == 0
    }

    /// Writes bytes, once copies and graphs that use the buffer are done.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let (place, length) = self.range(offset..offset + bytes.len());
        self.pinned.wait()?;
        // SAFETY: the range was checked; the GPU is done with it, and `&mut self` keeps it from being used by another thread of ours.
        unsafe { place.copy_from_nonoverlapping(bytes.as_ptr(), length) };
        Ok(())
    }

    /// Reads bytes, once copies and graphs that use the buffer are done.
    ///
    /// # Panics
    /// When the buffer has fewer.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let (place, length) = self.range(offset..offset + bytes.len());
        self.pinned.wait()?;
        // SAFETY: the range was checked, and the GPU is done with it.
        unsafe { place.copy_to_nonoverlapping(bytes.as_mut_ptr(), length) };
        Ok(())
    }

    fn range(&self, range: Range<usize>) -> (*mut u8, usize) {
        let bytes = self.pinned.bytes;
        assert!(range.start <= range.end && range.end <= bytes, "{range:?} does not lie in {bytes} bytes");
        // SAFETY: within the allocation, or at its end.
        (unsafe { self.pinned.start.add(range.start) }, range.len())
    }
}

impl Pinned {
    /// Whoever waits from now on waits for all that the GPU was asked for until now.
    pub(super) fn mark(&self) -> Result<(), DeviceError> {
        let doing = || "mark the end of a copy".to_owned();
        // SAFETY: event and stream live as long as `self`.
        self.context.call(doing, || unsafe { event::record(self.used, self.context.stream) })
    }

    fn wait(&self) -> Result<(), DeviceError> {
        // SAFETY: the event lives as long as `self`.
        self.context.call(|| "wait for a copy".to_owned(), || unsafe { event::synchronize(self.used) })
    }
}

impl Drop for Pinned {
    /// A copy that cannot be waited for belongs to a GPU that is lost and copies nothing more.
    fn drop(&mut self) {
        let _ = self.wait();
        let doing = || "free memory of the host for copies".to_owned();
        // SAFETY: made by `staging`, and not freed before; memory that was not allocated is null.
        let _ = self.context.call(doing, || unsafe {
            if !self.start.is_null() {
                result::free_host(self.start.cast())?;
            }
            event::destroy(self.used)
        });
    }
}
