//! Decides how weights lie in memory: panels of sixteen outputs, packed once from the file's blocks.
//!
//! A panel of a quantised type is its codes (32 inputs by 16 outputs at a time, in the order that
//! `simd::Simd` names) followed by its scales; a panel of F32 or F16 is `[k][16]`, one of BF16 `[k / 2][16][2]` in the stored type.
//! Nothing is padded but the outputs of a part to a multiple of 16 and the inputs of BF16 to one of 32, and the source is not kept.

mod layout;
mod storage;

use std::fmt;
use std::ops::Range;

use layout::PartLayout;
pub(crate) use layout::{Panel, QuantLayout};
pub use storage::SharedBytes;
use storage::{LINE, Owned, Storage};

use crate::{DType, InputKind, Rounding, Team, simd::LANES};

/// Version of the order in which a packed matrix holds its bytes. It is the same on every instruction set and for any
/// number of threads. Whoever keeps packed bytes keeps this number with them; it goes up when the order changes, to which
/// a test holds it.
pub const PACK_LAYOUT: u32 = 2;

/// Outputs of a part that are computed together; a part's last panel may have fewer.
pub const PANEL: usize = LANES;

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
    /// Packed bytes are not where they are said to be.
    #[error("failed to view a packed matrix: {wanted} bytes from byte {offset} on do not lie within {there}")]
    Outside {
        /// Where the matrix begins.
        offset: usize,
        /// Bytes that it takes.
        wanted: usize,
        /// Bytes that there are.
        there: usize,
    },
    /// Packed bytes do not begin at a cache line.
    #[error("failed to view a packed matrix: byte {offset} is not at the begin of a cache line")]
    Misaligned {
        /// Where the matrix begins.
        offset: usize,
    },
}

/// A weight matrix `[n outputs, k inputs]` in the order in which kernels read it.
pub struct PackedMatrix {
    storage: Storage,
    shape: Shape,
}

/// Everything about a packed matrix but its bytes.
struct Shape {
    parts: Vec<PartLayout>,
    n: usize,
    k: usize,
    lines: usize,
    input: InputKind,
}

impl Shape {
    /// Looks at the length of the parts' data, never at the data.
    fn new(parts: &[Part<'_>], k: usize) -> Result<Shape, PackError> {
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
            input = input.union(InputKind::of(dtype));
            layouts.push(layout);
        }
        Ok(Shape { parts: layouts, n, k, lines, input })
    }
}

impl PackedMatrix {
    /// Packs row blocks that stand on top of each other (fused QKV, gate and up), each of its own type.
    ///
    /// # Errors
    /// When a part's bytes do not fit its shape.
    pub fn pack(parts: &[Part<'_>], k: usize, team: &Team) -> Result<PackedMatrix, PackError> {
        let shape = Shape::new(parts, k)?;
        let mut packed = Owned::zeroed(shape.lines);
        let mut rest = packed.bytes_mut();
        for (layout, part) in shape.parts.iter().zip(parts) {
            let (panels, after) = rest.split_at_mut(layout.panels * layout.panel_bytes());
            rest = after;
            let grain = 65_536usize.div_ceil(layout.panel_bytes().max(1));
            team.for_each_chunk(panels, layout.panel_bytes(), grain, &|panel, out| {
                layout.pack_panel(part.data, panel, out);
            });
        }
        Ok(PackedMatrix { storage: Storage::Owned(packed), shape })
    }

    /// The matrix that [`PackedMatrix::pack`] makes of `parts`, whose [`PackedMatrix::as_bytes`] somebody has kept in `bytes`
    /// from `offset` on. Only the lengths of the parts' data are looked at; what `bytes` say is believed.
    ///
    /// # Errors
    /// When the matrix does not lie within the bytes, or not at a cache line, or a part does not fit its shape.
    pub fn view(
        parts: &[Part<'_>],
        k: usize,
        bytes: SharedBytes,
        offset: usize,
    ) -> Result<PackedMatrix, PackError> {
        let shape = Shape::new(parts, k)?;
        let (wanted, held) = (shape.lines * LINE, bytes.as_ref().as_ref());
        let outside = PackError::Outside { offset, wanted, there: held.len() };
        let view = held.get(offset..).and_then(|rest| rest.get(..wanted)).ok_or(outside)?;
        if !view.as_ptr().addr().is_multiple_of(LINE) {
            return Err(PackError::Misaligned { offset });
        }
        Ok(PackedMatrix { storage: Storage::Shared { bytes, offset, len: wanted }, shape })
    }

    /// The same weights for activations that are rounded by another rule than [`Rounding::Blocks`].
    pub fn with_rounding(mut self, rounding: Rounding) -> PackedMatrix {
        self.shape.input = self.shape.input.rounded(rounding);
        self
    }

    /// The packed bytes, to be kept and viewed later. [`PACK_LAYOUT`] tells whether they still can be.
    pub fn as_bytes(&self) -> &[u8] {
        self.storage.bytes()
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.shape.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.shape.k
    }

    /// Length of the packed bytes, whoever holds them.
    pub fn bytes(&self) -> usize {
        self.shape.lines * LINE
    }

    /// The forms of activations that a product with this matrix reads.
    pub fn input(&self) -> InputKind {
        self.shape.input
    }

    /// Weights of output `n`, exactly as `block::dequantize` reads them from the source.
    ///
    /// # Panics
    /// When there is no such output or `out` is not `k` long.
    pub fn row(&self, n: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.shape.k, "length of a row");
        let part = self
            .shape
            .parts
            .iter()
            .find(|part| (part.first..part.first + part.rows).contains(&n))
            .expect("an output of the matrix");
        let at = n - part.first;
        part.unpack_row(self.panel_bytes(part, at / LANES), at % LANES, out);
    }

    /// Whether the outputs are two parts of the same number.
    pub(crate) fn halves(&self) -> bool {
        matches!(&self.shape.parts[..], [first, second] if first.rows == second.rows)
    }

    /// Types of the parts.
    pub(crate) fn dtypes(&self) -> impl Iterator<Item = DType> {
        self.shape.parts.iter().map(|part| part.dtype)
    }

    /// Panels of all parts.
    pub(crate) fn panels(&self) -> usize {
        self.shape.parts.iter().map(|part| part.panels).sum()
    }

    /// The panels that are exactly `outputs`, if there are such.
    pub(crate) fn panels_of(&self, outputs: &Range<usize>) -> Option<Range<usize>> {
        let begin = |output: usize| {
            let mut panels = 0;
            for part in &self.shape.parts {
                if output < part.first + part.rows {
                    let at = output - part.first;
                    return at.is_multiple_of(LANES).then_some(panels + at / LANES);
                }
                panels += part.panels;
            }
            (output == self.shape.n).then_some(panels)
        };
        Some(begin(outputs.start)?..begin(outputs.end)?)
    }

    /// The type of panel `index` of all parts, and how many panels from it on are of the same part.
    pub(crate) fn panels_of_type(&self, index: usize) -> (DType, usize) {
        let (part, index) = self.locate(index);
        (part.dtype, part.panels - index)
    }

    /// Panel `index` of all parts.
    pub(crate) fn panel(&self, index: usize) -> Panel<'_> {
        let (part, index) = self.locate(index);
        let first = index * LANES;
        Panel {
            first: part.first + first,
            outputs: (part.rows - first).min(LANES),
            data: self.panel_bytes(part, index),
        }
    }

    /// The part of panel `index` of all parts, and which of its panels it is.
    fn locate(&self, mut index: usize) -> (&PartLayout, usize) {
        for part in &self.shape.parts {
            if index < part.panels {
                return (part, index);
            }
            index -= part.panels;
        }
        unreachable!("callers count panels with `panels`")
    }

    fn panel_bytes(&self, part: &PartLayout, panel: usize) -> &[u8] {
        let first = (part.first_line + panel * part.panel_lines) * LINE;
        &self.storage.bytes()[first..][..part.used_bytes()]
    }
}

impl fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types: Vec<&str> = self.shape.parts.iter().map(|part| part.dtype.name()).collect();
        write!(f, "PackedMatrix([{}, {}] {})", self.n(), self.k(), types.join("+"))
    }
}

#[cfg(test)]
mod tests;
