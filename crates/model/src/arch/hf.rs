//! Reads config.json as Transformers writes it: typed access, defaults, windows.
//!
//! Two generations are read. Transformers 5 writes `rope_parameters` (per kind of layer where they differ)
//! and `layer_types`; earlier ones write `rope_theta`, `rope_scaling` and a window pattern.

mod rope;

use serde_json::{Map, Value};

use super::{ConfigError, Shape};
use crate::config::{Activation, ModelConfig, RopeLayout};

/// What a class of Transformers assumes for keys that config.json leaves out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    pub(crate) context_length: usize,
    pub(crate) norm_eps: f64,
    pub(crate) rope_theta: f64,
    pub(crate) tied_embeddings: bool,
    /// `None`: the key must be there.
    pub(crate) vocab_size: Option<usize>,
    /// `None`: the key must be there.
    pub(crate) n_heads: Option<usize>,
    /// `None`: as many as attention heads.
    pub(crate) n_kv_heads: Option<usize>,
    /// `None`: hidden size by attention heads.
    pub(crate) head_dim: Option<usize>,
}

/// A config.json; keys of a nested `text_config` come before those of the whole (Gemma 3).
pub(crate) struct HfConfig<'a> {
    root: &'a Map<String, Value>,
    text: Option<&'a Map<String, Value>>,
    /// Class name or model type, for people.
    architecture: String,
    /// The sequence length that will be served, which decides between the two factors of LongRoPE.
    wanted_context: Option<usize>,
}

impl<'a> HfConfig<'a> {
    pub(crate) fn new(
        root: &'a Map<String, Value>,
        architecture: String,
        wanted_context: Option<usize>,
    ) -> HfConfig<'a> {
        HfConfig {
            root,
            text: root.get("text_config").and_then(Value::as_object),
            architecture,
            wanted_context,
        }
    }

    /// A value that is there and not null.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        let found = self.text.and_then(|text| text.get(key)).or_else(|| self.root.get(key));
        found.filter(|value| !value.is_null())
    }

    /// Whether `key` is there, be it null.
    fn mentions(&self, key: &str) -> bool {
        self.text.is_some_and(|text| text.contains_key(key)) || self.root.contains_key(key)
    }

    pub(crate) fn usize(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.get(key).map(|value| as_usize(key, value)).transpose()
    }

    pub(crate) fn f64(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.get(key).map(|value| as_f64(key, value)).transpose()
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        let read = |value: &Value| value.as_bool().ok_or_else(|| wrong_type(key, "true or false", value));
        self.get(key).map(read).transpose()
    }

    fn require(&self, key: &str) -> Result<usize, ConfigError> {
        self.usize(key)?.ok_or_else(|| ConfigError::Missing(key.to_owned()))
    }

    /// Sizes, norm, activation, ties: what all architectures share. `ropes` is left empty.
    pub(crate) fn base(&self, defaults: &Defaults) -> Result<ModelConfig, ConfigError> {
        let or_required = |key: &str, default: Option<usize>| match default {
            Some(default) => Ok(self.usize(key)?.unwrap_or(default)),
            None => self.require(key),
        };
        let hidden_size = self.require("hidden_size")?;
        let n_heads = or_required("num_attention_heads", defaults.n_heads)?;
        let head_dim = match self.usize("head_dim")?.or(defaults.head_dim) {
            Some(head_dim) => head_dim,
            None => {
                let divides = n_heads > 0 && hidden_size.is_multiple_of(n_heads);
                if !divides {
                    let expected =
                        format!("a multiple of the {n_heads} attention heads, as there is no head_dim");
                    return Err(out_of_range("hidden_size", hidden_size, expected));
                }
                hidden_size / n_heads
            }
        };
        let shape = Shape {
            vocab_size: or_required("vocab_size", defaults.vocab_size)?,
            context_length: self.usize("max_position_embeddings")?.unwrap_or(defaults.context_length),
            hidden_size,
            ffn_size: self.require("intermediate_size")?,
            n_layers: self.require("num_hidden_layers")?,
            n_heads,
            n_kv_heads: self.usize("num_key_value_heads")?.or(defaults.n_kv_heads).unwrap_or(n_heads),
            head_dim,
        }
        .validate()?;
        let eps = self.f64("rms_norm_eps")?.unwrap_or(defaults.norm_eps);
        if !(0.0..1.0).contains(&eps) {
            return Err(out_of_range("rms_norm_eps", eps, "at least 0 and below 1".into()));
        }
        let mut config = shape.config(self.architecture.clone(), eps as f32, RopeLayout::Halves);
        config.tied_embeddings = self.bool("tie_word_embeddings")?.unwrap_or(defaults.tied_embeddings);
        Ok(config)
    }

    /// [`HfConfig::base`] with the activation under `hidden_act` and one rotary embedding for all layers.
    pub(crate) fn decoder(&self, defaults: &Defaults) -> Result<ModelConfig, ConfigError> {
        let mut config = self.base(defaults)?;
        config.activation = self.activation("hidden_act", Activation::Silu)?;
        let parameters = self.rope_parameters()?;
        let (rope, context_length) = self.rope(&config, parameters, defaults.rope_theta)?;
        config.ropes = vec![rope];
        config.context_length = context_length;
        Ok(config)
    }

    pub(crate) fn activation(&self, key: &str, default: Activation) -> Result<Activation, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        match value.as_str() {
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
            Some("gelu") => Ok(Activation::GeluErf),
            Some(other) => Err(ConfigError::Unsupported {
                what: format!("{key} {other:?}"),
                supported: "silu, gelu_pytorch_tanh and gelu are",
            }),
            None => Err(wrong_type(key, "text", value)),
        }
    }

    /// Refuses a switch that changes the computation in a way that Wharf does not follow.
    pub(crate) fn refuse(&self, key: &str) -> Result<(), ConfigError> {
        match self.bool(key)? {
            Some(true) => Err(ConfigError::Unsupported {
                what: format!("{key}: true"),
                supported: "only models with false are",
            }),
            _ => Ok(()),
        }
    }

    /// The sliding window of the checkpoint: `default` only when the key is absent, none when it is null.
    pub(crate) fn window(&self, default: Option<usize>) -> Result<Option<usize>, ConfigError> {
        if !self.mentions("sliding_window") {
            return Ok(default);
        }
        match self.usize("sliding_window")? {
            Some(0) => Err(out_of_range("sliding_window", 0, "at least 1, or null".into())),
            window => Ok(window),
        }
    }

    /// A positive number: `default` only when the key is absent, none when it is null.
    pub(crate) fn positive_or(&self, key: &str, default: Option<f64>) -> Result<Option<f64>, ConfigError> {
        if !self.mentions(key) {
            return Ok(default);
        }
        self.f64(key)?.map(|x| positive(key, x)).transpose()
    }

    /// Which layers see only the window: `layer_types` where given, else `is_local(layer)`.
    pub(crate) fn local_layers(
        &self,
        n_layers: usize,
        is_local: impl Fn(usize) -> bool,
    ) -> Result<Vec<bool>, ConfigError> {
        let Some(value) = self.get("layer_types") else {
            return Ok((0..n_layers).map(is_local).collect());
        };
        let types = value.as_array().ok_or_else(|| wrong_type("layer_types", "a list", value))?;
        if types.len() != n_layers {
            return Err(out_of_range(
                "layer_types",
                types.len(),
                format!("one entry for each of {n_layers} layers"),
            ));
        }
        let read = |value: &Value| match value.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(ConfigError::Unsupported {
                what: format!("layer type {value}"),
                supported: "sliding_attention and full_attention are",
            }),
        };
        types.iter().map(read).collect()
    }

    /// Parameters of the one rotary embedding of the model.
    pub(crate) fn rope_parameters(&self) -> Result<Option<&'a Map<String, Value>>, ConfigError> {
        for key in ["rope_parameters", "rope_scaling"] {
            if let Some(value) = self.get(key) {
                return value.as_object().map(Some).ok_or_else(|| wrong_type(key, "an object", value));
            }
        }
        Ok(None)
    }

    /// Parameters for one kind of layer, where config.json keeps them apart.
    pub(crate) fn rope_parameters_of(
        &self,
        layer_type: &str,
    ) -> Result<Option<&'a Map<String, Value>>, ConfigError> {
        let nested = self.rope_parameters()?.and_then(|object| object.get(layer_type));
        match nested.filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => {
                let key = format!("rope_parameters.{layer_type}");
                value.as_object().map(Some).ok_or_else(|| wrong_type(&key, "an object", value))
            }
        }
    }
}

/// A positive number that stays one in `f32`, in which the forward pass computes.
fn positive(key: &str, x: f64) -> Result<f64, ConfigError> {
    let single = x as f32;
    if single > 0.0 && single.is_finite() {
        Ok(x)
    } else {
        Err(out_of_range(key, x, "a positive number within the range of F32".into()))
    }
}

fn as_usize(key: &str, value: &Value) -> Result<usize, ConfigError> {
    let n = value.as_u64().and_then(|n| usize::try_from(n).ok());
    n.ok_or_else(|| wrong_type(key, "a non-negative integer", value))
}

fn as_f64(key: &str, value: &Value) -> Result<f64, ConfigError> {
    value.as_f64().ok_or_else(|| wrong_type(key, "a number", value))
}

fn wrong_type(key: &str, expected: &'static str, found: &Value) -> ConfigError {
    let found = match found {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("the text {:?}", text.chars().take(40).collect::<String>()),
        other => other.to_string(),
    };
    ConfigError::Type { key: key.to_owned(), expected, found }
}

fn out_of_range(key: &str, found: impl ToString, expected: String) -> ConfigError {
    ConfigError::Range { key: key.to_owned(), found: found.to_string(), expected }
}
