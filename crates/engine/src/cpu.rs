//! The backend that computes on CPU cores.
//!
//! The forward pass reads like the architecture: embed; per layer norm, QKV, rotate, store, attend, project, norm, gated
//! feed-forward; final norm and output projection for the rows that need logits. It has no per-architecture code: every
//! difference is data in [`ModelConfig`]. Rows are independent but for attention, and every kernel adds in one fixed order, so
//! logits do not depend on the batch, the chunking, the blocks or the number of threads.

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
mod rope;
mod spread;
mod weights;

use std::time::Duration;

use half::vec::HalfBitsVecExt as _;
use wharf_kernels::{Isa, Store, Team, matmul, ops};
use wharf_model::{Model, ModelConfig};

use crate::backend::{BLOCK_TOKENS, Backend, BackendError, Chunk, Logits};
use kv::KvArena;
use kv_type::Kv;
pub use kv_type::KvType;
use layer::Buffers;
pub use pack_cache::{PackCache, PackCheck, PackFault};
pub use pinning::Pinning;
use pinning::{available_cpus, pin_caller, pin_workers};
use plan::Plan;
use profile::Profile;
pub use profile::Step;
use rope::Rotations;
use weights::CpuWeights;
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
    config: ModelConfig,
    weights: CpuWeights,
    kv: Kv,
    kv_blocks: usize,
    team: Team,
    isa: Isa,
    max_batch_tokens: usize,
    buffers: Buffers,
    rotations: Vec<Rotations>,
    profile: Profile,
    /// The CPU of the thread that calls [`Backend::forward`], until its first call.
    caller_cpu: Option<usize>,
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
        let Model { config, weights, .. } = model;
        if config.head_dim > layer::MAX_HEAD_DIM {
            return Err(LoadError::HeadTooLarge { head_dim: config.head_dim, most: layer::MAX_HEAD_DIM });
        }
        let team = Team::new(options.threads);
        let caller_cpu = match options.pinning {
            Pinning::Off => None,
            Pinning::On => pin_workers(&team),
        };
        let source = loader::Source { config: &config, weights: &weights, team: &team };
        let packed = loader::load(source, options.pack_cache.as_ref(), progress)?;
        drop(weights);
        let kv_blocks = options.kv_tokens.div_ceil(BLOCK_TOKENS);
        reserve_kv(&config, kv_blocks, options.kv_type)?;
        let kv = match options.kv_type {
            // Zeroed integers come from the allocator untouched; zeroed `f16` would be written one by one.
            KvType::F16 => {
                Kv::F16(KvArena::new(|len| vec![0u16; len].reinterpret_into(), kv_blocks, &config))
            }
            KvType::F32 => Kv::F32(KvArena::new(|len| vec![0.0; len], kv_blocks, &config)),
            KvType::Int8 => Kv::Int8(KvArena::new(|len| vec![0; len], kv_blocks, &config)),
        };
        let rotations = config.ropes.iter().map(|_| Rotations::default()).collect();
        Ok(CpuBackend {
            weights: packed,
            kv,
            kv_blocks,
            buffers: Buffers::new(&config, team.threads()),
            config,
            team,
            isa: options.isa,
            max_batch_tokens: options.max_batch_tokens,
            rotations,
            profile: Profile::default(),
            caller_cpu,
        })
    }

    /// Bytes of packed weights, in memory of our own or mapped.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Starts telling the time of each step of a pass, which costs a few microseconds a pass.
    pub fn profile(&mut self) {
        self.profile.on = true;
    }

    /// Time spent in each step since the last call; nothing without [`CpuBackend::profile`].
    pub fn take_profile(&mut self) -> Vec<(Step, Duration)> {
        self.profile.take()
    }

    /// Refuses what the pass could only panic over.
    fn check(&self, chunks: &[Chunk<'_>]) -> Result<(), BackendError> {
        let invalid = |message: String| Err(BackendError::InvalidBatch(message));
        let total: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        if total > self.max_batch_tokens {
            return invalid(format!("{total} tokens, more than max_batch_tokens {}", self.max_batch_tokens));
        }
        for chunk in chunks {
            if chunk.tokens.is_empty() {
                return invalid("a chunk has no tokens".into());
            }
            if let Some(token) = chunk.tokens.iter().find(|token| **token as usize >= self.config.vocab_size)
            {
                return invalid(format!(
                    "token {token} is outside the vocabulary of {}",
                    self.config.vocab_size
                ));
            }
            let end = chunk.start + chunk.tokens.len();
            if chunk.blocks.len() * BLOCK_TOKENS < end {
                return invalid(format!("{} blocks do not hold {end} positions", chunk.blocks.len()));
            }
            if let Some(block) = chunk.blocks.iter().find(|block| block.0 as usize >= self.kv_blocks) {
                return invalid(format!("there is no KV block {}", block.0));
            }
        }
        Ok(())
    }
}

/// Whether the system would give the KV memory: allocating what it would not ends the process.
fn reserve_kv(config: &ModelConfig, blocks: usize, kv_type: KvType) -> Result<(), LoadError> {
    let tokens = blocks.saturating_mul(BLOCK_TOKENS);
    let bytes = tokens.saturating_mul(kv_type.bytes_per_token(config));
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|source| LoadError::KvMemory { bytes, tokens, source })
}

impl Backend for CpuBackend {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn kv_blocks(&self) -> usize {
        self.kv_blocks
    }

    fn max_batch_tokens(&self) -> usize {
        self.max_batch_tokens
    }

    fn forward(&mut self, chunks: &[Chunk<'_>], logits: &mut Logits) -> Result<(), BackendError> {
        self.check(chunks)?;
        if let Some(cpu) = self.caller_cpu.take() {
            pin_caller(cpu);
        }
        let CpuBackend { config, weights, kv, team, isa, buffers, rotations, profile, .. } = self;
        let profile = &*profile;
        let (isa, hidden) = (*isa, config.hidden_size);

        let plan = Plan::new(chunks, config, team.threads());
        if let Some(twice) = plan.writes().windows(2).find(|pair| pair[0].block == pair[1].block) {
            let block = twice[0].block.0;
            return Err(BackendError::InvalidBatch(format!("two chunks write KV block {block}")));
        }
        for (rotations, rope) in rotations.iter_mut().zip(&config.ropes) {
            rotations.fill(rope, plan.positions());
        }
        let tokens: Vec<u32> = chunks.iter().flat_map(|chunk| chunk.tokens).copied().collect();
        buffers.resize(tokens.len());
        profile.time(Step::Embed, || {
            team.for_each_chunk(&mut buffers.x, hidden, 8, &|row, x| {
                weights.embed(tokens[row], x);
                if config.embedding_scale != 1.0 {
                    ops::scale(isa, x, config.embedding_scale);
                }
            });
        });

        for index in 0..config.layers.len() {
            let context = layer::Context { config, isa, team, plan: &plan, rotations, profile, index };
            match kv {
                Kv::F16(kv) => context.run(&weights.layers[index], kv, buffers),
                Kv::F32(kv) => context.run(&weights.layers[index], kv, buffers),
                Kv::Int8(kv) => context.run(&weights.layers[index], kv, buffers),
            }
        }

        let rows = plan.logit_rows();
        logits.vocab_size = config.vocab_size;
        logits.data.resize(rows.len() * config.vocab_size, 0.0);
        if rows.is_empty() {
            return Ok(());
        }
        let Buffers { input, x, .. } = buffers;
        let (output, norm) = (&weights.output, &weights.output_norm);
        profile.time(Step::Logits, || {
            input.fill_with(isa, team, rows.len(), hidden, output.input(), &|index, to| {
                ops::rms_norm(isa, &x[rows[index] * hidden..][..hidden], norm, config.norm_eps, to);
            });
            matmul(isa, team, input, output, &mut logits.data, config.vocab_size, Store::Set);
            team.for_each_chunk(&mut logits.data, config.vocab_size, 1, &|_, row| {
                if config.logit_scale != 1.0 {
                    ops::scale(isa, row, config.logit_scale);
                }
                if let Some(cap) = config.logit_softcap {
                    ops::softcap(isa, row, cap);
                }
            });
        });
        Ok(())
    }
}
