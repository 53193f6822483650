//! Decides which forms of activations a matrix of some weights reads, and which forms serve several matrices.

use crate::{
    DType,
    block::Format,
    simd::{CodeRange, Many},
};

/// Which activations share a scale where they are rounded to signed bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Rounding {
    /// Thirty-two consecutive ones: a 127th of the largest.
    #[default]
    Blocks,
    /// All of a row: a 127th of the largest ("per token").
    Rows,
    /// All that there are: this scale, positive; what it does not reach is cut off ("static").
    Fixed(f32),
}

/// The forms of activations that a matrix product reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputKind {
    pub(super) float: bool,
    pub(super) bf16: bool,
    pub(super) quantized: bool,
    /// How those are rounded.
    pub(super) rounding: Rounding,
    /// Whether byte weights of the full range occur, for which some instruction sets want 16-bit numbers.
    pub(super) bytes: bool,
    /// Whether a matrix unit multiplies all formats that occur.
    pub(super) matrix: bool,
}

impl InputKind {
    /// No form at all.
    pub const NONE: InputKind = InputKind {
        float: false,
        bf16: false,
        quantized: false,
        rounding: Rounding::Blocks,
        bytes: false,
        matrix: true,
    };

    pub(crate) fn of(dtype: DType) -> InputKind {
        let matrix = Many::Matrix.knows(dtype);
        match Format::of(dtype) {
            None if dtype == DType::BF16 => InputKind { bf16: true, matrix, ..InputKind::NONE },
            None => InputKind { float: true, matrix, ..InputKind::NONE },
            Some(format) => {
                let bytes = format.range == CodeRange::Bits8;
                InputKind { quantized: true, bytes, matrix, ..InputKind::NONE }
            }
        }
    }

    /// Whether quantised activations are read.
    pub(crate) fn quantized(self) -> bool {
        self.quantized
    }

    /// The same, rounded by another rule.
    pub(crate) fn rounded(self, rounding: Rounding) -> InputKind {
        InputKind { rounding, ..self }
    }

    /// Whether rows are rounded by their largest magnitude, which is that of all ranks where each has a part of them.
    pub fn whole_rows(self) -> bool {
        self.quantized && self.rounding == Rounding::Rows
    }

    /// What either needs. Both round by one rule where both read what is rounded.
    pub fn union(self, other: InputKind) -> InputKind {
        InputKind {
            float: self.float || other.float,
            bf16: self.bf16 || other.bf16,
            quantized: self.quantized || other.quantized,
            rounding: if self.quantized { self.rounding } else { other.rounding },
            bytes: self.bytes || other.bytes,
            matrix: self.matrix && other.matrix,
        }
    }

    /// Whether what reads `other` finds its forms in these.
    pub(super) fn covers(self, other: InputKind) -> bool {
        self.union(other) == self && (!other.quantized || self.rounding == other.rounding)
    }
}
