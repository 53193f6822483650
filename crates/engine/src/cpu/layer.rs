//! One decoder layer over all rows of a pass.

use wharf_kernels::attention::{KvElement, write_kv};
use wharf_kernels::{Input, Isa, Team, matmul, ops};
use wharf_model::ModelConfig;
use wharf_model::config::{Activation, RopeLayout};

use super::attend::{Attention, Lane, Plan};
use super::kv::KvArena;
use super::rope::Rotations;
use super::weights::{LayerWeights, Linear};

/// Activations of a pass, kept from pass to pass. Rows are tokens.
pub(super) struct Buffers {
    /// Residual stream: `(rows, hidden)`.
    pub(super) x: Vec<f32>,
    /// A block's input after its norm, and its output before the residual add: `(rows, hidden)`.
    normed: Vec<f32>,
    branch: Vec<f32>,
    /// `(rows, q + k + v)`.
    qkv: Vec<f32>,
    /// `(rows, n_heads * head_dim)`.
    attended: Vec<f32>,
    /// `(rows, 2 * ffn)`: gate, then up.
    gate_up: Vec<f32>,
    /// `(rows, ffn)`.
    gated: Vec<f32>,
    /// What the matrix product at hand reads.
    pub(super) input: Input,
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
            normed: Vec::new(),
            branch: Vec::new(),
            qkv: Vec::new(),
            attended: Vec::new(),
            gate_up: Vec::new(),
            gated: Vec::new(),
            input: Input::new(),
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
        self.normed.resize(rows * hidden, 0.0);
        self.branch.resize(rows * hidden, 0.0);
        self.qkv.resize(rows * qkv, 0.0);
        self.attended.resize(rows * attended, 0.0);
        self.gate_up.resize(rows * 2 * ffn, 0.0);
        self.gated.resize(rows * ffn, 0.0);
    }
}

/// Rows that a thread claims at once in row-wise work.
const ROWS: usize = 4;

/// Everything about a layer but its weights and memory.
pub(super) struct Context<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) isa: Isa,
    pub(super) team: &'a Team,
    pub(super) plan: &'a Plan,
    pub(super) rotations: &'a [Rotations],
    pub(super) index: usize,
}

impl Context<'_> {
    pub(super) fn run<T: KvElement>(&self, weights: &LayerWeights, kv: &mut KvArena<T>, b: &mut Buffers) {
        let Widths { hidden, attended, ffn, .. } = b.widths;
        self.norm(&b.x, &weights.attn_norm, &mut b.normed);
        self.linear(&weights.qkv, &b.normed, hidden, &mut b.input, &mut b.qkv);
        self.rotate(weights, &mut b.qkv, b.widths.qkv);
        self.store(kv, &b.qkv, b.widths.qkv);
        let attention = Attention {
            config: self.config,
            isa: self.isa,
            team: self.team,
            plan: self.plan,
            kv,
            layer: self.index,
            qkv: &b.qkv,
        };
        attention.run(&mut b.lanes, &mut b.partials, &mut b.attended);
        self.linear(&weights.o, &b.attended, attended, &mut b.input, &mut b.branch);
        self.add(&weights.post_attn_norm, &b.branch, &mut b.normed, &mut b.x);

        self.norm(&b.x, &weights.ffn_norm, &mut b.normed);
        self.linear(&weights.gate_up, &b.normed, hidden, &mut b.input, &mut b.gate_up);
        self.activate(&b.gate_up, &mut b.gated, ffn);
        self.linear(&weights.down, &b.gated, ffn, &mut b.input, &mut b.branch);
        self.add(&weights.post_ffn_norm, &b.branch, &mut b.normed, &mut b.x);
    }

    /// `out = norm(x) * weight`, row by row.
    fn norm(&self, x: &[f32], weight: &[f32], out: &mut [f32]) {
        let width = weight.len();
        self.team.for_each_chunk(out, width, ROWS, &|row, out| {
            ops::rms_norm(self.isa, &x[row * width..][..width], weight, self.config.norm_eps, out);
        });
    }

    /// `out = x W^T + bias`; `x: (rows, k)`.
    fn linear(&self, linear: &Linear, x: &[f32], k: usize, input: &mut Input, out: &mut [f32]) {
        let n = linear.matrix.n();
        input.fill(self.isa, self.team, x, self.plan.rows(), k, linear.matrix.input());
        matmul(self.isa, self.team, input, &linear.matrix, out, n);
        if !linear.bias.is_empty() {
            self.team.for_each_chunk(out, n, ROWS, &|_, row| ops::add_assign(self.isa, row, &linear.bias));
        }
    }

    /// Norms Q and K heads where the architecture does, rotates them, and scales Q.
    fn rotate(&self, weights: &LayerWeights, qkv: &mut [f32], width: usize) {
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

    /// `x += branch`, with the architecture's norm in between if it has one.
    fn add(&self, norm: &[f32], branch: &[f32], normed: &mut [f32], x: &mut [f32]) {
        let width = self.config.hidden_size;
        let branch = if norm.is_empty() {
            branch
        } else {
            self.norm(branch, norm, normed);
            normed
        };
        self.team.for_each_chunk(x, width, ROWS, &|row, x| {
            ops::add_assign(self.isa, x, &branch[row * width..][..width]);
        });
    }

    /// `gated = act(gate) * up`.
    fn activate(&self, gate_up: &[f32], gated: &mut [f32], ffn: usize) {
        let act = match self.config.activation {
            Activation::Silu => ops::silu_mul,
            Activation::GeluTanh => ops::gelu_tanh_mul,
            Activation::GeluErf => ops::gelu_erf_mul,
        };
        self.team.for_each_chunk(gated, ffn, ROWS, &|row, out| {
            let (gate, up) = gate_up[row * 2 * ffn..][..2 * ffn].split_at(ffn);
            act(self.isa, gate, up, out);
        });
    }
}

/// Largest head that the norm of Q and K supports; checked when a model is loaded.
pub(super) const MAX_HEAD_DIM: usize = 1024;
