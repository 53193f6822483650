//! Decides how many bytes weights take in each scheme: what `wharf quantize` writes, by its rules, without writing it.

use std::collections::BTreeMap;
use std::str::FromStr;

use thiserror::Error;

use crate::shape::{Group, Matrix, Shape};
use crate::types::{Arithmetic, Type, TypeShare, by_name};

/// What the weights become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scheme {
    /// Name on the command line and in YAML.
    pub name: &'static str,
    /// Bits of a code, without scales: what "a 4-bit model" means.
    pub code_bits: f64,
    /// What GPUs multiply in.
    pub arithmetic: Arithmetic,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Everything as one float type.
    Float(&'static str),
    /// A GGUF file: matrices of this type, the output projection and favoured ones of more bits.
    Blocks { base: &'static str, favours: bool },
    /// Codes for the matrices of the layers with scales of two bytes beside them; the rest in 16 bits.
    Codes { code: &'static str, group: Option<u64> },
}

const fn codes(name: &'static str, code_bits: f64, arithmetic: Arithmetic, code: &'static str) -> Scheme {
    let group = if code_bits < 8.0 { Some(128) } else { None };
    Scheme { name, code_bits, arithmetic, kind: Kind::Codes { code, group } }
}

const fn blocks(name: &'static str, code_bits: f64, base: &'static str, favours: bool) -> Scheme {
    Scheme { name, code_bits, arithmetic: Arithmetic::Half, kind: Kind::Blocks { base, favours } }
}

const fn float(name: &'static str, code_bits: f64, dtype: &'static str) -> Scheme {
    Scheme { name, code_bits, arithmetic: Arithmetic::Half, kind: Kind::Float(dtype) }
}

/// Every scheme: the names of `wharf quantize`, and the floats that models come in.
pub const SCHEMES: &[Scheme] = &[
    float("f32", 32.0, "F32"),
    float("bf16", 16.0, "BF16"),
    float("f16", 16.0, "F16"),
    blocks("q8_0", 8.0, "Q8_0", false),
    blocks("q6_k", 6.0, "Q6_K", false),
    blocks("q5_k_m", 5.0, "Q5_K", true),
    blocks("q4_k_m", 4.0, "Q4_K", true),
    blocks("q4_1", 4.0, "Q4_1", false),
    blocks("q4_0", 4.0, "Q4_0", false),
    codes("int8", 8.0, Arithmetic::Int8, "I8"),
    codes("int8-static", 8.0, Arithmetic::Int8, "I8"),
    codes("int8-weight", 8.0, Arithmetic::Half, "I8"),
    codes("int4", 4.0, Arithmetic::Half, "I4"),
    codes("int4-gptq", 4.0, Arithmetic::Half, "I4"),
    codes("int4-awq", 4.0, Arithmetic::Half, "I4"),
    codes("fp8", 8.0, Arithmetic::Fp8, "F8_E4M3"),
];

/// A name that is no scheme's.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no scheme; there are {names}", names = names())]
pub struct SchemeError(String);

fn names() -> String {
    SCHEMES.iter().map(|scheme| scheme.name).collect::<Vec<_>>().join(", ")
}

impl FromStr for Scheme {
    type Err = SchemeError;

    fn from_str(name: &str) -> Result<Scheme, SchemeError> {
        let found = SCHEMES.iter().find(|known| known.name.eq_ignore_ascii_case(name));
        found.copied().ok_or_else(|| SchemeError(name.to_owned()))
    }
}

impl Scheme {
    /// What the weights of `shape` become.
    pub fn apply(&self, shape: &Shape) -> BTreeMap<Group, Vec<TypeShare>> {
        let mut shares: BTreeMap<Group, Vec<TypeShare>> = BTreeMap::new();
        let mut add = |group, share: TypeShare| merge(shares.entry(group).or_default(), share);
        for matrix in shape.matrices() {
            match self.kind {
                Kind::Float(dtype) => add(matrix.group, share(dtype, matrix.elements())),
                Kind::Blocks { base, favours } => {
                    for (dtype, elements) in block_types(shape, &matrix, base, favours) {
                        add(matrix.group, share(dtype, elements));
                    }
                }
                Kind::Codes { code, group } => {
                    let elements = matrix.elements();
                    if matches!(matrix.group, Group::Embedding | Group::Output) {
                        add(matrix.group, share("BF16", elements));
                        continue;
                    }
                    let scales = elements / group.unwrap_or(matrix.cols).max(1);
                    let codes = share(code, elements);
                    add(matrix.group, TypeShare { bytes: codes.bytes + 2 * scales, ..codes });
                }
            }
        }
        let vectors = match self.kind {
            Kind::Blocks { .. } => "F32",
            Kind::Float(dtype) => dtype,
            Kind::Codes { .. } => "BF16",
        };
        add(Group::Rest, share(vectors, shape.elements(Group::Rest)));
        shares
    }
}

/// Adds to the share of the same type.
pub(crate) fn merge(shares: &mut Vec<TypeShare>, more: TypeShare) {
    match shares.iter_mut().find(|share| share.dtype == more.dtype) {
        Some(share) => {
            share.elements = share.elements.saturating_add(more.elements);
            share.bytes = share.bytes.saturating_add(more.bytes);
        }
        None => shares.push(more),
    }
}

fn share(dtype: &str, elements: u64) -> TypeShare {
    TypeShare::of(known(dtype), elements)
}

fn known(dtype: &str) -> &'static Type {
    by_name(dtype).expect("schemes name types of the table")
}

/// Types of a matrix in a GGUF file, with the elements of each.
fn block_types(
    shape: &Shape,
    matrix: &Matrix,
    base: &'static str,
    favours: bool,
) -> Vec<(&'static str, u64)> {
    let is_output =
        matrix.group == Group::Output || (shape.tied_embeddings && matrix.group == Group::Embedding);
    let most = fitting("Q6_K", matrix.cols);
    if is_output && base != "Q8_0" {
        return vec![(most, matrix.elements())];
    }
    let base = fitting(base, matrix.cols);
    if !(favours && matrix.favoured) {
        return vec![(base, matrix.elements())];
    }
    let favoured = (0..shape.n_layers).filter(|layer| more_bits(*layer, shape.n_layers)).count() as u64;
    let better = matrix.elements() * favoured / shape.n_layers.max(1);
    vec![(most, better), (base, matrix.elements() - better)]
}

/// Layers at both ends and every third between them, as `wharf quantize` has it.
fn more_bits(layer: u64, layers: u64) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// The type nearest to `wanted` whose blocks fill rows of `cols` elements, never with fewer bits.
fn fitting(wanted: &'static str, cols: u64) -> &'static str {
    let smaller_blocks = match wanted {
        "Q4_K" => "Q5_0",
        "Q5_K" => "Q5_1",
        "Q6_K" => "Q8_0",
        other => other,
    };
    let fits = |dtype: &&str| cols.is_multiple_of(known(dtype).block);
    [wanted, smaller_blocks].into_iter().find(fits).unwrap_or("F16")
}

/// The scheme whose arithmetic and bits are nearest to what the weights are stored as, for forecasts of weights as they are.
pub(crate) fn arithmetic_of(shares: &BTreeMap<Group, Vec<TypeShare>>) -> Arithmetic {
    let layers = shares.get(&Group::Experts).or_else(|| shares.get(&Group::Layers));
    let largest = layers.and_then(|shares| shares.iter().max_by_key(|share| share.elements));
    match largest.map(|share| share.dtype.as_str()) {
        Some("F8_E4M3") => Arithmetic::Fp8,
        Some("I8") => Arithmetic::Int8,
        _ => Arithmetic::Half,
    }
}
