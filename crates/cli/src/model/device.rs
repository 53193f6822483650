//! Decides what computes a model: the CPU, or a GPU that is asked for or at hand.

use anyhow::Context;
use tokio::sync::oneshot;
use wharf_api::ServeConfig;
use wharf_api::config::{self, KvCacheDtype};
use wharf_cuda::CudaBackend;
use wharf_cuda::driver::{Gpu, OpenError};
use wharf_cuda::memory::Share;
use wharf_engine::{Backend, BackendError, Chunk, Logits};
use wharf_model::Model;

/// What computes.
pub(crate) enum Device {
    Cpu,
    /// A GPU, and bytes that it has for keys and values beside the model.
    Cuda(Box<Gpu>, u64),
}

/// What computes this model. A GPU that was asked for and does not do is an error; one that was at hand is left alone, with a warning.
pub(crate) fn choose(config: &ServeConfig, model: &Model) -> anyhow::Result<Device> {
    match config.device {
        config::Device::Cpu => Ok(Device::Cpu),
        config::Device::Cuda(_) if config.kv_cache_dtype != KvCacheDtype::F16 => {
            anyhow::bail!("on a GPU keys and values are f16: kv_cache_dtype is for the device cpu")
        }
        config::Device::Cuda(index) => {
            open(index, config, model).with_context(|| format!("the device {} cannot be used", config.device))
        }
        // What only CPUs do is done by them.
        config::Device::Auto if config.ranks() > 1 || config.kv_cache_dtype != KvCacheDtype::F16 => {
            Ok(Device::Cpu)
        }
        config::Device::Auto => Ok(open(0, config, model).unwrap_or_else(|error| {
            // Most machines have no such driver, and nobody expects one there.
            if !matches!(error.downcast_ref(), Some(OpenError::NoDriver)) {
                let error = format!("{error:#}");
                tracing::warn!(
                    error,
                    "the GPU is not used, the CPU computes; `--device cpu` says that this is meant"
                );
            }
            Device::Cpu
        })),
    }
}

fn open(index: usize, config: &ServeConfig, model: &Model) -> anyhow::Result<Device> {
    let gpu = Gpu::open(index)?;
    let share = Share::of(config.gpu_memory_fraction).context("the share of the GPU's memory is none")?;
    let room = CudaBackend::room(&gpu, model, share, config.max_num_batched_tokens)?;
    tracing::info!(gpu = gpu.name(), index, kv_cache_bytes = room, "computing on a GPU");
    Ok(Device::Cuda(Box::new(gpu), room))
}

/// A GPU's backend, and who hears when the GPU is lost: a process that can compute nothing more had better end, and be started anew.
pub(super) struct Watched {
    backend: CudaBackend,
    tell: Option<oneshot::Sender<String>>,
}

impl Watched {
    pub(super) fn new(backend: CudaBackend) -> (Watched, oneshot::Receiver<String>) {
        let (tell, lost) = oneshot::channel();
        (Watched { backend, tell: Some(tell) }, lost)
    }
}

impl Backend for Watched {
    fn vocab_size(&self) -> usize {
        self.backend.vocab_size()
    }

    fn kv_blocks(&self) -> usize {
        self.backend.kv_blocks()
    }

    fn max_batch_tokens(&self) -> usize {
        self.backend.max_batch_tokens()
    }

    fn forward(&mut self, chunks: &[Chunk<'_>], logits: &mut Logits) -> Result<(), BackendError> {
        let done = self.backend.forward(chunks, logits);
        if let Err(BackendError::Lost(why)) = &done
            && let Some(tell) = self.tell.take()
        {
            // Without a receiver nobody serves any more.
            let _ = tell.send(why.clone());
        }
        done
    }
}
