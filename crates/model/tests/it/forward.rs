//! A decoder written straight from [`ModelConfig`]'s comments, in `f64`, with no cache and no speed: it shows
//! that an opened model says everything that its logits depend on.

use wharf_kernels::block::dequantize;
use wharf_model::config::{Activation, RopeConfig, RopeLayout};
use wharf_model::{Model, ModelConfig, Role, TensorView, Weights};

/// Row-major numbers of a weight.
fn numbers(view: TensorView<'_>) -> Vec<f64> {
    let mut out = vec![0.0; view.rows * view.cols];
    dequantize(view.dtype, view.data, &mut out).unwrap();
    out.into_iter().map(f64::from).collect()
}

fn weight(weights: &Weights, layer: Option<usize>, role: Role) -> Vec<f64> {
    numbers(weights.matrix(layer, role).unwrap())
}

/// `w: [out, in]` times `x: [in]`, plus a bias.
fn product(w: &[f64], x: &[f64], bias: Option<&Vec<f64>>) -> Vec<f64> {
    let rows = w.chunks(x.len()).enumerate();
    rows.map(|(n, row)| dot(row, x) + bias.map_or(0.0, |b| b[n])).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn rms_norm(x: &[f64], w: &[f64], config: &ModelConfig) -> Vec<f64> {
    let scale = (dot(x, x) / x.len() as f64 + f64::from(config.norm_eps)).sqrt().recip();
    x.iter().zip(w).map(|(x, w)| x * scale * (w + f64::from(config.norm_offset))).collect()
}

fn rotate(head: &mut [f64], position: usize, rope: &RopeConfig, layout: RopeLayout) {
    for (pair, frequency) in rope.inv_freq.iter().enumerate() {
        let (a, b) = match layout {
            RopeLayout::Halves => (pair, pair + rope.dim / 2),
            RopeLayout::Interleaved => (2 * pair, 2 * pair + 1),
        };
        let (sin, cos) = (position as f64 * frequency).sin_cos();
        let amplitude = f64::from(rope.amplitude);
        let (x, y) = (head[a], head[b]);
        head[a] = (x * cos - y * sin) * amplitude;
        head[b] = (x * sin + y * cos) * amplitude;
    }
}

fn softcap(x: f64, cap: Option<f32>) -> f64 {
    cap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh())
}

fn activate(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::GeluErf => unreachable!("no fixture uses it"),
    }
}

/// Logits after each token: `[tokens][vocab]`.
pub(crate) fn forward(model: &Model, tokens: &[u32]) -> Vec<Vec<f64>> {
    let (config, weights) = (&model.config, &model.weights);
    let embedding = weight(weights, None, Role::TokenEmbedding);
    let row = |token: u32| &embedding[token as usize * config.hidden_size..][..config.hidden_size];
    let scale = f64::from(config.embedding_scale);
    let mut stream: Vec<Vec<f64>> =
        tokens.iter().map(|token| row(*token).iter().map(|x| x * scale).collect()).collect();
    for layer in 0..config.layers.len() {
        run_layer(config, weights, layer, &mut stream);
    }
    let norm = weight(weights, None, Role::OutputNorm);
    let output = weight(weights, None, Role::Output);
    let logits = |x: &Vec<f64>| {
        let raw = product(&output, &rms_norm(x, &norm, config), None);
        raw.iter().map(|x| softcap(x * f64::from(config.logit_scale), config.logit_softcap)).collect()
    };
    stream.iter().map(logits).collect()
}

fn run_layer(config: &ModelConfig, weights: &Weights, layer: usize, stream: &mut [Vec<f64>]) {
    let get = |role| weight(weights, Some(layer), role);
    let optional = |role| weights.optional(Some(layer), role).map(numbers);
    let norm = get(Role::AttnNorm);
    let inputs: Vec<Vec<f64>> = stream.iter().map(|x| rms_norm(x, &norm, config)).collect();
    let rope = &config.ropes[config.layers[layer].rope];
    // Heads of all tokens: projected, normed, rotated.
    let project = |role, bias, head_norm: Option<Role>, rotated: bool| -> Vec<Vec<f64>> {
        let (w, bias, head_norm) = (get(role), optional(bias), head_norm.map(get));
        let heads = |(position, x): (usize, &Vec<f64>)| {
            let mut y = product(&w, x, bias.as_ref());
            for head in y.chunks_mut(config.head_dim) {
                if let Some(head_norm) = &head_norm {
                    head.copy_from_slice(&rms_norm(head, head_norm, config));
                }
                if rotated {
                    rotate(head, position, rope, config.rope_layout);
                }
            }
            y
        };
        inputs.iter().enumerate().map(heads).collect()
    };
    let q = project(Role::Q, Role::QBias, config.qk_norm.then_some(Role::QNorm), true);
    let k = project(Role::K, Role::KBias, config.qk_norm.then_some(Role::KNorm), true);
    let v = project(Role::V, Role::VBias, None, false);

    let (o, o_bias) = (get(Role::O), optional(Role::OBias));
    let post = config.post_norms.then(|| (get(Role::PostAttnNorm), get(Role::PostFfnNorm)));
    let (ffn_norm, gate, up, down) = (get(Role::FfnNorm), get(Role::Gate), get(Role::Up), get(Role::Down));
    for (position, x) in stream.iter_mut().enumerate() {
        let mixed = attend(config, config.layers[layer].window, position, &q, &k, &v);
        let mut y = product(&o, &mixed, o_bias.as_ref());
        if let Some((post_attn, _)) = &post {
            y = rms_norm(&y, post_attn, config);
        }
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);

        let h = rms_norm(x, &ffn_norm, config);
        let (gate, up) = (product(&gate, &h, None), product(&up, &h, None));
        let inner: Vec<f64> =
            gate.iter().zip(up).map(|(gate, up)| activate(*gate, config.activation) * up).collect();
        let mut y = product(&down, &inner, None);
        if let Some((_, post_ffn)) = &post {
            y = rms_norm(&y, post_ffn, config);
        }
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    }
}

fn attend(
    config: &ModelConfig,
    window: Option<usize>,
    position: usize,
    q: &[Vec<f64>],
    k: &[Vec<f64>],
    v: &[Vec<f64>],
) -> Vec<f64> {
    let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
    let d = config.head_dim;
    let mut out = Vec::new();
    for head in 0..config.n_heads {
        let of = |x: &[f64], head: usize| x[head * d..(head + 1) * d].to_vec();
        let kv_head = head * config.n_kv_heads / config.n_heads;
        let query = of(&q[position], head);
        let score = |at: usize| {
            softcap(dot(&query, &of(&k[at], kv_head)) * f64::from(config.attn_scale), config.attn_softcap)
        };
        let weights: Vec<f64> = (first..=position).map(|at| score(at).exp()).collect();
        let total: f64 = weights.iter().sum();
        out.extend((0..d).map(|n| {
            let weighted = weights.iter().zip(first..).map(|(w, at)| w * v[at][kv_head * d + n]);
            weighted.sum::<f64>() / total
        }));
    }
    out
}
