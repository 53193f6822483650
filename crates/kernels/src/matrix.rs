//! Decides how weights lie in memory: panels of sixteen outputs, packed once from the file's blocks.
//!
//! A panel of a quantised type is its codes (32 inputs by 16 outputs at a time, in the order that
//! `simd::Simd` names) followed by its scales; a panel of a float type is `[k][16]` in the stored type.
//! Nothing is padded but the outputs of a part to a multiple of 16, and the source is not kept.

mod layout;

use std::fmt;

use layout::{Lines, PartLayout};
pub(crate) use layout::{Panel, QuantLayout};

use crate::{DType, InputKind, Team, block::Format, simd::LANES};

/// A block of consecutive outputs of a matrix, as a file stores it.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// Type of the elements.
    pub dtype: DType,
    /// Outputs.
    pub rows: usize,
    /// `rows` rows of `k` elements, one after the other.
    pub data: &'a [u8],
}

/// Why a matrix could not be packed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// A part's bytes are not those of its shape.
    #[error(
        "failed to pack part {part} of a matrix: {rows} rows of {k} {dtype} elements do not take {bytes} bytes"
    )]
    Length {
        /// Which part.
        part: usize,
        /// Type of its elements.
        dtype: DType,
        /// Its outputs.
        rows: usize,
        /// Inputs.
        k: usize,
        /// Bytes that were given.
        bytes: usize,
    },
    /// A row does not consist of whole blocks.
    #[error("failed to pack part {part} of a matrix: rows of {k} are no whole number of {dtype} blocks")]
    Ragged {
        /// Which part.
        part: usize,
        /// Type of its elements.
        dtype: DType,
        /// Inputs.
        k: usize,
    },
    /// The matrix has more bytes than memory can address.
    #[error("failed to pack a matrix: its size overflows")]
    Overflow,
}

/// A weight matrix `[n outputs, k inputs]` in the order in which kernels read it.
pub struct PackedMatrix {
    lines: Lines,
    parts: Vec<PartLayout>,
    n: usize,
    k: usize,
    input: InputKind,
}

impl PackedMatrix {
    /// Packs row blocks that stand on top of each other (fused QKV, gate and up), each of its own type.
    ///
    /// # Errors
    /// When a part's bytes do not fit its shape.
    pub fn pack(parts: &[Part<'_>], k: usize, team: &Team) -> Result<PackedMatrix, PackError> {
        let mut layouts = Vec::with_capacity(parts.len());
        let (mut n, mut lines) = (0usize, 0usize);
        let mut input = InputKind::NONE;
        for (index, &Part { dtype, rows, data }) in parts.iter().enumerate() {
            let row_bytes = dtype.bytes_for(k).ok_or(PackError::Ragged { part: index, dtype, k })?;
            if row_bytes.checked_mul(rows) != Some(data.len()) {
                return Err(PackError::Length { part: index, dtype, rows, k, bytes: data.len() });
            }
            let layout = PartLayout::new(dtype, rows, k, n, lines).ok_or(PackError::Overflow)?;
            n = n.checked_add(rows).ok_or(PackError::Overflow)?;
            lines = layout.end_line().ok_or(PackError::Overflow)?;
            input = input.union(InputKind::of(Format::of(dtype)));
            layouts.push(layout);
        }
        let mut packed = Lines::zeroed(lines);
        for (layout, part) in layouts.iter().zip(parts) {
            let panels = packed.range_mut(layout.first_line, layout.panels * layout.panel_lines);
            let grain = 65_536usize.div_ceil(layout.panel_bytes().max(1));
            team.for_each_chunk(panels, layout.panel_bytes(), grain, &|panel, out| {
                layout.pack_panel(part.data, panel, out);
            });
        }
        Ok(PackedMatrix { lines: packed, parts: layouts, n, k, input })
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Resident bytes.
    pub fn bytes(&self) -> usize {
        self.lines.len() * 64
    }

    /// The forms of activations that a product with this matrix reads.
    pub fn input(&self) -> InputKind {
        self.input
    }

    /// Weights of output `n`, exactly as `block::dequantize` reads them from the source.
    ///
    /// # Panics
    /// When there is no such output or `out` is not `k` long.
    pub fn row(&self, n: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.k, "length of a row");
        let part = self
            .parts
            .iter()
            .find(|part| (part.first..part.first + part.rows).contains(&n))
            .expect("an output of the matrix");
        let at = n - part.first;
        part.unpack_row(self.panel_bytes(part, at / LANES), at % LANES, out);
    }

    /// Whether the outputs are two parts of the same number.
    pub(crate) fn halves(&self) -> bool {
        matches!(&self.parts[..], [first, second] if first.rows == second.rows)
    }

    /// Formats of the parts; `None` for floats.
    pub(crate) fn formats(&self) -> impl Iterator<Item = Option<Format>> {
        self.parts.iter().map(|part| Format::of(part.dtype))
    }

    /// Panels of all parts.
    pub(crate) fn panels(&self) -> usize {
        self.parts.iter().map(|part| part.panels).sum()
    }

    /// The type of panel `index` of all parts, and how many panels from it on are of the same part.
    pub(crate) fn panels_of_type(&self, mut index: usize) -> (DType, usize) {
        for part in &self.parts {
            if index < part.panels {
                return (part.dtype, part.panels - index);
            }
            index -= part.panels;
        }
        unreachable!("callers count panels with `panels`")
    }

    /// Panel `index` of all parts.
    pub(crate) fn panel(&self, mut index: usize) -> Panel<'_> {
        for part in &self.parts {
            if index < part.panels {
                let first = index * LANES;
                return Panel {
                    first: part.first + first,
                    outputs: (part.rows - first).min(LANES),
                    data: self.panel_bytes(part, index),
                };
            }
            index -= part.panels;
        }
        unreachable!("callers count panels with `panels`")
    }

    fn panel_bytes(&self, part: &PartLayout, panel: usize) -> &[u8] {
        let bytes = self.lines.range(part.first_line + panel * part.panel_lines, part.panel_lines);
        &bytes[..part.used_bytes()]
    }
}

impl fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types: Vec<&str> = self.parts.iter().map(|part| part.dtype.name()).collect();
        write!(f, "PackedMatrix([{}, {}] {})", self.n, self.k, types.join("+"))
    }
}

#[cfg(test)]
mod tests;
