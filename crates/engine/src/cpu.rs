//! The backend that computes on CPU cores.
//!
//! It is one [`CpuStage`] over all layers. Stages over some of them compute models whose layers are spread over processes, and
//! show calibration what each matrix reads.

mod attend;
mod kv;
mod kv_type;
mod layer;
mod loader;
mod pack_cache;
mod pieces;
mod pinning;
mod plan;
mod profile;
mod share;
mod spread;
mod stage;
mod watch;
mod weights;

use std::time::Duration;

use wharf_kernels::Isa;
use wharf_model::{Model, ModelConfig};

use crate::backend::{Backend, BackendError, Chunk, Logits};
pub use kv_type::KvType;
pub use pack_cache::{PackCache, PackCheck, PackFault};
pub use pinning::Pinning;
use pinning::available_cpus;
pub use profile::Step;
pub use share::{Shard, Share};
pub use stage::{CpuStage, Entering};
pub use watch::{Matrix, Observed, Observer};
pub use weights::LoadError;

/// How a CPU backend is set up.
#[derive(Clone, Debug)]
pub struct CpuOptions {
    /// Threads that compute.
    pub threads: usize,
    /// Where they run.
    pub pinning: Pinning,
    /// Instruction set.
    pub isa: Isa,
    /// Tokens that the KV memory holds, rounded up to whole blocks.
    pub kv_tokens: usize,
    /// Type of stored keys and values.
    pub kv_type: KvType,
    /// Most tokens of one pass.
    pub max_batch_tokens: usize,
    /// Where packed weights are kept for the next start; `None` packs them every time.
    pub pack_cache: Option<PackCache>,
}

impl Default for CpuOptions {
    fn default() -> Self {
        CpuOptions {
            threads: available_cpus(),
            pinning: Pinning::Off,
            isa: Isa::detect(),
            kv_tokens: 4096,
            kv_type: KvType::F16,
            max_batch_tokens: 512,
            pack_cache: None,
        }
    }
}

/// Weights, KV memory and threads.
pub struct CpuBackend {
    stage: CpuStage,
}

impl CpuBackend {
    /// Takes over a model's weights; the model's files are unmapped afterwards. `progress(done, total)` hears of every layer.
    ///
    /// # Errors
    /// When a weight is missing or malformed, or a head is too large.
    pub fn load(
        model: Model,
        options: &CpuOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<CpuBackend, LoadError> {
        let share = Share::whole(&model.config);
        Ok(CpuBackend { stage: CpuStage::load(&model, share, options, progress)? })
    }

    /// Bytes of packed weights, in memory of our own or mapped.
    pub fn weight_bytes(&self) -> usize {
        self.stage.weight_bytes()
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        self.stage.config()
    }

    /// Starts telling the time of each step of a pass, which costs a few microseconds a pass.
    pub fn profile(&mut self) {
        self.stage.profile();
    }

    /// Time spent in each step since the last call; nothing without [`CpuBackend::profile`].
    pub fn take_profile(&mut self) -> Vec<(Step, Duration)> {
        self.stage.take_profile()
    }

    /// The stage that computes, to be watched.
    pub fn stage_mut(&mut self) -> &mut CpuStage {
        &mut self.stage
    }
}

impl Backend for CpuBackend {
    fn vocab_size(&self) -> usize {
        self.stage.config().vocab_size
    }

    fn kv_blocks(&self) -> usize {
        self.stage.kv_blocks()
    }

    fn max_batch_tokens(&self) -> usize {
        self.stage.max_batch_tokens()
    }

    fn forward(&mut self, chunks: &[Chunk<'_>], logits: &mut Logits) -> Result<(), BackendError> {
        self.stage.forward(chunks, Entering::Tokens, logits)
    }
}
