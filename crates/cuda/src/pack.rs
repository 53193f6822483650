//! Brings a matrix into the order in which warps read it.

use std::ops::Range;

use half::{bf16, f16};
use wharf_kernels::block::{BlockError, Integers, dequantize};
use wharf_kernels::{DType, Part};

use crate::format::{CHUNK, Format, Kind, TILE, place};

/// In which order a matrix has the rows of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// One part after the other.
    Stacked,
    /// Eight rows of the first part, eight of the second, and so on: gate and up meet in one lane.
    Paired,
}

/// A matrix as device memory has it.
#[derive(Debug, PartialEq)]
pub(crate) struct Packed {
    pub(crate) format: Format,
    /// `[tile][chunk]`, each as the format has it.
    pub(crate) codes: Vec<u8>,
    /// `[tile][chunk][plane][row g][halves of the tile]`, half precision.
    pub(crate) scales: Vec<u16>,
    /// Columns / 32, rounded up.
    pub(crate) chunks: usize,
}

/// The format that all parts can have.
pub(crate) fn common_format(parts: &[Part<'_>]) -> Option<Format> {
    let first = Format::of(parts.first()?.dtype);
    parts.iter().all(|part| Format::of(part.dtype) == first).then_some(first)
}

/// Packs `parts`, matrices of `cols` columns, on `threads` threads. Behind the last row and column are zeros.
///
/// # Errors
/// When a part's bytes are not those of its rows.
pub(crate) fn pack(
    parts: &[Part<'_>],
    cols: usize,
    order: Order,
    format: Format,
    threads: usize,
) -> Result<Packed, BlockError> {
    let rows: usize = parts.iter().map(|part| part.rows).sum();
    let (tiles, chunks) = (rows.div_ceil(TILE), cols.div_ceil(CHUNK));
    let (tile_codes, tile_scales) = (chunks * format.chunk_bytes(), chunks * format.scales().1 * TILE);
    let mut packed =
        Packed { format, codes: vec![0; tiles * tile_codes], scales: vec![0; tiles * tile_scales], chunks };
    let share = tiles.div_ceil(threads.max(1));
    std::thread::scope(|scope| {
        let (mut codes, mut scales) = (&mut packed.codes[..], &mut packed.scales[..]);
        let mut workers = Vec::new();
        for first in (0..tiles).step_by(share.max(1)) {
            let mine = first..tiles.min(first + share);
            let (some, rest) = codes.split_at_mut(mine.len() * tile_codes);
            let (some_scales, rest_scales) = scales.split_at_mut(mine.len() * tile_scales);
            (codes, scales) = (rest, rest_scales);
            let mut worker = Packer { parts, cols, order, format, row: Row::new(format, chunks) };
            workers.push(scope.spawn(move || worker.tiles(mine, some, some_scales)));
        }
        workers.into_iter().try_for_each(|worker| worker.join().expect("packing does not panic"))
    })?;
    Ok(packed)
}

struct Packer<'a> {
    parts: &'a [Part<'a>],
    cols: usize,
    order: Order,
    format: Format,
    row: Row,
}

impl<'a> Packer<'a> {
    fn tiles(&mut self, tiles: Range<usize>, codes: &mut [u8], scales: &mut [u16]) -> Result<(), BlockError> {
        let (tile_codes, tile_scales) = (codes.len() / tiles.len(), scales.len() / tiles.len());
        for (index, tile) in tiles.enumerate() {
            let codes = &mut codes[index * tile_codes..][..tile_codes];
            let scales = &mut scales[index * tile_scales..][..tile_scales];
            for (half, g) in (0..2).flat_map(|half| (0..TILE / 2).map(move |g| (half, g))) {
                let Some((dtype, data)) = self.source(tile, half, g) else { continue };
                match self.format {
                    Format::Floats(kind) => {
                        self.row.floats(dtype, data, self.cols, kind, (half, g), codes)?
                    }
                    Format::Integers { four_bits, affine, .. } => {
                        self.row.integers(
                            (dtype, data),
                            self.cols,
                            (four_bits, affine),
                            (half, g),
                            codes,
                            scales,
                        )?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The bytes of a tile's row, and their type; nothing behind the last row.
    fn source(&self, tile: usize, half: usize, g: usize) -> Option<(DType, &'a [u8])> {
        let (part, row) = match self.order {
            Order::Stacked => {
                let mut row = tile * TILE + half * TILE / 2 + g;
                self.parts.iter().find_map(|part| {
                    let found = (row < part.rows).then_some((part, row));
                    row = row.wrapping_sub(part.rows);
                    found
                })?
            }
            Order::Paired => {
                let row = tile * TILE / 2 + g;
                self.parts.get(half).filter(|part| row < part.rows).map(|part| (part, row))?
            }
        };
        let bytes = part.data.len() / part.rows;
        Some((part.dtype, &part.data[row * bytes..][..bytes]))
    }
}

/// Room for one row, read.
struct Row {
    floats: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
}

impl Row {
    fn new(format: Format, chunks: usize) -> Row {
        let (cols, subs) = (chunks * CHUNK, chunks * format.scales().0);
        Row { floats: vec![0.0; cols], codes: vec![0; cols], scales: vec![0.0; subs], mins: vec![0.0; subs] }
    }

    /// `[chunk][half][lane][8]` of 16 bits.
    fn floats(
        &mut self,
        dtype: DType,
        data: &[u8],
        cols: usize,
        kind: Kind,
        (half, g): (usize, usize),
        to: &mut [u8],
    ) -> Result<(), BlockError> {
        dequantize(dtype, data, &mut self.floats[..cols])?;
        for (k, value) in self.floats.iter().enumerate() {
            let bits = match kind {
                Kind::Half => f16::from_f32(value.clamp(-65504.0, 65504.0)).to_bits(),
                Kind::Brain => bf16::from_f32(*value).to_bits(),
            };
            let (chunk, (lane, e)) = (k / CHUNK, lane(g, k));
            let at = ((chunk * 2 + half) * 32 + lane) * 8 + e;
            to[2 * at..][..2].copy_from_slice(&bits.to_le_bytes());
        }
        Ok(())
    }

    /// Codes: `[chunk][lane][half][8]`, of bytes or of four bits. Scales and minima: `[chunk][plane][g][half]`.
    fn integers(
        &mut self,
        (dtype, data): (DType, &[u8]),
        cols: usize,
        (four_bits, affine): (bool, bool),
        (half, g): (usize, usize),
        to: &mut [u8],
        scales_to: &mut [u16],
    ) -> Result<(), BlockError> {
        let integers = Integers::of(dtype).expect("integers come from quantised types");
        integers.read(dtype, data, &mut self.codes[..cols], &mut self.scales, &mut self.mins)?;
        for (k, code) in self.codes.iter().enumerate() {
            let (chunk, (lane, e)) = (k / CHUNK, lane(g, k));
            let at = (chunk * 32 + lane) * 2 + half;
            if four_bits {
                let stored = if affine { *code } else { code + 8 - integers.zero };
                // Bit of the 32 that a lane has of the row: even elements in the lower half, odd ones above.
                let bit = e % 2 * 16 + e / 2 * 4;
                to[at * 4 + bit / 8] |= stored << (bit % 8);
            } else {
                to[at * 8 + e] = code.wrapping_sub(integers.zero);
            }
        }
        let subs = CHUNK / integers.sub_block;
        let planes = if affine { 2 * subs } else { subs };
        for (index, (scale, min)) in self.scales.iter().zip(&self.mins).enumerate() {
            let (chunk, sub) = (index / subs, index % subs);
            let mut put = |plane: usize, value: f32| {
                scales_to[((chunk * planes + plane) * 8 + g) * 2 + half] = f16::from_f32(value).to_bits();
            };
            put(sub, *scale);
            if affine {
                put(subs + sub, *min);
            }
        }
        Ok(())
    }
}

/// Which lane has element `k` of row `g`, and as which of its 8.
fn lane(g: usize, k: usize) -> (usize, usize) {
    let within = place(k) % CHUNK;
    (4 * g + within / 8, within % 8)
}

#[cfg(test)]
mod tests {
    use wharf_kernels::block::quantize;

    use super::*;

    fn part(dtype: DType, rows: usize, data: &[u8]) -> Part<'_> {
        Part { dtype, rows, data }
    }

    #[test]
    fn a_float_is_where_its_lane_reads_it() {
        let values: Vec<f32> = (0..20 * 40).map(|i| i as f32).collect();
        let data = quantize(DType::F16, &values).unwrap();
        let packed =
            pack(&[part(DType::F16, 20, &data)], 40, Order::Stacked, Format::Floats(Kind::Half), 3).unwrap();
        assert_eq!((packed.chunks, packed.codes.len(), packed.scales.len()), (2, 2 * 2 * 1024, 0));
        let at = |index: usize| {
            f16::from_bits(u16::from_le_bytes([packed.codes[2 * index], packed.codes[2 * index + 1]]))
                .to_f32()
        };
        let (tile, chunk) = (1, 1);
        // Tile 1, chunk 1, upper half, lane 4 * 2 + 1, its element 3: row 16 + 2, column 32 + 4 + 3.
        assert_eq!(at(((tile * 2 + chunk) * 2 * 32 + 9) * 8 + 3), 18.0 * 40.0 + 39.0);
        // Its element 4 is column 32 + 16 + 4, which there is not; nor are there rows 20 to 31.
        assert_eq!(at(((tile * 2 + chunk) * 2 * 32 + 9) * 8 + 4), 0.0);
        assert_eq!(at(((tile * 2 + chunk) * 2 * 32 + 32 + 9) * 8 + 3), 0.0);
        // The lower half of tile 0, lane 4 * 7 + 3, chunk 0, element 7: row 15, column 16 + 12 + 3.
        assert_eq!(at((32 + 31) * 8 + 7), 15.0 * 40.0 + 31.0);
    }

    #[test]
    fn pairs_meet_in_a_tile() {
        let gate = quantize(DType::F16, &[1.0; 10 * 32]).unwrap();
        let up = quantize(DType::F16, &[2.0; 10 * 32]).unwrap();
        let parts = [part(DType::F16, 10, &gate), part(DType::F16, 10, &up)];
        let packed = pack(&parts, 32, Order::Paired, Format::Floats(Kind::Half), 1).unwrap();
        let plane = |tile: usize, half: usize| &packed.codes[(tile * 2 + half) * 512..][..512];
        let bits = |value: f32| f16::from_f32(value).to_bits().to_le_bytes();
        for (half, value) in [(0, 1.0), (1, 2.0)] {
            assert!(plane(0, half).chunks(2).all(|pair| pair == bits(value)));
            // Two rows of the second tile, then nothing.
            assert!(plane(1, half)[..2 * 64].chunks(2).all(|pair| pair == bits(value)));
            assert!(plane(1, half)[2 * 64..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn any_number_of_threads_packs_the_same() {
        let values: Vec<f32> = (0..100 * 64).map(|i| (i % 13) as f32 - 6.0).collect();
        let data = quantize(DType::Q4_0, &values).unwrap();
        let parts = [part(DType::Q4_0, 100, &data)];
        let format = common_format(&parts).unwrap();
        let one = pack(&parts, 64, Order::Stacked, format, 1).unwrap();
        for threads in [2, 3, 50] {
            assert_eq!(pack(&parts, 64, Order::Stacked, format, threads).unwrap(), one);
        }
    }

    #[test]
    fn types_of_different_formats_have_none_in_common() {
        let parts = [part(DType::Q4K, 1, &[]), part(DType::Q6K, 1, &[])];
        assert_eq!(common_format(&parts), None);
        assert_eq!(common_format(&parts[..1]), Some(Format::of(DType::Q4K)));
    }
}
