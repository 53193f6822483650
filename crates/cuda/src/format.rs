//! Decides in which of the kernels' formats a matrix lies in device memory, and where in it each weight is. `kernels/weights.cuh` says the same
//! for whoever reads it.

use wharf_kernels::DType;
use wharf_kernels::block::Integers;

/// Columns that a warp multiplies at once.
pub(crate) const CHUNK: usize = 32;
/// Rows of a tile.
pub(crate) const TILE: usize = 16;

/// Sixteen bits of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// IEEE half precision.
    Half,
    /// bfloat16.
    Brain,
}

impl Kind {
    /// As kernels number it.
    pub(crate) fn number(self) -> i32 {
        match self {
            Kind::Half => 0,
            Kind::Brain => 1,
        }
    }
}

/// How the weights of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Sixteen-bit floats.
    Floats(Kind),
    /// Integers with scales.
    Integers {
        /// Two weights a byte instead of one.
        four_bits: bool,
        /// Sub-blocks of 16 weights instead of 32.
        halves: bool,
        /// Whether sub-blocks have a minimum beside the scale.
        affine: bool,
    },
}

impl Format {
    /// All that kernels know.
    #[cfg(test)]
    pub(crate) const ALL: [Format; 9] = [
        Format::Floats(Kind::Half),
        Format::Floats(Kind::Brain),
        Format::Integers { four_bits: false, halves: false, affine: false },
        Format::Integers { four_bits: false, halves: false, affine: true },
        Format::Integers { four_bits: false, halves: true, affine: false },
        Format::Integers { four_bits: true, halves: false, affine: false },
        Format::Integers { four_bits: true, halves: false, affine: true },
        Format::Integers { four_bits: true, halves: true, affine: false },
        Format::Integers { four_bits: true, halves: true, affine: true },
    ];

    /// The one that holds weights of a type. Single precision becomes half: a tensor core multiplies no more of it, and no weight is too large.
    pub(crate) fn of(dtype: DType) -> Format {
        match (dtype, Integers::of(dtype)) {
            (DType::BF16, _) => Format::Floats(Kind::Brain),
            (_, None) => Format::Floats(Kind::Half),
            (_, Some(integers)) => Format::Integers {
                four_bits: integers.four_bits,
                halves: integers.sub_block < CHUNK,
                affine: integers.affine,
            },
        }
    }

    /// As the names of kernels have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Floats(Kind::Half) => "half",
            Format::Floats(Kind::Brain) => "brain",
            Format::Integers { four_bits, halves, affine } => match (four_bits, halves, affine) {
                (false, false, false) => "bytes",
                (false, false, true) => "bytes_affine",
                (false, true, false) => "bytes_16",
                (false, true, true) => unreachable!("no type has bytes in halves with minima"),
                (true, false, false) => "nibbles",
                (true, false, true) => "nibbles_affine",
                (true, true, false) => "nibbles_16",
                (true, true, true) => "nibbles_16_affine",
            },
        }
    }

    /// What it is multiplied with.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Format::Floats(kind) => kind,
            Format::Integers { .. } => Kind::Half,
        }
    }

    /// Bytes of a chunk of a tile without its scales.
    pub(crate) fn chunk_bytes(self) -> usize {
        match self {
            Format::Floats(_) => TILE * CHUNK * 2,
            Format::Integers { four_bits: false, .. } => TILE * CHUNK,
            Format::Integers { four_bits: true, .. } => TILE * CHUNK / 2,
        }
    }

    /// Sub-blocks of a row in a chunk, and the planes of half-precision numbers that each chunk of a tile has for all its rows.
    pub(crate) fn scales(self) -> (usize, usize) {
        match self {
            Format::Floats(_) => (0, 0),
            Format::Integers { halves, affine, .. } => {
                let subs = if halves { 2 } else { 1 };
                (subs, if affine { 2 * subs } else { subs })
            }
        }
    }
}

/// Where element `k` of a row stands among the 32 of its chunk: at `8 t + e` for lane t's element e. Activations lie in the same order
/// (`place` in `kernels/activations.cuh`).
pub(crate) fn place(k: usize) -> usize {
    let (within, quad) = (k % CHUNK, k % 16);
    k - within + quad / 4 * 8 + within / 16 * 4 + quad % 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_has_a_place_of_its_own_in_its_chunk() {
        let mut places: Vec<usize> = (0..64).map(place).collect();
        assert_eq!(places[..20], [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27, 4, 5, 6, 7]);
        assert!(places[..32].iter().all(|place| *place < 32));
        places.sort_unstable();
        assert!(places.into_iter().eq(0..64));
    }

    #[test]
    fn every_type_has_a_format_with_a_kernel() {
        for dtype in DType::ALL {
            assert!(Format::ALL.contains(&Format::of(dtype)), "{dtype}");
        }
    }
}
