//! The forward pass of a [`ModelConfig`] in a framework with automatic differentiation.
//!
//! It says the same as the engine's forward pass (tests compare them on every architecture) with whole sequences at once and no
//! cache. The output projection is left to the caller, who computes it in pieces: its gradient is known in closed form, and
//! logits of a whole batch would take more memory than everything else.

use std::collections::HashMap;

use burn_tensor::backend::Backend;
use burn_tensor::{Int, Shape, Tensor, TensorData, activation};
use wharf_model::config::Activation;
use wharf_model::{ModelConfig, Role};

use super::parameters::{Key, Parameters};

/// A model's weights on a device.
pub(super) struct Network<'c, B: Backend> {
    config: &'c ModelConfig,
    pub(super) weights: HashMap<Key, Tensor<B, 2>>,
    device: B::Device,
}

/// What a forward pass leaves.
pub(super) struct Hidden<B: Backend> {
    /// Input of the output projection, one row per token: `(sequences * length, hidden)`.
    pub(super) last: Tensor<B, 2>,
    /// The residual stream after each layer that was asked for, in ascending order.
    pub(super) after: Vec<Tensor<B, 2>>,
}

/// Sequences of one length, one after the other.
#[derive(Clone, Copy)]
pub(super) struct Batch<'t> {
    pub(super) tokens: &'t [u32],
    pub(super) length: usize,
}

/// Added to a score: exp of the sum is 0, and unlike minus infinity it has no NaN in its gradient.
const MASKED: f32 = -1e30;

impl<'c, B: Backend> Network<'c, B> {
    /// Copies weights to a device. `prepare` may make them require a gradient.
    pub(super) fn new(
        parameters: &'c Parameters,
        device: &B::Device,
        prepare: impl Fn(Tensor<B, 2>) -> Tensor<B, 2>,
    ) -> Network<'c, B> {
        let weights = parameters.list.iter().map(|parameter| {
            let data = TensorData::new(parameter.data.clone(), [parameter.rows, parameter.cols]);
            (parameter.key, prepare(Tensor::from_data(data.convert::<B::FloatElem>(), device)))
        });
        Network { config: &parameters.config, weights: weights.collect(), device: device.clone() }
    }

    fn weight(&self, layer: Option<usize>, role: Role) -> Tensor<B, 2> {
        self.optional(layer, role).expect("opening the model checked that every weight is there")
    }

    fn optional(&self, layer: Option<usize>, role: Role) -> Option<Tensor<B, 2>> {
        self.weights.get(&Key { layer, role }).cloned()
    }

    /// `(vocab, hidden)`.
    pub(super) fn output(&self) -> Tensor<B, 2> {
        let role = if self.config.tied_embeddings { Role::TokenEmbedding } else { Role::Output };
        self.weight(None, role)
    }

    /// Runs all layers; `wanted` are the layers whose output is kept, ascending.
    pub(super) fn forward(&self, batch: Batch<'_>, wanted: &[usize]) -> Hidden<B> {
        let config = self.config;
        let ids: Vec<i32> = batch.tokens.iter().map(|token| *token as i32).collect();
        let ids = Tensor::<B, 1, Int>::from_data(TensorData::new(ids, [batch.tokens.len()]), &self.device);
        let mut x = self.weight(None, Role::TokenEmbedding).select(0, ids);
        if config.embedding_scale != 1.0 {
            x = x.mul_scalar(config.embedding_scale);
        }
        let rotations: Vec<_> =
            (0..config.ropes.len()).map(|rope| self.rotation(rope, batch.length)).collect();
        let mut masks: Vec<(Option<usize>, Tensor<B, 3>)> = Vec::new();
        for window in config.layers.iter().map(|layer| layer.window) {
            if masks.iter().all(|(known, _)| *known != window) {
                masks.push((window, self.mask(batch.length, window)));
            }
        }
        let tables = Tables { rotations, masks };
        let mut after = Vec::new();
        for layer in 0..config.layers.len() {
            x = self.layer(layer, x, batch, &tables);
            if wanted.contains(&layer) {
                after.push(x.clone());
            }
        }
        Hidden { last: self.norm(x, self.weight(None, Role::OutputNorm)), after }
    }

    fn layer(&self, layer: usize, x: Tensor<B, 2>, batch: Batch<'_>, tables: &Tables<B>) -> Tensor<B, 2> {
        let config = self.config;
        let get = |role| self.weight(Some(layer), role);
        let y = self.attention(layer, self.norm(x.clone(), get(Role::AttnNorm)), batch, tables);
        let y = if config.post_norms { self.norm(y, get(Role::PostAttnNorm)) } else { y };
        let x = x + y;
        let y = self.norm(x.clone(), get(Role::FfnNorm));
        let gate = y.clone().matmul(get(Role::Gate).transpose());
        let up = y.matmul(get(Role::Up).transpose());
        let y = (activate(gate, config.activation) * up).matmul(get(Role::Down).transpose());
        let y = if config.post_norms { self.norm(y, get(Role::PostFfnNorm)) } else { y };
        x + y
    }

    fn attention(&self, layer: usize, x: Tensor<B, 2>, batch: Batch<'_>, tables: &Tables<B>) -> Tensor<B, 2> {
        let config = self.config;
        let (t, d) = (batch.length, config.head_dim);
        let b = batch.tokens.len() / t;
        let (groups, kv) = (config.n_heads / config.n_kv_heads, config.n_kv_heads);
        let project = |role, bias| {
            let y = x.clone().matmul(self.weight(Some(layer), role).transpose());
            match self.optional(Some(layer), bias) {
                Some(bias) => y + bias,
                None => y,
            }
        };
        // (sequences, heads, length, head)
        let heads = |y: Tensor<B, 2>, n: usize, head_norm: Option<Role>| {
            let y = match head_norm.filter(|_| config.qk_norm) {
                Some(role) => {
                    self.norm(y.reshape([b * t * n, d]), self.weight(Some(layer), role)).reshape([b, t, n, d])
                }
                None => y.reshape([b, t, n, d]),
            };
            y.swap_dims(1, 2)
        };
        let rotation = &tables.rotations[config.layers[layer].rope];
        let q = rotation.apply(heads(project(Role::Q, Role::QBias), config.n_heads, Some(Role::QNorm)));
        let k = rotation.apply(heads(project(Role::K, Role::KBias), kv, Some(Role::KNorm)));
        let v = heads(project(Role::V, Role::VBias), kv, None);
        // The query heads of one key head are more rows of the same product.
        let q = q.mul_scalar(config.attn_scale).reshape([b * kv, groups * t, d]);
        let (k, v) = (k.reshape([b * kv, t, d]), v.reshape([b * kv, t, d]));
        let mut scores = q.matmul(k.swap_dims(1, 2));
        if let Some(cap) = config.attn_softcap {
            scores = scores.div_scalar(cap).tanh().mul_scalar(cap);
        }
        let weights = activation::softmax(scores + tables.mask(config.layers[layer].window), 2);
        let y = weights.matmul(v).reshape([b, config.n_heads, t, d]).swap_dims(1, 2);
        let y = y.reshape([b * t, config.n_heads * d]).matmul(self.weight(Some(layer), Role::O).transpose());
        match self.optional(Some(layer), Role::OBias) {
            Some(bias) => y + bias,
            None => y,
        }
    }

    /// What is added to the scores of the queries (rows) of one key head: `(1, groups * length, length)`. One for all sequences, so
    /// that none of the size of the scores is made.
    fn mask(&self, length: usize, window: Option<usize>) -> Tensor<B, 3> {
        let groups = self.config.n_heads / self.config.n_kv_heads;
        let sees = |q: usize, k: usize| k <= q && window.is_none_or(|window| q - k < window);
        let values: Vec<f32> = (0..groups * length * length)
            .map(|i| if sees(i / length % length, i % length) { 0.0 } else { MASKED })
            .collect();
        let data = TensorData::new(values, Shape::new([1, groups * length, length]));
        Tensor::from_data(data.convert::<B::FloatElem>(), &self.device)
    }

    fn norm(&self, x: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
        let scale = x.clone().powi_scalar(2).mean_dim(1).add_scalar(self.config.norm_eps).sqrt().recip();
        x * scale * weight
    }

    fn rotation(&self, rope: usize, length: usize) -> Rotation<B> {
        let rope = &self.config.ropes[rope];
        let angle = |i: usize| (i / (rope.dim / 2)) as f64 * rope.inv_freq[i % (rope.dim / 2)];
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> =
                (0..length * rope.dim / 2).map(|i| f(angle(i)) as f32 * rope.amplitude).collect();
            let data = TensorData::new(values, Shape::new([1, 1, length, rope.dim / 2]));
            Tensor::from_data(data.convert::<B::FloatElem>(), &self.device)
        };
        Rotation { cos: table(f64::cos), sin: table(f64::sin), dim: rope.dim }
    }
}

/// What is the same for every layer of its kind.
struct Tables<B: Backend> {
    rotations: Vec<Rotation<B>>,
    /// By the window of a layer.
    masks: Vec<(Option<usize>, Tensor<B, 3>)>,
}

impl<B: Backend> Tables<B> {
    fn mask(&self, window: Option<usize>) -> Tensor<B, 3> {
        let (_, mask) = self.masks.iter().find(|(known, _)| *known == window).expect("made for every window");
        mask.clone()
    }
}

/// Cosines and sines of a rotary embedding: `(1, 1, length, dim / 2)`.
struct Rotation<B: Backend> {
    cos: Tensor<B, 4>,
    sin: Tensor<B, 4>,
    dim: usize,
}

impl<B: Backend> Rotation<B> {
    /// Rotates the leading elements of every head of `x`: `(sequences, heads, length, head)`.
    fn apply(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let (half, head) = (self.dim / 2, x.dims()[3]);
        let a = x.clone().narrow(3, 0, half);
        let b = x.clone().narrow(3, half, half);
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
        let mut parts = vec![a.clone() * cos.clone() - b.clone() * sin.clone(), b * cos + a * sin];
        if head > self.dim {
            parts.push(x.narrow(3, self.dim, head - self.dim));
        }
        Tensor::cat(parts, 3)
    }
}

fn activate<B: Backend>(x: Tensor<B, 2>, how: Activation) -> Tensor<B, 2> {
    match how {
        Activation::Silu => activation::silu(x),
        Activation::GeluErf => activation::gelu(x),
        Activation::GeluTanh => {
            let inner = (x.clone() + x.clone().powi_scalar(3).mul_scalar(0.044_715)).mul_scalar(0.797_884_6);
            x.mul_scalar(0.5) * inner.tanh().add_scalar(1.0)
        }
    }
}

#[cfg(test)]
mod tests;
