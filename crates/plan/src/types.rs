//! Decides how many bits an element of each type takes, in a file and packed for the CPU.

use serde::Serialize;

/// Elements of one type.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TypeShare {
    /// Name of the type, as files call it.
    pub dtype: String,
    /// Weights of that type.
    pub elements: u64,
    /// Bytes that they take in a file, scales included.
    pub bytes: u64,
}

impl TypeShare {
    /// So many elements of a type of [`TYPES`].
    pub fn of(dtype: &Type, elements: u64) -> TypeShare {
        TypeShare {
            dtype: dtype.name.to_owned(),
            elements,
            bytes: (elements as f64 * dtype.bits / 8.0).round() as u64,
        }
    }

    /// Bytes that they take when they are packed for the CPU. A type that nothing is known of keeps those of its file.
    pub fn packed_bytes(&self) -> u64 {
        by_name(&self.dtype).map_or(self.bytes, |known| {
            let bits = known.packed_bits;
            // Scales that lie beside the codes of a file are in its bytes already; blocks have theirs in the type's bits.
            (self.elements as f64 * bits / 8.0).round() as u64
        })
    }
}

/// What a weight is multiplied in by GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// Half precision or bfloat16: those and every weight-only type.
    Half,
    /// E4M3.
    Fp8,
    /// Signed bytes.
    Int8,
}

/// A type of weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Type {
    /// As files call it.
    pub name: &'static str,
    /// Bits of an element in a file, with its share of scales where a block has them.
    pub bits: f64,
    /// Bits of an element in panels of sixteen outputs, as CPU kernels read it. Codes take four bits or eight: what has five
    /// or six in a file takes eight there.
    pub packed_bits: f64,
    /// Elements that a row must have a multiple of.
    pub block: u64,
}

const fn float(name: &'static str, bits: f64) -> Type {
    Type { name, bits, packed_bits: bits, block: 1 }
}

const fn block(name: &'static str, bits: f64, packed_bits: f64, block: u64) -> Type {
    Type { name, bits, packed_bits, block }
}

/// Every type that is known. A test compares the packed bits with what `wharf_kernels` packs.
pub const TYPES: &[Type] = &[
    float("F32", 32.0),
    float("F16", 16.0),
    float("BF16", 16.0),
    block("Q4_0", 4.5, 4.5, 32),
    block("Q4_1", 5.0, 5.0, 32),
    block("Q5_0", 5.5, 8.5, 32),
    block("Q5_1", 6.0, 9.0, 32),
    block("Q8_0", 8.5, 8.5, 32),
    block("Q2_K", 2.625, 5.125, 256),
    block("Q3_K", 3.4375, 4.5625, 256),
    block("Q4_K", 4.5, 4.625, 256),
    block("Q5_K", 5.5, 8.625, 256),
    block("Q6_K", 6.5625, 8.5625, 256),
    // Codes of compressed-tensors; their scales are counted apart. On CPUs they become the block type that holds them.
    block("I8", 8.0, 8.5, 1),
    block("I4", 4.0, 4.5, 1),
    block("F8_E4M3", 8.0, 16.0, 1),
];

/// The type of that name.
pub fn by_name(name: &str) -> Option<&'static Type> {
    TYPES.iter().find(|known| known.name == name)
}

#[cfg(test)]
mod tests {
    use wharf_kernels::{DType, PackedMatrix, Part, Team};

    use super::*;

    #[test]
    fn types_take_what_the_kernels_say() {
        let team = Team::new(1);
        for dtype in DType::ALL {
            let known = by_name(dtype.name()).unwrap();
            let bits = dtype.block_bytes() as f64 * 8.0 / dtype.block_len() as f64;
            assert_eq!((known.bits, known.block), (bits, dtype.block_len() as u64), "{dtype}");
            let (rows, k) = (64, 1024);
            let data = vec![0; rows * dtype.bytes_for(k).unwrap()];
            let packed = PackedMatrix::pack(&[Part { dtype, rows, data: &data }], k, &team).unwrap();
            let share = TypeShare::of(known, (rows * k) as u64);
            assert_eq!(
                (share.bytes, share.packed_bytes()),
                (data.len() as u64, packed.bytes() as u64),
                "{dtype}"
            );
        }
    }
}
