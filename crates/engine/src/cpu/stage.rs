//! Decides how one part of a model computes: embed if it has the front; per layer norm, QKV, rotate, store, attend, project,
//! norm, gated feed-forward; final norm and output projection for the rows that need logits if it has the back.
//!
//! It has no per-architecture code: every difference is data in [`ModelConfig`]. Rows are independent but for attention, and
//! every kernel adds in one fixed order, so what leaves does not depend on the batch, the chunking, the blocks or the number of
//! threads, and stages that follow each other leave what one stage over all layers leaves, to the bit.

use std::ops::Range;
use std::time::Duration;

use half::vec::HalfBitsVecExt as _;
use wharf_kernels::{Isa, PANEL, Store, Team, matmul, ops};
use wharf_model::{Model, ModelConfig};

use super::CpuOptions;
use super::kv::KvArena;
use super::kv_type::{Kv, KvType};
use super::layer::{self, Buffers};
use super::loader;
use super::pinning::{Pinning, pin_caller, pin_workers};
use super::plan::Plan;
use super::profile::{Profile, Step};

use super::share::{Shard, Share};
use super::watch::{Matrix, Observer, Rows};
use super::weights::{CpuWeights, LoadError};
use crate::backend::{BLOCK_TOKENS, BackendError, Chunk, Logits, check_chunks};
use crate::ranks::{Chains, Ranks};
use crate::rope::Rotations;

/// What enters a stage beside the chunks.
#[derive(Clone, Copy, Debug)]
pub enum Entering<'a> {
    /// Nothing: the stage embeds the chunks' tokens.
    Tokens,
    /// What the stage before has left: `(rows, hidden)`, a row for each token of the chunks.
    Hidden(&'a [f32]),
}

/// Some consecutive layers of a model, with their KV memory and threads.
pub struct CpuStage {
    /// Of these layers alone.
    config: ModelConfig,
    share: Share,
    shard: Option<Shard>,
    weights: CpuWeights,
    kv: Kv,
    kv_blocks: usize,
    team: Team,
    isa: Isa,
    max_batch_tokens: usize,
    buffers: Buffers,
    rotations: Vec<Rotations>,
    profile: Profile,
    /// The CPU of the thread that calls [`CpuStage::forward`], until its first call.
    caller_cpu: Option<usize>,
}

impl CpuStage {
    /// Takes over the weights of a part of a model. `progress(done, total)` hears of every layer.
    ///
    /// # Errors
    /// When the model has no such part, a weight is missing or malformed, or a head is too large.
    pub fn load(
        model: &Model,
        share: Share,
        options: &CpuOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<CpuStage, LoadError> {
        CpuStage::load_part(model, share, None, options, progress)
    }

    /// Takes over one rank's part of every layer and of the ends; `ranks` ties it to the others. Only rank 0 has logits.
    ///
    /// # Errors
    /// As [`CpuStage::load`].
    pub fn load_rank(
        model: &Model,
        shard: Shard,
        ranks: Box<dyn Ranks>,
        options: &CpuOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<CpuStage, LoadError> {
        let share = Share::whole(&model.config);
        let mut stage = CpuStage::load_part(model, share, Some(shard), options, progress)?;
        stage.buffers.chains = Some(Chains::new(ranks));
        Ok(stage)
    }

    fn load_part(
        model: &Model,
        share: Share,
        shard: Option<Shard>,
        options: &CpuOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<CpuStage, LoadError> {
        if !share.fits(&model.config) {
            return Err(LoadError::Share { layers: share.layers, of: model.config.layers.len() });
        }
        let config = share.config(&model.config);
        let config = shard.as_ref().map_or_else(|| config.clone(), |shard| shard.mine().config(&config));
        if config.head_dim > layer::MAX_HEAD_DIM {
            return Err(LoadError::HeadTooLarge { head_dim: config.head_dim, most: layer::MAX_HEAD_DIM });
        }
        let team = Team::new(options.threads);
        let caller_cpu = match options.pinning {
            Pinning::Off => None,
            Pinning::On => pin_workers(&team),
        };
        let source = loader::Source {
            config: &model.config,
            weights: &model.weights,
            share: &share,
            shard: shard.as_ref(),
            team: &team,
        };
        let weights = loader::load(source, options.pack_cache.as_ref(), progress)?;
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
        Ok(CpuStage {
            weights,
            kv,
            kv_blocks,
            buffers: Buffers::new(&config, team.threads()),
            config,
            share,
            shard,
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

    /// Shape and arithmetic of the stage: the model's, with the stage's layers alone.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Which part of the model it is.
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// KV blocks that it has memory for.
    pub fn kv_blocks(&self) -> usize {
        self.kv_blocks
    }

    /// What has been stored, for tests of how.
    #[cfg(test)]
    pub(super) fn kv(&self) -> &Kv {
        &self.kv
    }

    /// Most tokens of one pass, over all chunks.
    pub fn max_batch_tokens(&self) -> usize {
        self.max_batch_tokens
    }

    /// Starts telling the time of each step of a pass, which costs a few microseconds a pass.
    pub fn profile(&mut self) {
        self.profile.on = true;
    }

    /// Time spent in each step since the last call; nothing without [`CpuStage::profile`].
    pub fn take_profile(&mut self) -> Vec<(Step, Duration)> {
        self.profile.take()
    }

    /// Shows `observer` what every matrix product of later passes reads. It changes no bit of what is computed, only how long
    /// that takes. There is one observer at a time.
    pub fn observe(&mut self, observer: Observer) {
        self.buffers.watch.observer = Some(observer);
    }

    /// Ends [`CpuStage::observe`].
    pub fn stop_observing(&mut self) {
        self.buffers.watch.observer = None;
    }

    /// Rows as the last layer of the latest pass has left them: `(rows, hidden)`.
    pub fn leaving(&self) -> &[f32] {
        &self.buffers.x
    }

    /// Computes all chunks and writes their KV. A stage that predicts leaves the wanted logits in `logits`, any other none.
    ///
    /// # Errors
    /// When the caller has broken the contract of [`Chunk`], or what enters is not what this stage reads.
    pub fn forward(
        &mut self,
        chunks: &[Chunk<'_>],
        entering: Entering<'_>,
        logits: &mut Logits,
    ) -> Result<(), BackendError> {
        self.check(chunks, entering)?;
        if let Some(cpu) = self.caller_cpu.take() {
            pin_caller(cpu);
        }
        let plan = Plan::new(chunks, &self.config, self.team.threads());
        if let Some(twice) = plan.writes().windows(2).find(|pair| pair[0].block == pair[1].block) {
            let block = twice[0].block.0;
            return Err(BackendError::InvalidBatch(format!("two chunks write KV block {block}")));
        }
        for (rotations, rope) in self.rotations.iter_mut().zip(&self.config.ropes) {
            rotations.fill(rope, plan.positions());
        }
        // Of a wide vocabulary a few rows are as large as what layers work with, and there is never both.
        std::mem::swap(&mut self.buffers.block, logits.lend());
        let outcome = self.pass(&plan, chunks, entering);
        std::mem::swap(&mut self.buffers.block, logits.lend());
        outcome?;
        self.predict(plan.logit_rows(), logits)
    }

    /// From what enters to what leaves the last layer.
    fn pass(
        &mut self,
        plan: &Plan,
        chunks: &[Chunk<'_>],
        entering: Entering<'_>,
    ) -> Result<(), BackendError> {
        self.buffers.resize(plan.rows());
        match entering {
            Entering::Tokens => self.embed(chunks)?,
            Entering::Hidden(rows) => self.buffers.x.copy_from_slice(rows),
        }
        self.run_layers(plan)
    }

    fn embed(&mut self, chunks: &[Chunk<'_>]) -> Result<(), BackendError> {
        let CpuStage { config, weights, team, isa, buffers, profile, .. } = self;
        let tokens: Vec<u32> = chunks.iter().flat_map(|chunk| chunk.tokens).copied().collect();
        let width = config.hidden_size;
        let embed = |to: &mut [f32]| {
            team.for_each_chunk(to, width, 8, &|row, x| {
                if !weights.holds(tokens[row]) {
                    return;
                }
                weights.embed(tokens[row], x);
                if config.embedding_scale != 1.0 {
                    ops::scale(*isa, x, config.embedding_scale);
                }
            });
        };
        let Buffers { chains, x, branch, .. } = buffers;
        profile.time(Step::Embed, || {
            let Some(chains) = chains else {
                embed(x);
                return Ok(());
            };
            branch.resize(x.len(), 0.0);
            embed(branch);
            // One rank has each token: what is passed on is its row, which nobody adds to.
            let most = layer::FFN_ROWS * width;
            for (chunk, (x, own)) in x.chunks_mut(most).zip(branch.chunks(most)).enumerate() {
                let tokens = &tokens[chunk * layer::FFN_ROWS..];
                chains.run(x, width, PANEL, &mut |outputs, piece| {
                    let rows = piece.chunks_exact_mut(outputs.len()).zip(own.chunks_exact(width));
                    for ((to, own), token) in rows.zip(tokens) {
                        if weights.holds(*token) {
                            to.copy_from_slice(&own[outputs.clone()]);
                        }
                    }
                })?;
            }
            Ok(())
        })
    }

    fn run_layers(&mut self, plan: &Plan) -> Result<(), BackendError> {
        let CpuStage { config, share, weights, kv, team, isa, buffers, rotations, profile, .. } = self;
        for (index, weights) in weights.layers.iter().enumerate() {
            let number = share.layers.start + index;
            let context = layer::Context { config, isa: *isa, team, plan, rotations, profile, index, number };
            match kv {
                Kv::F16(kv) => context.run(weights, kv, buffers)?,
                Kv::F32(kv) => context.run(weights, kv, buffers)?,
                Kv::Int8(kv) => context.run(weights, kv, buffers)?,
            }
        }
        Ok(())
    }

    fn predict(&mut self, rows: &[usize], logits: &mut Logits) -> Result<(), BackendError> {
        let CpuStage { config, shard, weights, team, isa, buffers, profile, .. } = self;
        let (isa, hidden) = (*isa, config.hidden_size);
        let Some(head) = weights.head.as_ref().filter(|_| !rows.is_empty()) else {
            logits.reset(0, config.vocab_size);
            return Ok(());
        };
        let width = head.output.n();
        let Buffers { input, x, watch, chains, .. } = buffers;
        let normed = Rows {
            rows: rows.len(),
            width: hidden,
            make: &|index, to| {
                ops::rms_norm(isa, &x[rows[index] * hidden..][..hidden], &head.norm, config.norm_eps, to);
            },
        };
        watch.see(team, None, Matrix::Output, &normed);
        profile.time(Step::Logits, || {
            let values = logits.reset(rows.len(), width);
            input.fill_with(isa, team, normed.rows, hidden, head.output.input(), normed.make);
            matmul(isa, team, input, &head.output, values, width, Store::Set);
            team.for_each_chunk(values, width, 1, &|_, row| {
                if config.logit_scale != 1.0 {
                    ops::scale(isa, row, config.logit_scale);
                }
                if let Some(cap) = config.logit_softcap {
                    ops::softcap(isa, row, cap);
                }
            });
            match (chains, shard) {
                (Some(chains), Some(shard)) => {
                    gather(&mut *chains.ranks, shard, (rows.len(), config.vocab_size), logits)
                }
                (None, _) | (_, None) => Ok(()),
            }
        })
    }

    /// Refuses what a pass could only panic over.
    ///
    /// # Errors
    /// When the caller has broken the contract of [`Chunk`], or what enters is not what this stage reads.
    pub fn check(&self, chunks: &[Chunk<'_>], entering: Entering<'_>) -> Result<(), BackendError> {
        check_chunks(chunks, self.config.vocab_size, self.kv_blocks, self.max_batch_tokens)?;
        let invalid = |message: String| Err(BackendError::InvalidBatch(message));
        let total: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        match (entering, self.share.embeds) {
            (Entering::Tokens, true) => Ok(()),
            (Entering::Hidden(rows), false) if rows.len() == total * self.config.hidden_size => Ok(()),
            (Entering::Tokens, false) => invalid("the stage does not embed tokens".into()),
            (Entering::Hidden(_), true) => invalid("the stage embeds its tokens itself".into()),
            (Entering::Hidden(rows), false) => {
                invalid(format!("{} values are not {total} rows of {}", rows.len(), self.config.hidden_size))
            }
        }
    }
}

/// Brings the logits of all ranks together: from `(rows, vocab of the rank)` to `(rows, vocab)` on rank 0, nothing elsewhere.
fn gather(
    ranks: &mut dyn Ranks,
    shard: &Shard,
    (rows, vocab_size): (usize, usize),
    logits: &mut Logits,
) -> Result<(), BackendError> {
    let vocabs: Vec<Range<usize>> = shard.plan.ranks.iter().map(|rank| rank.vocab.clone()).collect();
    let lens: Vec<usize> = vocabs.iter().map(|vocab| rows * vocab.len()).collect();
    let mut all = Vec::new();
    ranks.gather(logits.values(), &lens, &mut all)?;
    if shard.rank != 0 {
        logits.reset(0, vocab_size);
        return Ok(());
    }
    let values = logits.reset(rows, vocab_size);
    let mut parts = &all[..];
    for vocab in vocabs {
        let (part, rest) = parts.split_at(rows * vocab.len());
        parts = rest;
        for (row, part) in values.chunks_exact_mut(vocab_size).zip(part.chunks_exact(vocab.len())) {
            row[vocab.clone()].copy_from_slice(part);
        }
    }
    Ok(())
}

/// Whether the system would give the KV memory: allocating what it would not ends the process.
fn reserve_kv(config: &ModelConfig, blocks: usize, kv_type: KvType) -> Result<(), LoadError> {
    let tokens = blocks.saturating_mul(BLOCK_TOKENS);
    let bytes = tokens.saturating_mul(kv_type.bytes_per_token(config));
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|source| LoadError::KvMemory { bytes, tokens, source })
}

#[cfg(test)]
mod tests;
