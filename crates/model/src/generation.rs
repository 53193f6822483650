//! Decides where a model's own sampling defaults and stop tokens come from.

use serde_json::{Map, Value};

use crate::gguf::{self, Metadata};

/// What the authors of a model recommend for sampling, as far as the checkpoint says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Tokens that end an answer, without duplicates.
    pub eos_token_ids: Vec<u32>,
    /// Token that starts a sequence.
    pub bos_token_id: Option<u32>,
    /// Token that fills a batch; never generated.
    pub pad_token_id: Option<u32>,
    /// Softmax temperature.
    pub temperature: Option<f32>,
    /// Candidates kept by rank.
    pub top_k: Option<u32>,
    /// Probability mass kept.
    pub top_p: Option<f32>,
    /// Least probability kept, relative to the best.
    pub min_p: Option<f32>,
    /// Divides the logits of tokens already seen.
    pub repetition_penalty: Option<f32>,
}

/// More tokens that end an answer than any model has.
const MOST_EOS: usize = 256;

impl GenerationDefaults {
    /// Reads `generation_config.json`, falling back to config.json for the special tokens. Values of a wrong
    /// type are errors naming their key.
    pub(crate) fn from_json(
        generation: Option<&Map<String, Value>>,
        config: &Map<String, Value>,
    ) -> Result<GenerationDefaults, String> {
        let empty = Map::new();
        let own = generation.unwrap_or(&empty);
        let text = config.get("text_config").and_then(Value::as_object).unwrap_or(&empty);
        let token = |key: &str| [own, text, config].into_iter().find_map(|map| present(map, key));
        // Some conversions write -1 for "none".
        let one = |key: &str| {
            token(key)
                .filter(|value| value.as_i64() != Some(-1))
                .map(|value| token_id(key, value))
                .transpose()
        };
        let number = |key: &str| present(own, key).map(|value| number(key, value)).transpose();
        let mut defaults = GenerationDefaults {
            eos_token_ids: Vec::new(),
            bos_token_id: one("bos_token_id")?,
            pad_token_id: one("pad_token_id")?,
            temperature: number("temperature")?,
            top_k: present(own, "top_k")
                .filter(|value| value.as_i64() != Some(-1))
                .map(|value| token_id("top_k", value))
                .transpose()?,
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            repetition_penalty: number("repetition_penalty")?,
        };
        match token("eos_token_id") {
            None => {}
            Some(Value::Array(list)) => {
                if list.len() > MOST_EOS {
                    return Err(format!(
                        "key \"eos_token_id\" lists {} tokens, more than {MOST_EOS}",
                        list.len()
                    ));
                }
                for id in list {
                    defaults.add_eos(token_id("eos_token_id", id)?);
                }
            }
            Some(id) if id.as_i64() == Some(-1) => {}
            Some(id) => defaults.add_eos(token_id("eos_token_id", id)?),
        }
        defaults.checked()
    }

    /// Reads the special tokens and `general.sampling.*` of GGUF metadata.
    pub(crate) fn from_gguf(metadata: &Metadata) -> Result<GenerationDefaults, String> {
        let id = |key: &str| match metadata.get(key) {
            None => Ok(None),
            // llama.cpp writes -1 for "none".
            Some(gguf::Value::I64(-1)) => Ok(None),
            Some(_) => {
                let id = metadata.u64(key).and_then(|n| u32::try_from(n).ok());
                id.map(Some).ok_or_else(|| format!("key {key:?} is not an integer below 2^32"))
            }
        };
        let number = |key: &str| match metadata.get(key) {
            None => Ok(None),
            Some(_) => {
                let x = metadata.f64(key).filter(|x| x.is_finite());
                x.map(|x| Some(x as f32)).ok_or_else(|| format!("key {key:?} is not a finite number"))
            }
        };
        let mut defaults = GenerationDefaults {
            eos_token_ids: Vec::new(),
            bos_token_id: id("tokenizer.ggml.bos_token_id")?,
            pad_token_id: id("tokenizer.ggml.padding_token_id")?,
            temperature: number("general.sampling.temp")?,
            top_k: id("general.sampling.top_k")?,
            top_p: number("general.sampling.top_p")?,
            min_p: number("general.sampling.min_p")?,
            repetition_penalty: number("general.sampling.penalty_repeat")?,
        };
        for key in ["eos", "eot", "eom"] {
            if let Some(id) = id(&format!("tokenizer.ggml.{key}_token_id"))? {
                defaults.add_eos(id);
            }
        }
        defaults.checked()
    }

    /// Refuses values that no request could be served with: better at load than as every client's error.
    fn checked(self) -> Result<GenerationDefaults, String> {
        let within = |name: &str, value: Option<f32>, range: std::ops::RangeInclusive<f32>| match value {
            Some(x) if !range.contains(&x) => {
                Err(format!("the recommended {name} {x} is not within {} to {}", range.start(), range.end()))
            }
            _ => Ok(()),
        };
        within("temperature", self.temperature, 0.0..=100.0)?;
        within("top_p", self.top_p, 0.0..=1.0)?;
        within("min_p", self.min_p, 0.0..=1.0)?;
        within("repetition penalty", self.repetition_penalty, 0.01..=100.0)?;
        Ok(self)
    }

    fn add_eos(&mut self, id: u32) {
        if !self.eos_token_ids.contains(&id) {
            self.eos_token_ids.push(id);
        }
    }
}

fn present<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| !value.is_null())
}

fn token_id(key: &str, value: &Value) -> Result<u32, String> {
    let id = value.as_u64().and_then(|n| u32::try_from(n).ok());
    id.ok_or_else(|| format!("key {key:?} holds {value}, which is not an integer below 2^32"))
}

fn number(key: &str, value: &Value) -> Result<f32, String> {
    value
        .as_f64()
        .map(|x| x as f32)
        .ok_or_else(|| format!("key {key:?} holds {value}, which is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(json: &str) -> Map<String, Value> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn generation_config_comes_before_config() {
        let own = object(r#"{"eos_token_id": [2, 7, 2], "temperature": 0.6, "top_k": null}"#);
        let config = object(r#"{"eos_token_id": 9, "bos_token_id": 1}"#);
        let read = GenerationDefaults::from_json(Some(&own), &config).unwrap();
        assert_eq!(read.eos_token_ids, [2, 7]);
        assert_eq!(read.bos_token_id, Some(1));
        assert_eq!((read.temperature, read.top_k), (Some(0.6), None));
    }

    #[test]
    fn minus_one_means_none() {
        let config = object(r#"{"pad_token_id": -1, "bos_token_id": -1, "eos_token_id": -1}"#);
        let read = GenerationDefaults::from_json(Some(&object(r#"{"top_k": -1}"#)), &config).unwrap();
        assert_eq!(read, GenerationDefaults::default());
    }

    #[test]
    fn recommendations_that_no_request_could_use_are_refused_at_load() {
        for json in [r#"{"top_p": 1.5}"#, r#"{"repetition_penalty": 0}"#, r#"{"temperature": 1e300}"#] {
            let error = GenerationDefaults::from_json(Some(&object(json)), &Map::new()).unwrap_err();
            assert!(error.contains("recommended"), "{json}: {error}");
        }
        let many = format!(r#"{{"eos_token_id": {:?}}}"#, (0..300).collect::<Vec<u32>>());
        let error = GenerationDefaults::from_json(Some(&object(&many)), &Map::new()).unwrap_err();
        assert!(error.contains("300 tokens"), "{error}");
    }

    #[test]
    fn a_token_id_that_is_text_names_its_key() {
        let error = GenerationDefaults::from_json(None, &object(r#"{"eos_token_id": "</s>"}"#)).unwrap_err();
        assert!(error.contains("eos_token_id"), "{error}");
    }
}
