//! Decides which tensors of a folder belong together as one compressed matrix, and whether we read its kind.

use std::collections::HashMap;

use half::{bf16, f16};
use serde_json::{Map, Value};
use wharf_kernels::{DType, Rounding};

use crate::arch::ConfigError;
use crate::compressed::{Code, Compressed, Span};
use crate::mmap::MappedFile;
use crate::safetensors::Entry;

/// What config.json says of compressed weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Compression {
    /// Bits of a packed code.
    bits: u32,
    /// What rounds the activations that are multiplied with them.
    inputs: Inputs,
}

/// How activations are to be rounded, by any group of matrices. Neither: nothing is said, or what we round more finely.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Inputs {
    /// To signed bytes with a scale for each token.
    token: bool,
    /// To signed bytes with the scale that is stored beside the matrix.
    stored: bool,
}

/// Reads `quantization_config`; `None` for plain weights.
///
/// # Errors
/// For another method than compressed-tensors, or a variant of it that we do not read.
pub(super) fn compression(root: &Map<String, Value>) -> Result<Option<Compression>, ConfigError> {
    let Some(config) = root.get("quantization_config").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let refuse = |what: String| ConfigError::Unsupported {
        what: format!("quantization_config with {what}"),
        supported: "compressed-tensors of 8-bit integers, packed 4 and 8 bits and FP8 are, symmetric, and plain F32, F16 and BF16",
    };
    let method = config.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
    if method != "compressed-tensors" {
        return Err(refuse(format!("method {method:?}")));
    }
    let (mut bits, mut inputs) = (4, Inputs::default());
    let groups = config.get("config_groups").and_then(Value::as_object);
    for (name, group) in groups.into_iter().flatten() {
        let weights = group.get("weights").filter(|weights| !weights.is_null());
        let Some(weights) = weights else { continue };
        let number = |key: &str| weights.get(key).and_then(Value::as_u64);
        let text = |key: &str| weights.get(key).and_then(Value::as_str);
        if let Some(activations) = group.get("input_activations").filter(|found| !found.is_null()) {
            inputs = inputs.and(activations);
        }
        if weights.get("symmetric").and_then(Value::as_bool) == Some(false) {
            return Err(refuse(format!("asymmetric weights in {name}")));
        }
        if weights.get("actorder").is_some_and(|order| !order.is_null() && order != &Value::from("weight")) {
            return Err(refuse(format!("reordered inputs (actorder) in {name}")));
        }
        match (text("type").unwrap_or("int"), number("num_bits").unwrap_or(8)) {
            ("int", found @ (4 | 8)) => bits = found as u32,
            ("float", 8) => {}
            (kind, found) => return Err(refuse(format!("{found}-bit {kind} weights in {name}"))),
        }
    }
    Ok(Some(Compression { bits, inputs }))
}

impl Inputs {
    /// With what another group says. A rule that we do not have is replaced by ours, which rounds less: 32 activations share a scale.
    fn and(self, activations: &Value) -> Inputs {
        let text = |key: &str| activations.get(key).and_then(Value::as_str);
        let is = |key: &str| activations.get(key).and_then(Value::as_bool);
        let bytes = text("type").unwrap_or("int") == "int"
            && activations.get("num_bits").and_then(Value::as_u64).unwrap_or(8) == 8
            && is("symmetric") != Some(false);
        match (text("strategy"), is("dynamic").unwrap_or(false)) {
            (Some("token"), true) if bytes => Inputs { token: true, ..self },
            (Some("tensor") | None, false) if bytes => Inputs { stored: true, ..self },
            _ => self,
        }
    }
}

/// How what is multiplied with one matrix is rounded.
#[derive(Clone, Debug)]
pub(super) enum Activations {
    /// By this rule.
    Known(Rounding),
    /// With the number at this place.
    Stored { name: String, dtype: DType, scale: Span },
}

impl Activations {
    /// Reads the scale if it is stored.
    ///
    /// # Errors
    /// When it is no positive number.
    pub(super) fn rounding(&self, files: &[MappedFile]) -> Result<Rounding, ConfigError> {
        let (name, dtype, scale) = match self {
            Activations::Known(rounding) => return Ok(*rounding),
            Activations::Stored { name, dtype, scale } => (name, dtype, scale),
        };
        let scale = match (dtype, scale.of(files)) {
            (DType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (DType::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
            (DType::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
            (dtype, bytes) => {
                return Err(bad(name.clone(), format!("{} bytes of {dtype}", bytes.len()), "one number"));
            }
        };
        match scale.is_normal() && scale > 0.0 {
            true => Ok(Rounding::Fixed(scale)),
            false => Err(bad(name.clone(), scale.to_string(), "a positive number")),
        }
    }
}

fn bad(key: String, found: String, expected: &str) -> ConfigError {
    ConfigError::Range { key, found, expected: expected.into() }
}

/// What a tensor is that others belong to.
pub(super) enum Assembled {
    /// One of the file.
    Plain(usize, Entry),
    /// A matrix of codes; the entry is that of the codes, under the name of the weight.
    Compressed { file: usize, entry: Entry, matrix: Compressed, activations: Activations },
}

/// Puts codes and scales together.
///
/// # Errors
/// When a matrix lacks its scales or their shapes do not fit each other.
pub(super) fn assemble(
    compression: Option<Compression>,
    entries: Vec<(usize, Entry)>,
) -> Result<Vec<Assembled>, ConfigError> {
    let Some(Compression { bits, inputs }) = compression else {
        return Ok(entries.into_iter().map(|(file, entry)| Assembled::Plain(file, entry)).collect());
    };
    let by_name: HashMap<String, (usize, Entry)> =
        entries.iter().map(|(file, entry)| (entry.name.clone(), (*file, entry.clone()))).collect();
    let companions =
        ["weight_scale", "weight_shape", "input_scale", "weight_zero_point", "weight_g_idx", "output_scale"];
    let mut assembled = Vec::new();
    for (file, entry) in entries {
        let Some((module, part)) = entry.name.rsplit_once('.') else {
            assembled.push(Assembled::Plain(file, entry));
            continue;
        };
        if companions.contains(&part) {
            continue;
        }
        let code = match (part, &entry.dtype) {
            ("weight_packed", _) => Code::Packed { bits },
            ("weight", Err(kind)) if kind == "I8" => Code::Int8,
            ("weight", Err(kind)) if kind == "F8_E4M3" => Code::Fp8,
            _ => {
                assembled.push(Assembled::Plain(file, entry));
                continue;
            }
        };
        let matrix = matrix(code, module, file, &entry, &by_name)?;
        let name = format!("{module}.weight");
        let shape = vec![matrix.rows, matrix.cols];
        // A scale that is there tells to which group a matrix belongs.
        let scaled = by_name.contains_key(&format!("{module}.input_scale"));
        let activations = match inputs {
            Inputs { stored: true, token } if scaled || !token => stored_scale(module, &by_name)?,
            Inputs { token: true, .. } => Activations::Known(Rounding::Rows),
            Inputs { .. } => Activations::Known(Rounding::Blocks),
        };
        let entry = Entry { name, shape, ..entry };
        assembled.push(Assembled::Compressed { file, entry, matrix, activations });
    }
    Ok(assembled)
}

fn stored_scale(module: &str, by_name: &HashMap<String, (usize, Entry)>) -> Result<Activations, ConfigError> {
    let name = format!("{module}.input_scale");
    let Some((file, entry)) = by_name.get(&name) else {
        return Err(ConfigError::Missing(format!("tensor {name}")));
    };
    let dtype =
        entry.dtype.clone().map_err(|found| bad(name.clone(), format!("of type {found}"), "a float"))?;
    Ok(Activations::Stored { name, dtype, scale: span(*file, entry) })
}

fn span(file: usize, entry: &Entry) -> Span {
    Span { file, offset: entry.offset, len: entry.len }
}

fn matrix(
    code: Code,
    module: &str,
    file: usize,
    entry: &Entry,
    by_name: &HashMap<String, (usize, Entry)>,
) -> Result<Compressed, ConfigError> {
    let scale_name = format!("{module}.weight_scale");
    let Some((scale_file, scales)) = by_name.get(&scale_name) else {
        return Err(ConfigError::Missing(format!("tensor {scale_name}")));
    };
    for part in ["weight_zero_point", "weight_g_idx"] {
        if by_name.contains_key(&format!("{module}.{part}")) {
            return Err(ConfigError::Unsupported {
                what: format!("tensor {module}.{part}"),
                supported: "symmetric weights in the order of their inputs are",
            });
        }
    }
    let [rows, width] = entry.shape[..] else {
        return Err(bad(entry.name.clone(), format!("of shape {:?}", entry.shape), "a matrix"));
    };
    let cols = match code {
        // Rows may end in the middle of a word; what the scales cover says where, for each group is whole.
        Code::Packed { bits } => width * (32 / bits as usize),
        Code::Int8 | Code::Fp8 => width,
    };
    let scale_dtype = scales
        .dtype
        .clone()
        .map_err(|found| bad(scale_name.clone(), format!("of type {found}"), "of floats"))?;
    let count: usize = scales.shape.iter().product();
    let per_row = if count == 1 { 0 } else { count / rows.max(1) };
    let fits = rows > 0 && cols > 0 && per_row > 0 && per_row * rows == count && cols.is_multiple_of(per_row);
    let enough = scales.len == count * scale_dtype.block_bytes() && scale_dtype.block_len() == 1;
    if !fits || !enough {
        let found = format!("of shape {:?}", scales.shape);
        return Err(bad(scale_name, found, "one scale for each row, or for each group of a row's inputs"));
    }
    Ok(Compressed::new(
        code,
        (rows, cols),
        span(file, entry),
        (span(*scale_file, scales), scale_dtype),
        per_row,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(weights: &str, inputs: &str) -> Map<String, Value> {
        let text = format!(
            r#"{{"quantization_config": {{"quant_method": "compressed-tensors", "config_groups": {{"group_0":
            {{"weights": {weights}, "input_activations": {inputs}}}}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn only_kinds_that_are_read_are_let_through() {
        assert_eq!(compression(&Map::new()), Ok(None));
        let bits = |weights: &str| compression(&config(weights, "null")).map(|found| found.unwrap().bits);
        assert_eq!(bits(r#"{"num_bits": 4, "type": "int", "symmetric": true}"#), Ok(4));
        assert_eq!(bits(r#"{"num_bits": 8, "type": "int"}"#), Ok(8));
        assert!(bits(r#"{"num_bits": 8, "type": "float"}"#).is_ok());
        for bad in [
            r#"{"num_bits": 4, "type": "int", "symmetric": false}"#,
            r#"{"num_bits": 3, "type": "int"}"#,
            r#"{"num_bits": 4, "type": "int", "actorder": "group"}"#,
        ] {
            assert!(matches!(bits(bad), Err(ConfigError::Unsupported { .. })), "{bad}");
        }
        let other = serde_json::from_str(r#"{"quantization_config": {"quant_method": "awq"}}"#).unwrap();
        assert!(compression(&other).unwrap_err().to_string().contains("awq"));
    }

    #[test]
    fn rules_for_activations_are_taken_over_where_we_have_them() {
        let bytes = r#"{"num_bits": 8, "type": "int"}"#;
        let inputs = |text: &str| compression(&config(bytes, text)).unwrap().unwrap().inputs;
        let token =
            r#"{"num_bits": 8, "type": "int", "symmetric": true, "strategy": "token", "dynamic": true}"#;
        assert_eq!(inputs(token), Inputs { token: true, stored: false });
        let tensor =
            r#"{"num_bits": 8, "type": "int", "symmetric": true, "strategy": "tensor", "dynamic": false}"#;
        assert_eq!(inputs(tensor), Inputs { token: false, stored: true });
        for free in ["null", &token.replace("int", "float"), &tensor.replace("true", "false")] {
            assert_eq!(inputs(free), Inputs::default(), "{free}");
        }
    }

    #[test]
    fn codes_without_fitting_scales_are_refused() {
        let entry = |name: &str, dtype: Result<DType, &str>, shape: &[usize], bytes: usize| {
            let dtype = dtype.map_err(str::to_owned);
            let len = shape.iter().product::<usize>() * bytes;
            (0, Entry { name: name.into(), dtype, shape: shape.to_vec(), offset: 0, len })
        };
        let all = |scales: Option<&[usize]>| {
            let mut entries = vec![entry("a.weight", Err("I8"), &[4, 64], 1)];
            entries.extend(scales.map(|shape| entry("a.weight_scale", Ok(DType::BF16), shape, 2)));
            assemble(Some(Compression { bits: 8, inputs: Inputs::default() }), entries)
        };
        let found = all(Some(&[4, 1])).unwrap();
        assert!(matches!(&found[..], [Assembled::Compressed { entry, .. }] if entry.shape == [4, 64]));
        assert!(matches!(all(None), Err(ConfigError::Missing(_))));
        assert!(all(Some(&[3, 1])).is_err());
        assert!(all(Some(&[4, 5])).is_err());
    }
}
