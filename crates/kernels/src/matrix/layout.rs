//! Decides at which byte of a panel each code and scale is.

use crate::{
    DType,
    block::{Codes, Format, Scales},
    simd::{BF16_BLOCK, BYTE_BLOCK, CodeRange, LANES, NIBBLE_BLOCK},
};

/// Sixteen outputs of a packed matrix.
pub(crate) struct Panel<'a> {
    /// Output of lane 0.
    pub(crate) first: usize,
    /// Lanes in use.
    pub(crate) outputs: usize,
    pub(crate) data: &'a [u8],
}

/// Offsets within a panel of a quantised type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantLayout {
    /// Bytes of the codes of 32 inputs.
    pub(crate) codes: usize,
    /// Bytes of half-precision scales (and minima) that stand before each group.
    pub(crate) head: usize,
    /// Bytes of 8-bit factors for 32 inputs.
    pub(crate) factors: usize,
    /// Blocks of 32 inputs that share a head.
    pub(crate) blocks: usize,
}

impl QuantLayout {
    pub(crate) const fn new(format: Format) -> QuantLayout {
        let codes = if matches!(format.range, CodeRange::Bits4) { NIBBLE_BLOCK } else { BYTE_BLOCK };
        let kinds = if format.affine { 2 } else { 1 };
        let subs = if format.halves { 2 } else { 1 };
        match format.scales {
            Scales::Half => QuantLayout { codes, head: 2 * LANES * kinds, factors: 0, blocks: 1 },
            Scales::Super => {
                QuantLayout { codes, head: 2 * LANES * kinds, factors: LANES * kinds * subs, blocks: 8 }
            }
        }
    }

    /// Bytes of a group: the codes of its blocks, then the head and the factors below it. One stream of memory, because
    /// scales at a place of their own would be a second one that the prefetcher of the CPU starts anew for every panel.
    pub(crate) const fn group(self) -> usize {
        self.codes * self.blocks + self.head + self.factors * self.blocks
    }
}

/// Where the panels of one part are.
pub(crate) struct PartLayout {
    pub(crate) dtype: DType,
    /// First output.
    pub(crate) first: usize,
    pub(crate) rows: usize,
    k: usize,
    pub(crate) first_line: usize,
    pub(crate) panels: usize,
    /// Cache lines of a panel.
    pub(crate) panel_lines: usize,
}

impl PartLayout {
    /// `None` when the size overflows.
    pub(crate) fn new(
        dtype: DType,
        rows: usize,
        k: usize,
        first: usize,
        first_line: usize,
    ) -> Option<PartLayout> {
        let used = match Format::of(dtype) {
            None if dtype == DType::BF16 => k.div_ceil(32).checked_mul(BF16_BLOCK)?,
            None => k.checked_mul(LANES)?.checked_mul(dtype.block_bytes())?,
            Some(format) => {
                let layout = QuantLayout::new(format);
                (k / (32 * layout.blocks)).checked_mul(layout.group())?
            }
        };
        let (panels, panel_lines) = (rows.div_ceil(LANES), used.div_ceil(64));
        let part = PartLayout { dtype, first, rows, k, first_line, panels, panel_lines };
        part.end_line()?.checked_mul(64)?;
        Some(part)
    }

    /// The line after the part.
    pub(crate) fn end_line(&self) -> Option<usize> {
        self.panels.checked_mul(self.panel_lines)?.checked_add(self.first_line)
    }

    pub(crate) fn panel_bytes(&self) -> usize {
        self.panel_lines * 64
    }

    /// Bytes of a panel without the padding to whole lines.
    pub(crate) fn used_bytes(&self) -> usize {
        match Format::of(self.dtype) {
            None if self.dtype == DType::BF16 => self.k.div_ceil(32) * BF16_BLOCK,
            None => self.k * LANES * self.dtype.block_bytes(),
            Some(format) => {
                let layout = QuantLayout::new(format);
                self.k / (32 * layout.blocks) * layout.group()
            }
        }
    }

    /// Packs one panel from the rows of the part.
    pub(crate) fn pack_panel(&self, source: &[u8], panel: usize, out: &mut [u8]) {
        let row_bytes = self.k / self.dtype.block_len() * self.dtype.block_bytes();
        let outputs = (self.rows - panel * LANES).min(LANES);
        for lane in 0..outputs {
            let row = &source[(panel * LANES + lane) * row_bytes..][..row_bytes];
            match Format::of(self.dtype) {
                None => {
                    let size = self.dtype.block_bytes();
                    for (k, value) in row.chunks_exact(size).enumerate() {
                        out[element_at(self.dtype, k, lane) * size..][..size].copy_from_slice(value);
                    }
                }
                Some(format) => self.pack_lane(format, row, lane, out),
            }
        }
    }

    fn pack_lane(&self, format: Format, row: &[u8], lane: usize, out: &mut [u8]) {
        let layout = QuantLayout::new(format);
        let blocks = row.chunks_exact(self.dtype.block_bytes());
        let mut from = Codes::default();
        for (block, group) in blocks.zip(out.chunks_exact_mut(layout.group())) {
            from.read(self.dtype, block);
            let (codes, scales) = group.split_at_mut(layout.codes * layout.blocks);
            for (b, to) in codes.chunks_exact_mut(layout.codes).enumerate() {
                put(format, &from.code.as_chunks().0[b], lane, to);
            }
            let (head, factors) = scales.split_at_mut(layout.head);
            head[2 * lane..][..2].copy_from_slice(&from.d.to_le_bytes());
            if format.affine {
                head[2 * (LANES + lane)..][..2].copy_from_slice(&from.min.to_le_bytes());
            }
            if layout.factors > 0 {
                let subs = 32 / format.sub_block();
                for (b, factors) in factors.chunks_exact_mut(layout.factors).enumerate() {
                    for sub in 0..subs {
                        factors[sub * LANES + lane] = from.scale[b * subs + sub] as u8;
                        if format.affine {
                            factors[(subs + sub) * LANES + lane] = from.min_scale[b * subs + sub];
                        }
                    }
                }
            }
        }
    }

    /// Reads back the weights of one lane.
    pub(crate) fn unpack_row(&self, panel: &[u8], lane: usize, out: &mut [f32]) {
        let Some(format) = Format::of(self.dtype) else {
            let size = self.dtype.block_bytes();
            for (k, out) in out.iter_mut().enumerate() {
                let value = &panel[element_at(self.dtype, k, lane) * size..][..size];
                crate::block::dequantize(self.dtype, value, std::slice::from_mut(out))
                    .expect("one element of the type");
            }
            return;
        };
        let layout = QuantLayout::new(format);
        let half = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]);
        let groups = panel.chunks_exact(layout.group());
        let mut block = Codes::default();
        for (group, out) in groups.zip(out.chunks_exact_mut(32 * layout.blocks)) {
            let (codes, scales) = group.split_at(layout.codes * layout.blocks);
            for (i, code) in block.code[..out.len()].iter_mut().enumerate() {
                let from = &codes[i / 32 * layout.codes..];
                let (at, shift) = code_at(format, i % 32, lane);
                *code = match format.range {
                    CodeRange::Bits4 => (from[at] >> shift) & 15,
                    CodeRange::Bits5 | CodeRange::Bits6 | CodeRange::Bits8 => from[at],
                };
            }
            let (head, factors) = scales.split_at(layout.head);
            block.d = half(head, lane);
            if format.affine {
                block.min = half(head, LANES + lane);
            }
            if layout.factors > 0 {
                let subs = 32 / format.sub_block();
                for (b, factors) in factors.chunks_exact(layout.factors).take(layout.blocks).enumerate() {
                    for sub in 0..subs {
                        block.scale[b * subs + sub] = factors[sub * LANES + lane] as i8;
                        if format.affine {
                            block.min_scale[b * subs + sub] = factors[(subs + sub) * LANES + lane];
                        }
                    }
                }
            }
            block.values(format, out);
        }
    }
}

/// Writes the codes of 32 inputs of one lane to where `code_at` says, four at a time.
fn put(format: Format, codes: &[u8; 32], lane: usize, to: &mut [u8]) {
    let (quads, vectors) = (codes.as_chunks::<4>().0, to.as_chunks_mut::<64>().0);
    for (g, vector) in vectors.iter_mut().enumerate() {
        let to = &mut vector.as_chunks_mut::<4>().0[lane];
        let low = u32::from_le_bytes(quads[g]);
        *to = match format.range {
            // The high halves hold inputs 16 and up; no code has bits there itself.
            CodeRange::Bits4 => low | u32::from_le_bytes(quads[4 + g]) << 4,
            CodeRange::Bits5 | CodeRange::Bits6 | CodeRange::Bits8 => low,
        }
        .to_le_bytes();
    }
}

/// Element of a panel of floats that is input `k` of one lane. Of bf16 two inputs of an output are neighbours, as products of bf16
/// want them.
fn element_at(dtype: DType, k: usize, lane: usize) -> usize {
    if dtype == DType::BF16 { (k / 2 * LANES + lane) * 2 + k % 2 } else { k * LANES + lane }
}

/// Byte within a block of codes, and bit within the byte, of input `k` of 32 for one lane.
fn code_at(format: Format, k: usize, lane: usize) -> (usize, u32) {
    let byte = |k: usize| k / 4 * 64 + lane * 4 + k % 4;
    match format.range {
        CodeRange::Bits4 if k >= 16 => (byte(k - 16), 4),
        CodeRange::Bits4 | CodeRange::Bits5 | CodeRange::Bits6 | CodeRange::Bits8 => (byte(k), 0),
    }
}
