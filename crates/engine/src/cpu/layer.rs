//! One decoder layer over all rows of a pass.

use wharf_kernels::attention::{KvElement, write_kv};
use wharf_kernels::{
    Input, Isa, Made, PANEL, Results, Store, Team, matmul, matmul_gated, matmul_outputs, ops,
};
use wharf_model::ModelConfig;
use wharf_model::config::{Activation, RopeLayout};

use crate::backend::{BackendError, grow};
use crate::ranks::Chains;
use crate::rope::Rotations;

use super::attend::{Attention, Lane};
use super::kv::KvArena;
use super::plan::Plan;
use super::profile::{Profile, Step};
use super::spread::spread;
use super::watch::{Matrix, Rows, Watch};
use super::weights::{LayerWeights, Linear};

/// Activations of a pass, kept from pass to pass. Rows are tokens.
pub(super) struct Buffers {
    /// Residual stream: `(rows, hidden)`.
    pub(super) x: Vec<f32>,
    /// A block's output where a norm or a bias stands between it and the residual stream: `(rows, hidden)`.
    pub(super) branch: Vec<f32>,
    /// What a block works with: of attention `(rows, q + k + v)` and then `(rows, n_heads * head_dim)`; later the feed-forward
    /// layer's activations of some rows, `(FFN_ROWS, ffn)`. During a pass it is the memory of the logits that end it.
    pub(super) block: Vec<f32>,
    /// What the matrix product at hand reads.
    pub(super) input: Input,
    /// Who is shown that.
    pub(super) watch: Watch,
    /// Ties to the ranks that hold the other heads and the rest of the feed-forward layer, where there are some.
    pub(super) chains: Option<Chains>,
    lanes: Vec<Lane>,
    partials: Vec<f32>,
    widths: Widths,
}

/// Row lengths.
#[derive(Clone, Copy)]
struct Widths {
    hidden: usize,
    qkv: usize,
    attended: usize,
    ffn: usize,
}

impl Buffers {
    pub(super) fn new(config: &ModelConfig, threads: usize) -> Buffers {
        let attended = config.n_heads * config.head_dim;
        Buffers {
            x: Vec::new(),
            branch: Vec::new(),
            block: Vec::new(),
            input: Input::new(),
            watch: Watch::default(),
            chains: None,
            lanes: (0..threads).map(|_| Lane::default()).collect(),
            partials: Vec::new(),
            widths: Widths {
                hidden: config.hidden_size,
                qkv: attended + 2 * config.n_kv_heads * config.head_dim,
                attended,
                ffn: config.ffn_size,
            },
        }
    }

    pub(super) fn resize(&mut self, rows: usize) {
        let Widths { hidden, qkv, attended, ffn } = self.widths;
        self.x.resize(rows * hidden, 0.0);
        grow(&mut self.block, (rows * (qkv + attended)).max(rows.min(FFN_ROWS) * ffn));
    }
}

/// The residual stream, and what is needed on the way to it.
struct Stream<'a> {
    input: &'a mut Input,
    branch: &'a mut Vec<f32>,
    chains: &'a mut Option<Chains>,
    x: &'a mut [f32],
}

/// Rows that a thread claims at once in row-wise work.
const ROWS: usize = 4;

/// Rows that go through the feed-forward layer together: a multiple of what a claim of a product covers on every instruction
/// set, and few enough that what is between its two products stays in a cache.
pub(super) const FFN_ROWS: usize = 384;

/// Everything about a layer but its weights and memory.
pub(super) struct Context<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) isa: Isa,
    pub(super) team: &'a Team,
    pub(super) plan: &'a Plan,
    pub(super) rotations: &'a [Rotations],
    pub(super) profile: &'a Profile,
    /// Counted over the stage.
    pub(super) index: usize,
    /// Counted over the model.
    pub(super) number: usize,
}

impl Context<'_> {
    /// # Errors
    /// When another rank is gone.
    pub(super) fn run<T: KvElement>(
        &self,
        weights: &LayerWeights,
        kv: &mut KvArena<T>,
        b: &mut Buffers,
    ) -> Result<(), BackendError> {
        let Buffers { x, branch, block, input, watch, chains, lanes, partials, widths } = b;
        let Widths { hidden, qkv: qkv_width, attended, ffn } = *widths;
        let rows = self.plan.rows();
        let (time, number) = (self.profile, Some(self.number));
        let (qkv, rest) = block.split_at_mut(rows * qkv_width);
        let from = &mut rest[..rows * attended];
        let normed = Rows {
            rows,
            width: hidden,
            make: &|row, to| self.norm(&x[row * hidden..], &weights.attn_norm, to),
        };
        watch.see(self.team, number, Matrix::Qkv, &normed);
        time.time(Step::Qkv, || self.linear(&weights.qkv, normed, input, qkv));
        time.time(Step::Rotate, || self.rotate::<T>(weights, qkv, qkv_width));
        time.time(Step::Store, || self.store(kv, qkv, qkv_width));
        let attention = Attention {
            config: self.config,
            isa: self.isa,
            team: self.team,
            plan: self.plan,
            kv,
            layer: self.index,
            qkv,
        };
        time.time(Step::Attend, || attention.run(lanes, partials, from));
        let attended = Rows {
            rows,
            width: attended,
            make: &|row, to| to.copy_from_slice(&from[row * attended..][..attended]),
        };
        watch.see(self.team, number, Matrix::O, &attended);
        time.time(Step::Project, || {
            let to = Stream { input, branch, chains, x };
            self.residual(&weights.o, &weights.post_attn_norm, attended, to)
        })?;

        let act = match self.config.activation {
            Activation::Silu => ops::silu_mul,
            Activation::GeluTanh => ops::gelu_tanh_mul,
            Activation::GeluErf => ops::gelu_erf_mul,
        };
        let (gate_up, gated) = (&weights.gate_up, &mut block[..]);
        for x in x.chunks_mut(FFN_ROWS * hidden) {
            let rows = x.len() / hidden;
            let normed = Rows {
                rows,
                width: hidden,
                make: &|row, to| self.norm(&x[row * hidden..], &weights.ffn_norm, to),
            };
            watch.see(self.team, number, Matrix::GateUp, &normed);
            time.time(Step::GateUp, || {
                input.fill_with(self.isa, self.team, rows, hidden, gate_up.input(), normed.make);
                matmul_gated(self.isa, self.team, input, gate_up, act, gated, ffn);
            });
            let gated =
                Rows { rows, width: ffn, make: &|row, to| to.copy_from_slice(&gated[row * ffn..][..ffn]) };
            watch.see(self.team, number, Matrix::Down, &gated);
            time.time(Step::Down, || {
                let to = Stream { input, branch, chains, x };
                self.residual(&weights.down, &weights.post_ffn_norm, gated, to)
            })?;
        }
        Ok(())
    }

    /// `to = norm(x) * weight`; `x` begins with the row.
    fn norm(&self, x: &[f32], weight: &[f32], to: &mut [f32]) {
        ops::rms_norm(self.isa, &x[..weight.len()], weight, self.config.norm_eps, to);
    }

    /// `out = x W^T + bias`.
    fn linear(&self, linear: &Linear, x: Rows<'_>, input: &mut Input, out: &mut [f32]) {
        self.product(linear, x, input, out, Store::Set);
        self.add_bias(linear, out);
    }

    /// `out = x W^T`, or `out += x W^T`.
    fn product(&self, linear: &Linear, x: Rows<'_>, input: &mut Input, out: &mut [f32], store: Store) {
        input.fill_with(self.isa, self.team, x.rows, x.width, linear.matrix.input(), x.make);
        matmul(self.isa, self.team, input, &linear.matrix, out, linear.matrix.n(), store);
    }

    fn add_bias(&self, linear: &Linear, out: &mut [f32]) {
        if !linear.bias.is_empty() {
            let n = linear.matrix.n();
            self.team.for_each_chunk(out, n, ROWS, &|_, row| ops::add_assign(self.isa, row, &linear.bias));
        }
    }

    /// `branch = x W^T`, where every rank has some columns of both and goes on from the sums of the one before.
    fn chained(
        &self,
        linear: &Linear,
        x: Rows<'_>,
        input: &mut Input,
        branch: &mut [f32],
        chains: &mut Chains,
    ) -> Result<(), BackendError> {
        let (matrix, width) = (&linear.matrix, linear.matrix.n());
        // As many rows as ranks have room for.
        for (chunk, branch) in branch.chunks_mut(FFN_ROWS * width).enumerate() {
            let make = |row: usize, to: &mut [f32]| (x.make)(chunk * FFN_ROWS + row, to);
            let rows = Made { rows: branch.len() / width, k: x.width, make: &make, largest: &[] };
            let mut largest = Vec::new();
            if matrix.input().whole_rows() {
                largest = rows.largest(self.isa, self.team);
                chains.ranks.largest(&mut largest)?;
            }
            input.fill_made(self.isa, self.team, matrix.input(), Made { largest: &largest, ..rows });
            chains.run(branch, width, PANEL, &mut |outputs, piece| {
                let results = Results { stride: outputs.len(), y: piece, store: Store::Continue };
                matmul_outputs(self.isa, self.team, input, matrix, outputs, results);
            })?;
        }
        Ok(())
    }

    /// `stream += x W^T + bias`, with the architecture's norm in between if it has one.
    fn residual(
        &self,
        linear: &Linear,
        norm: &[f32],
        x: Rows<'_>,
        to: Stream<'_>,
    ) -> Result<(), BackendError> {
        let Stream { input, branch, chains, x: stream } = to;
        if norm.is_empty() && linear.bias.is_empty() && chains.is_none() {
            self.product(linear, x, input, stream, Store::Add);
            return Ok(());
        }
        branch.resize(stream.len(), 0.0);
        match chains {
            Some(chains) => self.chained(linear, x, input, branch, chains)?,
            None => self.product(linear, x, input, branch, Store::Set),
        }
        self.add_bias(linear, branch);
        let width = self.config.hidden_size;
        self.team.for_each_chunk(stream, width, ROWS, &|row, stream| {
            let branch = &branch[row * width..][..width];
            if norm.is_empty() {
                return ops::add_assign(self.isa, stream, branch);
            }
            let mut normed = vec![0.0; width];
            self.norm(branch, norm, &mut normed);
            ops::add_assign(self.isa, stream, &normed);
        });
        Ok(())
    }

    /// Norms Q and K heads where the architecture does, rotates them, scales Q, and spreads all where KV is rounded to bytes.
    fn rotate<T: KvElement>(&self, weights: &LayerWeights, qkv: &mut [f32], width: usize) {
        let ModelConfig { n_heads, n_kv_heads, head_dim, norm_eps, attn_scale, .. } = *self.config;
        let rotations = &self.rotations[self.config.layers[self.index].rope];
        let layout = match self.config.rope_layout {
            RopeLayout::Halves => ops::RopeLayout::Halves,
            RopeLayout::Interleaved => ops::RopeLayout::Interleaved,
        };
        self.team.for_each_chunk(qkv, width, ROWS, &|row, qkv| {
            let (cos, sin) = rotations.at(row);
            let (q, kv) = qkv.split_at_mut(n_heads * head_dim);
            let heads = q.chunks_mut(head_dim).map(|head| (head, &weights.q_norm));
            let keys = kv[..n_kv_heads * head_dim].chunks_mut(head_dim).map(|head| (head, &weights.k_norm));
            let mut normed = [0.0; MAX_HEAD_DIM];
            for (head, norm) in heads.chain(keys) {
                if !norm.is_empty() {
                    ops::rms_norm(self.isa, head, norm, norm_eps, &mut normed[..head_dim]);
                    head.copy_from_slice(&normed[..head_dim]);
                }
                ops::rope(self.isa, head, cos, sin, layout);
            }
            ops::scale(self.isa, q, attn_scale);
            if T::SCALED {
                qkv.chunks_exact_mut(head_dim).for_each(spread);
            }
        });
    }

    /// Writes K and V of every row to its slot; blocks are written by one thread each.
    fn store<T: KvElement>(&self, kv: &mut KvArena<T>, qkv: &[f32], width: usize) {
        let ModelConfig { n_heads, n_kv_heads, head_dim, .. } = *self.config;
        let writes = self.plan.writes();
        let mut layers = kv.layer_mut(writes.iter().map(|write| write.block), self.index);
        self.team.for_each_chunk(&mut layers, 1, 1, &|index, layer| {
            for (row, slot) in &writes[index].rows {
                let kv_row = &qkv[row * width + n_heads * head_dim..][..2 * n_kv_heads * head_dim];
                let (k, v) = kv_row.split_at(n_kv_heads * head_dim);
                for (head, (k, v)) in k.chunks(head_dim).zip(v.chunks(head_dim)).enumerate() {
                    write_kv(self.isa, layer[0].page(head), *slot, k, v);
                }
            }
        });
    }
}

/// Largest head that the norm of Q and K supports; checked when a model is loaded.
pub(super) const MAX_HEAD_DIM: usize = 1024;
