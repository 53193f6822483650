//! Graphs: what was asked for once, asked for again with one call.

#![expect(unsafe_code, reason = "CUDA's driver is a C library")]

use std::sync::Arc;

use cudarc::driver::result::{graph, stream};
use cudarc::driver::sys::{CUgraph, CUgraphExec, CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::context::Context;
use super::error::DeviceError;
use super::gpu::Gpu;
use super::memory::Pinned;

/// Launches and copies that are replayed together. It keeps the staging buffers that it copies from and to; whoever replays it keeps the buffers whose
/// addresses its kernels were given.
#[derive(Debug)]
pub struct Graph {
    exec: CUgraphExec,
    kept: Vec<Arc<Pinned>>,
    context: Arc<Context>,
}

// SAFETY: the driver's handles may be used on every thread; graphs only one at a time, which `&Gpu` sees to, as it is on one thread.
unsafe impl Send for Graph {}

impl Gpu {
    /// Records what is asked for in `work` instead of doing it. In there nothing can be allocated, waited for, uploaded or downloaded: that fails, and the
    /// whole recording with it.
    pub fn capture(&self, work: impl FnOnce() -> Result<(), DeviceError>) -> Result<Graph, DeviceError> {
        let recording = Recording::begin(self)?;
        let worked = work();
        // Ended in any case: nothing else can be done on the stream before.
        let ended = recording.end();
        worked?;
        let (Recorded(recorded), kept) = ended?;
        let doing = || "make a graph of what was recorded".to_owned();
        let instantiated = self.context.call(doing, || {
            // SAFETY: the graph was just recorded, and is not needed afterwards.
            unsafe {
                let exec = graph::instantiate(recorded, CUgraphInstantiate_flags(0));
                let destroyed = graph::destroy(recorded);
                exec.and_then(|exec| destroyed.map(|()| exec))
            }
        });
        let graph = Graph { exec: instantiated?, kept, context: self.context.clone() };
        let doing = || "send a graph to the GPU".to_owned();
        // SAFETY: graph and stream live as long as `graph`.
        self.context.call(doing, || unsafe { graph::upload(graph.exec, self.context.stream) })?;
        Ok(graph)
    }

    /// Asks for everything that was recorded, in its order, while the host goes on.
    pub fn replay(&self, graph: &Graph) -> Result<(), DeviceError> {
        let Graph { exec, kept, context } = graph;
        assert!(
            Arc::ptr_eq(&self.context, context),
            "a graph is replayed on the GPU that it was recorded on"
        );
        let doing = || "replay a graph".to_owned();
        // SAFETY: the graph lives as long as `graph`, whose end waits for this.
        context.call(doing, || unsafe { graph::launch(*exec, context.stream) })?;
        kept.iter().try_for_each(|pinned| self.in_use(pinned))
    }
}

impl Drop for Graph {
    /// A graph of a GPU that is lost needs no end.
    fn drop(&mut self) {
        let doing = || "drop a graph".to_owned();
        // SAFETY: made by `capture`, and not destroyed before; nothing of it runs any more.
        let _ = self.context.call(doing, || unsafe {
            stream::synchronize(self.context.stream)?;
            graph::exec_destroy(self.exec)
        });
    }
}

/// Ends the recording whatever happens, a panic included: a stream that goes on recording does nothing any more.
struct Recording<'a> {
    gpu: &'a Gpu,
    over: bool,
}

struct Recorded(CUgraph);

impl<'a> Recording<'a> {
    fn begin(gpu: &'a Gpu) -> Result<Recording<'a>, DeviceError> {
        let doing = || "record a graph".to_owned();
        // Others of this process go on with their GPUs meanwhile.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `gpu`.
        gpu.context.call(doing, || unsafe { stream::begin_capture(gpu.context.stream, mode) })?;
        *gpu.recording.borrow_mut() = Some(Vec::new());
        Ok(Recording { gpu, over: false })
    }

    fn end(mut self) -> Result<(Recorded, Vec<Arc<Pinned>>), DeviceError> {
        self.over = true;
        let kept = self.gpu.recording.take().unwrap_or_default();
        let context = &self.gpu.context;
        let doing = || "end the recording of a graph".to_owned();
        // SAFETY: the stream lives as long as `gpu`.
        let recorded = context.call(doing, || unsafe { stream::end_capture(context.stream) })?;
        Ok((Recorded(recorded), kept))
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.gpu.recording.take();
            let context = &self.gpu.context;
            // SAFETY: as in `end`. The graph is null when the recording has failed.
            let _ = context.call(String::new, || unsafe {
                let recorded = stream::end_capture(context.stream)?;
                graph::destroy(recorded)
            });
        }
    }
}
