//! Reads the rotary embedding of a config.json, whichever generation of keys describes it.

use serde_json::{Map, Value};

use super::{HfConfig, as_f64, out_of_range, positive, wrong_type};
use crate::arch::ConfigError;
use crate::config::{ModelConfig, RopeConfig};
use crate::rope::{self, Scaling, Yarn};

impl HfConfig<'_> {
    /// A rotary embedding, and the context length under it.
    ///
    /// LongRoPE has two sets of factors. Transformers switches between them with the length of each
    /// sequence, which would invalidate cached keys, so the choice is made once: the short set, and the
    /// original context length, unless a longer context was asked for.
    pub(crate) fn rope(
        &self,
        config: &ModelConfig,
        parameters: Option<&Map<String, Value>>,
        default_theta: f64,
    ) -> Result<(RopeConfig, usize), ConfigError> {
        let empty = Map::new();
        let fields = RopeFields { config: self, fields: parameters.unwrap_or(&empty) };
        let theta = fields.positive("rope_theta")?.or(self.f64("rope_theta")?).unwrap_or(default_theta);
        if !(theta > 1.0 && theta.is_finite()) {
            return Err(out_of_range("rope_theta", theta, "a number above 1".into()));
        }
        let partial =
            fields.positive("partial_rotary_factor")?.or(self.f64("partial_rotary_factor")?).unwrap_or(1.0);
        let dim = (config.head_dim as f64 * partial) as usize;
        if !dim.is_multiple_of(2) || !(2..=config.head_dim).contains(&dim) {
            let expected =
                format!("such that an even part of the {} elements of a head is rotated", config.head_dim);
            return Err(out_of_range("partial_rotary_factor", partial, expected));
        }
        let mut context_length = config.context_length;
        let scaling = match fields.kind()? {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: fields.required("factor")? },
            "llama3" => {
                let (low, high) = (fields.required("low_freq_factor")?, fields.required("high_freq_factor")?);
                if high <= low {
                    return Err(out_of_range(
                        "high_freq_factor",
                        high,
                        format!("above low_freq_factor, {low}"),
                    ));
                }
                Scaling::Llama3 {
                    factor: fields.required("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_context: fields.original_context(config)?,
                }
            }
            // The first Phi-3 files call LongRoPE "yarn".
            "yarn" if fields.get("short_factor").is_none() => Scaling::Yarn(fields.yarn(config)?),
            "longrope" | "su" | "yarn" => {
                let original = fields.original_context(config)?;
                let stretch = match fields.positive("factor")? {
                    Some(factor) => factor,
                    None => config.context_length as f64 / original,
                };
                let wants_long = self.wanted_context.is_some_and(|wanted| wanted as f64 > original);
                if !wants_long {
                    context_length = context_length.min(original as usize);
                }
                Scaling::PerPair {
                    factors: fields
                        .factors(if wants_long { "long_factor" } else { "short_factor" }, dim / 2)?,
                    amplitude: fields
                        .positive("attention_factor")?
                        .unwrap_or_else(|| rope::longrope_amplitude(stretch, original)),
                }
            }
            other => {
                return Err(ConfigError::Unsupported {
                    what: format!("rope type {other:?}"),
                    supported: "default, linear, llama3, yarn and longrope are",
                });
            }
        };
        let rope = rope::rope(dim, theta, &scaling);
        if !rope.is_finite() {
            let found = "a list of frequencies that overflow".to_owned();
            return Err(out_of_range("rope_parameters", found, "finite frequencies".into()));
        }
        Ok((rope, context_length))
    }
}

/// `rope_parameters` or `rope_scaling`.
struct RopeFields<'a> {
    config: &'a HfConfig<'a>,
    fields: &'a Map<String, Value>,
}

impl RopeFields<'_> {
    fn kind(&self) -> Result<&str, ConfigError> {
        let value = self.fields.get("rope_type").or_else(|| self.fields.get("type"));
        match value {
            None | Some(Value::Null) => Ok("default"),
            Some(value) => value.as_str().ok_or_else(|| wrong_type("rope_type", "text", value)),
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    fn positive(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        positive(key, as_f64(key, value)?).map(Some)
    }

    fn required(&self, key: &str) -> Result<f64, ConfigError> {
        self.positive(key)?.ok_or_else(|| ConfigError::Missing(format!("rope_parameters.{key}")))
    }

    /// A value beside the parameters comes before one among them, as Phi-3 has it.
    fn original_context(&self, config: &ModelConfig) -> Result<f64, ConfigError> {
        let key = "original_max_position_embeddings";
        let outside = self.config.positive_or(key, None)?;
        let original = outside.or(self.positive(key)?).unwrap_or(config.context_length as f64);
        if original < 2.0 {
            return Err(out_of_range(key, original, "at least 2".into()));
        }
        Ok(original)
    }

    fn yarn(&self, config: &ModelConfig) -> Result<Yarn, ConfigError> {
        let original_context = self.original_context(config)?;
        let factor = self.positive("factor")?.unwrap_or(config.context_length as f64 / original_context);
        let suggested = match (self.positive("mscale")?, self.positive("mscale_all_dim")?) {
            (Some(one), Some(all)) => rope::yarn_mscale(factor, one) / rope::yarn_mscale(factor, all),
            _ => rope::yarn_mscale(factor, 1.0),
        };
        let truncate = match self.get("truncate") {
            None => true,
            Some(value) => value.as_bool().ok_or_else(|| wrong_type("truncate", "true or false", value))?,
        };
        Ok(Yarn {
            factor,
            original_context,
            beta_fast: self.positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: self.positive("beta_slow")?.unwrap_or(1.0),
            truncate,
            amplitude: self.positive("attention_factor")?.unwrap_or(suggested),
        })
    }

    fn factors(&self, key: &str, pairs: usize) -> Result<Vec<f64>, ConfigError> {
        let value = self.get(key).ok_or_else(|| ConfigError::Missing(format!("rope_parameters.{key}")))?;
        let list = value.as_array().ok_or_else(|| wrong_type(key, "a list of numbers", value))?;
        if list.len() != pairs {
            return Err(out_of_range(
                key,
                format!("a list of {}", list.len()),
                format!("one of {pairs} factors"),
            ));
        }
        list.iter().map(|item| positive(key, as_f64(key, item)?)).collect()
    }
}
