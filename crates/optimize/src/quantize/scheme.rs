//! Decides what each scheme is called and what kind of file it makes.

use std::fmt;
use std::str::FromStr;

use wharf_kernels::DType;

use super::calibrated::Method;

/// What the weights become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A GGUF file of block types.
    Gguf(GgufScheme),
    /// A folder in the format of compressed-tensors, which vLLM reads.
    Compressed(CompressedScheme),
}

/// A mix of block types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufScheme {
    /// 8 bits throughout.
    Q8_0,
    /// 4 bits in blocks of 32 with a scale.
    Q4_0,
    /// 4 bits in blocks of 32 with a scale and a minimum.
    Q4_1,
    /// 4 bits in super-blocks, 6 where it matters most.
    Q4KM,
    /// 5 bits in super-blocks, 6 where it matters most.
    Q5KM,
    /// 6 bits in super-blocks.
    Q6K,
}

/// Codes with scales beside them; the matrices of the layers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressedScheme {
    /// Signed bytes with a scale for each output; activations become signed bytes too, with a scale for each token.
    Int8,
    /// As `Int8`, but activations have one scale for each matrix, from the range that calibration has observed.
    Int8Static,
    /// Signed bytes with a scale for each output; activations stay floats.
    Int8Weight,
    /// Four bits with a scale for each group of inputs; activations stay floats.
    Int4,
    /// As `Int4`, and what rounding one weight does to outputs is made up for by the weights after it.
    Int4Gptq,
    /// As `Int4`, after columns that matter have been made larger, and what they are multiplied with smaller.
    Int4Awq,
    /// E4M3 with a scale for each output; activations become E4M3 too, with a scale for each token.
    Fp8,
}

/// Every scheme with its name on the command line and in YAML.
pub const SCHEMES: &[(&str, Scheme)] = &[
    ("q8_0", Scheme::Gguf(GgufScheme::Q8_0)),
    ("q6_k", Scheme::Gguf(GgufScheme::Q6K)),
    ("q5_k_m", Scheme::Gguf(GgufScheme::Q5KM)),
    ("q4_k_m", Scheme::Gguf(GgufScheme::Q4KM)),
    ("q4_1", Scheme::Gguf(GgufScheme::Q4_1)),
    ("q4_0", Scheme::Gguf(GgufScheme::Q4_0)),
    ("int8", Scheme::Compressed(CompressedScheme::Int8)),
    ("int8-static", Scheme::Compressed(CompressedScheme::Int8Static)),
    ("int8-weight", Scheme::Compressed(CompressedScheme::Int8Weight)),
    ("int4", Scheme::Compressed(CompressedScheme::Int4)),
    ("int4-gptq", Scheme::Compressed(CompressedScheme::Int4Gptq)),
    ("int4-awq", Scheme::Compressed(CompressedScheme::Int4Awq)),
    ("fp8", Scheme::Compressed(CompressedScheme::Fp8)),
];

/// What a code of a weight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int8,
    Int4,
    Fp8,
}

impl CompressedScheme {
    pub(super) fn codes(self) -> Kind {
        match self {
            CompressedScheme::Int8 | CompressedScheme::Int8Static | CompressedScheme::Int8Weight => {
                Kind::Int8
            }
            CompressedScheme::Int4 | CompressedScheme::Int4Gptq | CompressedScheme::Int4Awq => Kind::Int4,
            CompressedScheme::Fp8 => Kind::Fp8,
        }
    }

    /// Whether codes lie in words of 32 bits, as they do where only weights are rounded.
    pub(super) fn is_packed(self) -> bool {
        !matches!(self, CompressedScheme::Int8 | CompressedScheme::Int8Static | CompressedScheme::Fp8)
    }
}

/// Whether a scheme looks at text before it rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calibrates {
    /// Text changes nothing.
    Never,
    /// It rounds better with a text.
    IfGiven,
    /// It needs one.
    Always,
}

impl Scheme {
    /// Whether it looks at text.
    pub fn calibrates(self) -> Calibrates {
        match self {
            _ if Method::of(self).is_none() => Calibrates::Never,
            Scheme::Compressed(
                CompressedScheme::Int8Static | CompressedScheme::Int4Gptq | CompressedScheme::Int4Awq,
            ) => Calibrates::Always,
            _ => Calibrates::IfGiven,
        }
    }
}

impl GgufScheme {
    /// The type of an ordinary matrix.
    pub(crate) fn base(self) -> DType {
        match self {
            GgufScheme::Q8_0 => DType::Q8_0,
            GgufScheme::Q4_0 => DType::Q4_0,
            GgufScheme::Q4_1 => DType::Q4_1,
            GgufScheme::Q4KM => DType::Q4K,
            GgufScheme::Q5KM => DType::Q5K,
            GgufScheme::Q6K => DType::Q6K,
        }
    }

    /// `general.file_type`, a number of llama.cpp's `enum llama_ftype`.
    pub(crate) fn file_type(self) -> u32 {
        match self {
            GgufScheme::Q4_0 => 2,
            GgufScheme::Q4_1 => 3,
            GgufScheme::Q8_0 => 7,
            GgufScheme::Q4KM => 15,
            GgufScheme::Q5KM => 17,
            GgufScheme::Q6K => 18,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) = SCHEMES.iter().find(|(_, scheme)| scheme == self).expect("every scheme is listed");
        f.write_str(name)
    }
}

/// A name that is no scheme's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no scheme; there are {names}", names = names())]
pub struct UnknownScheme(String);

fn names() -> String {
    SCHEMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

impl FromStr for Scheme {
    type Err = UnknownScheme;

    fn from_str(name: &str) -> Result<Scheme, UnknownScheme> {
        let found = SCHEMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, scheme)| *scheme).ok_or_else(|| UnknownScheme(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_asked_for_where_it_changes_something() {
        let calibrates = |name: &str| name.parse::<Scheme>().unwrap().calibrates();
        assert_eq!(["q8_0", "q6_k", "fp8"].map(calibrates), [Calibrates::Never; 3]);
        assert_eq!(["q4_k_m", "int8", "int8-weight", "int4"].map(calibrates), [Calibrates::IfGiven; 4]);
        assert_eq!(["int8-static", "int4-gptq", "int4-awq"].map(calibrates), [Calibrates::Always; 3]);
    }

    #[test]
    fn names_lead_to_schemes_and_back() {
        for (name, scheme) in SCHEMES {
            assert_eq!(name.parse::<Scheme>().unwrap(), *scheme);
            assert_eq!(scheme.to_string(), *name);
            assert_eq!(name.to_uppercase().parse::<Scheme>().unwrap(), *scheme);
        }
        let error = "q3".parse::<Scheme>().unwrap_err().to_string();
        assert!(error.contains("q4_k_m"), "{error}");
    }
}
