//! One opened GPU: what it is, what it has, waiting, and how long something took.

#![expect(unsafe_code, reason = "CUDA's driver is a C library")]

use std::cell::RefCell;
use std::sync::Arc;

use cudarc::driver::result::{DriverError, event, mem_get_info};
use cudarc::driver::sys::{self, CUevent, CUevent_flags, CUresult};

use super::context::Context;
use super::error::{CudaVersion, DeviceError, OpenError};
use super::memory::Pinned;

/// A GPU whose work is done in order. It may be moved to another thread, and buffers outlive it.
#[derive(Debug)]
pub struct Gpu {
    pub(super) context: Arc<Context>,
    /// While a graph is recorded: what it copies from and to.
    pub(super) recording: RefCell<Option<Vec<Arc<Pinned>>>>,
}

/// A GPU's memory in bytes, as all processes on it share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Nobody has it.
    pub free: u64,
    /// All there is.
    pub total: u64,
}

/// Measures what the GPU does from its making until it is asked.
#[derive(Debug)]
pub struct Timer {
    start: Event,
    end: Event,
    context: Arc<Context>,
}

impl Gpu {
    /// Opens a GPU by its index among those that the driver shows to this process, and loads the kernels.
    pub fn open(index: usize) -> Result<Gpu, OpenError> {
        Ok(Gpu { context: Arc::new(Context::open(index)?), recording: RefCell::new(None) })
    }

    /// Product, as `NVIDIA H200`.
    pub fn name(&self) -> &str {
        &self.context.name
    }

    /// CUDA's compute capability, major and minor.
    pub fn capability(&self) -> (u32, u32) {
        self.context.capability
    }

    /// The newest CUDA that the driver knows.
    pub fn driver(&self) -> CudaVersion {
        self.context.version
    }

    /// How many blocks' worth of hardware there is.
    pub fn multiprocessors(&self) -> usize {
        self.context.multiprocessors
    }

    /// Bytes of shared memory that one block can have.
    pub fn shared_limit(&self) -> u32 {
        self.context.shared_limit
    }

    /// Memory as it is now.
    pub fn memory(&self) -> Result<Memory, DeviceError> {
        let doing = || "ask the GPU for its memory".to_owned();
        let (free, total) = self.context.call(doing, mem_get_info)?;
        Ok(Memory { free: free as u64, total: total as u64 })
    }

    /// Waits until everything that was asked for is done.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.context.synchronize(|| "wait for the GPU".to_owned())
    }

    /// Starts to measure, after what was asked for before.
    pub fn timer(&self) -> Result<Timer, DeviceError> {
        let context = self.context.clone();
        let timer = Timer { start: Event::new(&context)?, end: Event::new(&context)?, context };
        timer.start.record()?;
        Ok(timer)
    }

    /// The GPU uses this memory until all that was asked for is done, or whenever the graph that is recorded is replayed.
    pub(super) fn in_use(&self, pinned: &Arc<Pinned>) -> Result<(), DeviceError> {
        match &mut *self.recording.borrow_mut() {
            Some(kept) => {
                if !kept.iter().any(|other| Arc::ptr_eq(other, pinned)) {
                    kept.push(pinned.clone());
                }
                Ok(())
            }
            None => pinned.mark(),
        }
    }
}

impl Timer {
    /// Waits for all that was asked for until now, and says how many milliseconds passed on the GPU. It may be asked again.
    pub fn elapsed(&self) -> Result<f64, DeviceError> {
        self.end.record()?;
        let doing = || "read the GPU's clock".to_owned();
        self.context.call(doing, || {
            // SAFETY: both events are recorded and live as long as `self`.
            unsafe { event::synchronize(self.end.event) }?;
            elapsed(self.start.event, self.end.event).map(f64::from)
        })
    }
}

#[derive(Debug)]
struct Event {
    event: CUevent,
    context: Arc<Context>,
}

// SAFETY: events may be used on every thread.
unsafe impl Send for Event {}
// SAFETY: as above, and the driver serialises calls.
unsafe impl Sync for Event {}

impl Event {
    fn new(context: &Arc<Context>) -> Result<Event, DeviceError> {
        let doing = || "make an event to measure with".to_owned();
        let event = context.call(doing, || event::create(CUevent_flags::CU_EVENT_DEFAULT))?;
        Ok(Event { event, context: context.clone() })
    }

    fn record(&self) -> Result<(), DeviceError> {
        let doing = || "record an event to measure with".to_owned();
        // SAFETY: event and stream live as long as `self`.
        self.context.call(doing, || unsafe { event::record(self.event, self.context.stream) })
    }
}

impl Drop for Event {
    /// An event of a GPU that is lost needs no end.
    fn drop(&mut self) {
        // SAFETY: made by `new`, and not destroyed before.
        let _ = self.context.call(|| "drop an event".to_owned(), || unsafe { event::destroy(self.event) });
    }
}

/// Milliseconds between events. By the name that all drivers have: what cudarc would call came with CUDA 12.8, and it panics without.
fn elapsed(start: CUevent, end: CUevent) -> Result<f32, DriverError> {
    type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;
    // SAFETY: `Context::open` has found the library and this symbol, whose type `cuda.h` gives.
    let function = unsafe { sys::culib().get::<Elapsed>("cuEventElapsedTime") };
    let function = function.map_err(|_| DriverError(CUresult::CUDA_ERROR_NOT_FOUND))?;
    let mut milliseconds = 0.0;
    // SAFETY: writes a number.
    unsafe { function(&raw mut milliseconds, start, end) }.result()?;
    Ok(milliseconds)
}
