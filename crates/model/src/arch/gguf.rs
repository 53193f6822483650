//! Reads the configuration keys of GGUF metadata: typed access, defaults, rotary embeddings.
//!
//! Keys are those of the GGUF specification and, where it is silent, of llama.cpp's converter.

use super::{ConfigError, Shape};
use crate::config::{ModelConfig, RopeConfig, RopeLayout};
use crate::gguf::{Array, Metadata, Value};
use crate::rope::{self, Scaling, Yarn};

/// Facts about a tensor that a configuration depends on.
pub(crate) trait TensorFacts {
    /// Extents of tensor `name`, slowest first.
    fn shape(&self, name: &str) -> Option<&[usize]>;

    /// Values of the F32 vector `name`; `None` when absent, an error when of another type.
    fn f32_vector(&self, name: &str) -> Result<Option<Vec<f32>>, ConfigError>;
}

/// The metadata of one GGUF model.
pub(crate) struct GgufConfig<'a> {
    metadata: &'a Metadata,
    /// `general.architecture`, the prefix of the model's keys.
    architecture: &'a str,
    tensors: &'a dyn TensorFacts,
    /// The sequence length that will be served, which decides between the two factors of LongRoPE.
    wanted_context: Option<usize>,
}

impl<'a> GgufConfig<'a> {
    pub(crate) fn new(
        metadata: &'a Metadata,
        architecture: &'a str,
        tensors: &'a dyn TensorFacts,
        wanted_context: Option<usize>,
    ) -> GgufConfig<'a> {
        GgufConfig { metadata, architecture, tensors, wanted_context }
    }

    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture)
    }

    /// An integer; a list with one entry per layer is accepted when all entries agree.
    pub(crate) fn usize(&self, suffix: &str) -> Result<Option<usize>, ConfigError> {
        let key = self.key(suffix);
        let Some(value) = self.metadata.get(&key) else { return Ok(None) };
        let number = match value {
            Value::U64(n) => Some(*n),
            Value::I64(n) => u64::try_from(*n).ok(),
            Value::Array(Array::U64(list)) => Some(uniform(&key, list)?),
            Value::Array(Array::I64(list)) => u64::try_from(uniform(&key, list)?).ok(),
            Value::F64(_) | Value::Bool(_) | Value::Str(_) | Value::Array(_) => None,
        };
        let number = number.and_then(|n| usize::try_from(n).ok());
        number.map(Some).ok_or_else(|| wrong_type(&key, "a non-negative integer", value))
    }

    pub(crate) fn f64(&self, suffix: &str) -> Result<Option<f64>, ConfigError> {
        let key = self.key(suffix);
        let Some(value) = self.metadata.get(&key) else { return Ok(None) };
        match self.metadata.f64(&key) {
            Some(x) if x.is_finite() => Ok(Some(x)),
            Some(x) => Err(out_of_range(&key, x, "finite".into())),
            None => Err(wrong_type(&key, "a number", value)),
        }
    }

    /// A positive number that stays one in `f32`, in which the forward pass computes.
    pub(crate) fn positive(&self, suffix: &str) -> Result<Option<f64>, ConfigError> {
        match self.f64(suffix)? {
            Some(x) if !(x as f32 > 0.0 && (x as f32).is_finite()) => {
                Err(out_of_range(&self.key(suffix), x, "a positive number within the range of F32".into()))
            }
            x => Ok(x),
        }
    }

    fn str(&self, suffix: &str) -> Result<Option<&str>, ConfigError> {
        let key = self.key(suffix);
        let Some(value) = self.metadata.get(&key) else { return Ok(None) };
        self.metadata.str(&key).map(Some).ok_or_else(|| wrong_type(&key, "text", value))
    }

    fn require(&self, suffix: &str) -> Result<usize, ConfigError> {
        self.usize(suffix)?.ok_or_else(|| ConfigError::Missing(self.key(suffix)))
    }

    /// Sizes, norm, ties: what all architectures share. `ropes` is left empty.
    pub(crate) fn base(&self, rope_layout: RopeLayout) -> Result<ModelConfig, ConfigError> {
        if self.usize("expert_count")?.is_some_and(|experts| experts > 0) {
            return Err(ConfigError::Unsupported {
                what: format!("{} above 0, a mixture of experts,", self.key("expert_count")),
                supported: "dense models are",
            });
        }
        let hidden_size = self.require("embedding_length")?;
        let n_heads = self.require("attention.head_count")?;
        let head_dim = match self.usize("attention.key_length")? {
            Some(head_dim) => head_dim,
            None if n_heads > 0 && hidden_size.is_multiple_of(n_heads) => hidden_size / n_heads,
            None => {
                let expected = format!(
                    "a multiple of the {n_heads} attention heads, as there is no attention.key_length"
                );
                return Err(out_of_range(&self.key("embedding_length"), hidden_size, expected));
            }
        };
        if let Some(value_dim) = self.usize("attention.value_length")?.filter(|n| *n != head_dim) {
            return Err(ConfigError::Unsupported {
                what: format!("attention.value_length {value_dim} with attention.key_length {head_dim}"),
                supported: "keys and values of one length are",
            });
        }
        let vocab_size = self.vocab_size()?;
        let shape = Shape {
            vocab_size,
            context_length: self.require("context_length")?,
            hidden_size,
            ffn_size: self.require("feed_forward_length")?,
            n_layers: self.require("block_count")?,
            n_heads,
            n_kv_heads: self.usize("attention.head_count_kv")?.unwrap_or(n_heads),
            head_dim,
        }
        .validate()?;
        let eps_key = "attention.layer_norm_rms_epsilon";
        let eps = self.f64(eps_key)?.ok_or_else(|| ConfigError::Missing(self.key(eps_key)))?;
        if !(0.0..1.0).contains(&eps) {
            return Err(out_of_range(&self.key(eps_key), eps, "at least 0 and below 1".into()));
        }
        let mut config = shape.config(self.architecture.to_owned(), eps as f32, rope_layout);
        config.tied_embeddings = self.tensors.shape("output.weight").is_none();
        if let Some(scale) = self.positive("attention.scale")? {
            config.attn_scale = scale as f32;
        }
        if let Some(scale) = self.positive("logit_scale")? {
            config.logit_scale = scale as f32;
        }
        Ok(config)
    }

    /// [`GgufConfig::base`] with one rotary embedding for all layers.
    pub(crate) fn decoder(&self, rope_layout: RopeLayout) -> Result<ModelConfig, ConfigError> {
        let mut config = self.base(rope_layout)?;
        let scaling = self.scaling(&mut config)?;
        let rope = self.rope(&config, "rope.freq_base", 10_000.0, &scaling)?;
        config.ropes = vec![rope];
        Ok(config)
    }

    /// The embedding decides; the tokenizer must not know more or fewer tokens.
    fn vocab_size(&self) -> Result<usize, ConfigError> {
        let missing = || ConfigError::Missing("tensor token_embd.weight".into());
        let shape = self.tensors.shape("token_embd.weight").ok_or_else(missing)?;
        let rows = shape[0];
        match self.metadata.strings("tokenizer.ggml.tokens") {
            Some(tokens) if tokens.len() != rows => {
                let expected = format!("a list of {rows} tokens, one for each row of token_embd.weight");
                Err(out_of_range("tokenizer.ggml.tokens", format!("a list of {}", tokens.len()), expected))
            }
            _ => Ok(rows),
        }
    }

    /// The sliding window, `None` when the key is absent or zero.
    pub(crate) fn window(&self) -> Result<Option<usize>, ConfigError> {
        Ok(self.usize("attention.sliding_window")?.filter(|window| *window > 0))
    }

    /// Which layers see only the window. The pattern is a flag for each layer, or a period whose last layer
    /// is global; most files leave it to the architecture's own `period`.
    pub(crate) fn local_layers(&self, n_layers: usize, period: usize) -> Result<Vec<bool>, ConfigError> {
        let suffix = "attention.sliding_window_pattern";
        let key = self.key(suffix);
        if let Some(Value::Array(Array::Bool(flags))) = self.metadata.get(&key) {
            if flags.len() != n_layers {
                let found = format!("a list of {}", flags.len());
                return Err(out_of_range(&key, found, format!("one flag for each of {n_layers} layers")));
            }
            return Ok(flags.clone());
        }
        match self.usize(suffix)?.unwrap_or(period) {
            0 => Err(out_of_range(&key, 0, "at least 1".into())),
            period => Ok((0..n_layers).map(|layer| !(layer + 1).is_multiple_of(period)).collect()),
        }
    }

    /// Elements of a head that are rotated.
    fn rope_dim(&self, config: &ModelConfig) -> Result<usize, ConfigError> {
        let dim = self.usize("rope.dimension_count")?.unwrap_or(config.head_dim);
        if dim.is_multiple_of(2) && (2..=config.head_dim).contains(&dim) {
            return Ok(dim);
        }
        let expected = format!("even and at most the head dimension, {}", config.head_dim);
        Err(out_of_range(&self.key("rope.dimension_count"), dim, expected))
    }

    pub(crate) fn rope(
        &self,
        config: &ModelConfig,
        base_suffix: &str,
        default_base: f64,
        scaling: &Scaling,
    ) -> Result<RopeConfig, ConfigError> {
        let theta = self.f64(base_suffix)?.unwrap_or(default_base);
        if theta <= 1.0 {
            return Err(out_of_range(&self.key(base_suffix), theta, "a number above 1".into()));
        }
        let rope = rope::rope(self.rope_dim(config)?, theta, scaling);
        if !rope.is_finite() {
            let expected = "such that all frequencies are finite".to_owned();
            return Err(out_of_range(&self.key(base_suffix), theta, expected));
        }
        Ok(rope)
    }

    /// The scaling of the model's (global) rotary embedding.
    ///
    /// With LongRoPE the context length of `config` becomes the original one unless a longer context was
    /// asked for, see [`super::HfConfig::rope`].
    pub(crate) fn scaling(&self, config: &mut ModelConfig) -> Result<Scaling, ConfigError> {
        let pairs = self.rope_dim(config)? / 2;
        let context = config.context_length as f64;
        let key = "rope.scaling.original_context_length";
        let original = self.positive(key)?.unwrap_or(context);
        if original < 2.0 {
            return Err(out_of_range(&self.key(key), original, "at least 2".into()));
        }
        let amplitude = self.positive("rope.scaling.attn_factor")?;
        let per_pair = |name, amplitude| {
            let factors = self.factors(name, pairs)?;
            Ok(factors.map(|factors| Scaling::PerPair { factors, amplitude }))
        };
        if let Some(scaling) = per_pair("rope_freqs.weight", amplitude.unwrap_or(1.0))? {
            return Ok(scaling);
        }
        let wants_long = self.wanted_context.is_some_and(|wanted| wanted as f64 > original);
        let name = if wants_long { "rope_factors_long.weight" } else { "rope_factors_short.weight" };
        let amplitude_or = |default: f64| amplitude.unwrap_or(default);
        if let Some(scaling) =
            per_pair(name, amplitude_or(rope::longrope_amplitude(context / original, original)))?
        {
            if !wants_long {
                config.context_length = config.context_length.min(original as usize);
            }
            return Ok(scaling);
        }
        // Files older than rope.scaling.* say only scale_linear.
        let linear = self.positive("rope.scale_linear")?;
        let factor = self.positive("rope.scaling.factor")?;
        match self.str("rope.scaling.type")? {
            Some("none") => Ok(Scaling::None),
            None | Some("linear") => match factor.or(linear) {
                Some(factor) => Ok(Scaling::Linear { factor }),
                None => Ok(Scaling::None),
            },
            Some("yarn") => {
                let key = "rope.scaling.factor";
                let factor = factor.ok_or_else(|| ConfigError::Missing(self.key(key)))?;
                let beta = |suffix, default| Ok(self.positive(suffix)?.unwrap_or(default));
                Ok(Scaling::Yarn(Yarn {
                    factor,
                    original_context: original,
                    beta_fast: beta("rope.scaling.yarn_beta_fast", 32.0)?,
                    beta_slow: beta("rope.scaling.yarn_beta_slow", 1.0)?,
                    truncate: true,
                    amplitude: amplitude_or(1.0) * rope::yarn_mscale(factor, 1.0),
                }))
            }
            Some("longrope") => Err(ConfigError::Missing(format!("tensor {name}"))),
            Some(other) => Err(ConfigError::Unsupported {
                what: format!("{} {other:?}", self.key("rope.scaling.type")),
                supported: "none, linear, yarn and longrope are",
            }),
        }
    }

    fn factors(&self, name: &str, pairs: usize) -> Result<Option<Vec<f64>>, ConfigError> {
        let Some(factors) = self.tensors.f32_vector(name)? else { return Ok(None) };
        if factors.len() != pairs || !factors.iter().all(|f| *f > 0.0 && f.is_finite()) {
            let found = format!("a list of {} values", factors.len());
            return Err(out_of_range(name, found, format!("one of {pairs} positive factors")));
        }
        Ok(Some(factors.into_iter().map(f64::from).collect()))
    }
}

fn uniform<T: Copy + PartialEq + std::fmt::Debug>(key: &str, list: &[T]) -> Result<T, ConfigError> {
    match list {
        [first, rest @ ..] if rest.iter().all(|other| other == first) => Ok(*first),
        _ => Err(ConfigError::Unsupported {
            what: format!("{key} that differs from layer to layer"),
            supported: "models with one value for all layers are",
        }),
    }
}

fn wrong_type(key: &str, expected: &'static str, found: &Value) -> ConfigError {
    let found = match found {
        Value::U64(n) => n.to_string(),
        Value::I64(n) => n.to_string(),
        Value::F64(x) => x.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Str(text) => format!("the text {:?}", text.chars().take(40).collect::<String>()),
        Value::Array(_) => "a list".to_owned(),
    };
    ConfigError::Type { key: key.to_owned(), expected, found }
}

fn out_of_range(key: &str, found: impl ToString, expected: String) -> ConfigError {
    ConfigError::Range { key: key.to_owned(), found: found.to_string(), expected }
}

#[cfg(test)]
mod tests;
