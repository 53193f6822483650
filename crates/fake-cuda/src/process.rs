//! What the driver knows of this process: its memory, modules, streams and graphs on each GPU, and how work is done. One call at a time.

#![expect(unsafe_code, reason = "memory of GPUs is named by numbers")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::errors::{ILLEGAL_ADDRESS, LAUNCH_FAILED};
use crate::guarded::Guarded;
use crate::image::Kernel;
use crate::machine::Machine;
use crate::stream::{Event, Pattern, Stream, Work};
use crate::{emulator, fault};

/// Everything, by handles that are numbers.
#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) initialised: bool,
    /// As the file says it.
    pub(crate) machine: Machine,
    pub(crate) gpus: BTreeMap<usize, Gpu>,
    pub(crate) modules: BTreeMap<usize, Module>,
    pub(crate) functions: BTreeMap<usize, Function>,
    pub(crate) streams: BTreeMap<usize, Stream>,
    pub(crate) events: BTreeMap<usize, Event>,
    /// Graphs, and what can be launched of them.
    pub(crate) graphs: BTreeMap<usize, Vec<Work>>,
    /// Memory of the host that does not move, by its beginning.
    pub(crate) host: BTreeMap<u64, Guarded>,
    made: usize,
}

/// What this process has on a GPU.
#[derive(Debug, Default)]
pub(crate) struct Gpu {
    /// How often its primary context is retained.
    pub(crate) retained: usize,
    pub(crate) memory: BTreeMap<u64, Guarded>,
    /// Bytes.
    pub(crate) allocated: u64,
    launches: u64,
    /// What every call answers from now on.
    pub(crate) lost: Option<u32>,
}

/// A loaded module.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) gpu: usize,
    pub(crate) kernels: Vec<Kernel>,
}

/// A kernel of a module.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) gpu: usize,
    pub(crate) module: usize,
    pub(crate) name: CString,
    pub(crate) kernel: Kernel,
    /// Bytes of dynamic shared memory that a block may have.
    pub(crate) dynamic: u32,
}

static PROCESS: Mutex<Option<Process>> = Mutex::new(None);

/// Nobody else has it meanwhile.
pub(crate) fn with<T>(work: impl FnOnce(&mut Process) -> T) -> T {
    let mut process: MutexGuard<'_, Option<Process>> = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    work(process.get_or_insert_default())
}

impl Process {
    /// A handle that no other has. Small numbers are left to streams that the driver has by itself.
    pub(crate) fn handle(&mut self) -> usize {
        self.made += 1;
        0x1000 + self.made
    }

    /// Does all that waits on a stream.
    pub(crate) fn finish(&mut self, stream: usize) {
        while self.advance(stream) {}
    }

    /// Does all that waits on a GPU.
    pub(crate) fn finish_all(&mut self, gpu: usize) {
        let streams: Vec<usize> =
            self.streams.iter().filter(|(_, stream)| stream.gpu == gpu).map(|(handle, _)| *handle).collect();
        streams.into_iter().for_each(|stream| self.finish(stream));
    }

    /// Does the next of what waits on a stream; says if there was something.
    pub(crate) fn advance(&mut self, stream: usize) -> bool {
        let Some(stream) = self.streams.get_mut(&stream) else { return false };
        let (gpu, work) = (stream.gpu, stream.waiting.pop_front());
        let Some(work) = work else { return false };
        if self.gpus.get(&gpu).is_some_and(|gpu| gpu.lost.is_none())
            && let Err(code) = self.work(gpu, &work)
            && let Some(gpu) = self.gpus.get_mut(&gpu)
        {
            gpu.lost = Some(code);
        }
        true
    }

    /// Whether all of a range is memory of the GPU.
    pub(crate) fn on_gpu(&self, gpu: usize, address: u64, bytes: usize) -> bool {
        self.gpus.get(&gpu).is_some_and(|gpu| has(&gpu.memory, address, bytes))
    }

    /// Whether all of a range is memory of the host that does not move.
    pub(crate) fn on_host(&self, address: u64, bytes: usize) -> bool {
        has(&self.host, address, bytes)
    }

    /// As a GPU does it, at last. What fails costs the GPU.
    fn work(&mut self, gpu: usize, work: &Work) -> Result<(), u32> {
        let usable =
            |process: &Process, at, bytes| process.on_gpu(gpu, at, bytes) || process.on_host(at, bytes);
        let check = |ok: bool| if ok { Ok(()) } else { Err(ILLEGAL_ADDRESS) };
        match work {
            Work::Launch(launch) => return self.launch(gpu, launch),
            Work::Read { to, from, bytes } => {
                check(self.on_gpu(gpu, *to, *bytes))?;
                // SAFETY: just checked; that the other is still there is what whoever asked for it must see to.
                unsafe { pointer(*to).copy_from(pointer(*from), *bytes) };
            }
            Work::Copy { to, from, bytes } => {
                check(usable(self, *to, *bytes) && usable(self, *from, *bytes))?;
                // SAFETY: just checked.
                unsafe { pointer(*to).copy_from(pointer(*from), *bytes) };
            }
            Work::Fill { to, bytes, pattern } => {
                check(self.on_gpu(gpu, *to, *bytes))?;
                match pattern {
                    // SAFETY: just checked.
                    Pattern::Byte(byte) => unsafe { pointer(*to).write_bytes(*byte, *bytes) },
                    Pattern::Word(word) => (0..*bytes / 4).for_each(|index| {
                        // SAFETY: just checked.
                        unsafe { pointer(*to).cast::<u32>().add(index).write_unaligned(*word) };
                    }),
                }
            }
            Work::Last(graph) => check(self.graphs.contains_key(graph))?,
            Work::Record(event, record) => {
                if let Some(event) = self.events.get_mut(event)
                    && record.is_none_or(|record| record == event.records)
                {
                    (event.happened, event.waits_for) = (Some(Instant::now()), None);
                }
            }
        }
        Ok(())
    }

    fn launch(&mut self, index: usize, launch: &emulator::Launch) -> Result<(), u32> {
        let Some((gpu, kind)) = self.gpus.get_mut(&index).zip(self.machine.gpus.get(index)) else {
            return Err(LAUNCH_FAILED);
        };
        gpu.launches += 1;
        if kind.lost_after.is_some_and(|launches| gpu.launches > launches) {
            return Err(kind.lost_with);
        }
        let memory = gpu.memory.values().chain(self.host.values());
        let ranges = memory.map(|memory| (memory.address(), memory.bytes())).collect();
        fault::explain(&launch.kernel, ranges, || emulator::run(launch, kind.schedule)).map_err(|error| {
            // CUDA has no other way to say it.
            fault::say(format_args!("kernel {}: {error}", launch.kernel.to_string_lossy()));
            LAUNCH_FAILED
        })
    }
}

impl Gpu {
    /// The context is gone, with all that was in it; a GPU that is lost stays so.
    pub(crate) fn forget(&mut self) {
        for (_, memory) in std::mem::take(&mut self.memory) {
            look_beside(&memory);
        }
        self.allocated = 0;
    }
}

/// Ends the program if a kernel wrote beside memory that is given back.
pub(crate) fn look_beside(memory: &Guarded) {
    if memory.spoilt() {
        let (start, bytes) = (memory.address(), memory.bytes());
        fault::say(format_args!("something was written beside the {bytes} bytes at {start:#x}"));
        std::process::abort();
    }
}

fn has(memory: &BTreeMap<u64, Guarded>, address: u64, bytes: usize) -> bool {
    memory.range(..=address).next_back().is_some_and(|(_, memory)| memory.has(address, bytes))
}

pub(crate) fn pointer(address: u64) -> *mut u8 {
    ptr::with_exposed_provenance_mut(address as usize)
}
