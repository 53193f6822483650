//! Decides in which types keys and values can be stored, what each takes, and how it is called.

use std::fmt;

use half::f16;
use wharf_kernels::attention::KvElement as _;
use wharf_model::ModelConfig;

use super::kv::KvArena;

/// Type of stored keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Half precision: the default.
    F16,
    /// Single precision, for comparison with references that store F32.
    F32,
    /// Signed bytes with a scale in single precision for each 32 elements: 56% of the memory of `F16`, and nearly its answers.
    Int8,
}

impl KvType {
    /// Every type.
    pub const ALL: [KvType; 3] = [KvType::F16, KvType::F32, KvType::Int8];

    /// `f16`, `f32` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::F32 => "f32",
            KvType::Int8 => "int8",
        }
    }

    /// The type of that name, if there is one.
    pub fn by_name(name: &str) -> Option<KvType> {
        KvType::ALL.into_iter().find(|kv_type| kv_type.name() == name)
    }

    /// Bytes of one token's keys and values with their scales, all layers together.
    pub fn bytes_per_token(self, config: &ModelConfig) -> usize {
        let vector = match self {
            KvType::F16 => config.head_dim * size_of::<f16>(),
            KvType::F32 => config.head_dim * size_of::<f32>(),
            KvType::Int8 => {
                config.head_dim * size_of::<i8>() + i8::vector_scales(config.head_dim) * size_of::<f32>()
            }
        };
        2 * config.layers.len() * config.n_kv_heads * vector
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// KV memory in the chosen type.
pub(super) enum Kv {
    F16(KvArena<f16>),
    F32(KvArena<f32>),
    Int8(KvArena<i8>),
}
