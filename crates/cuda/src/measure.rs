//! What a GPU can do at most, as far as kernels of ours tell: the limits that measured speeds are shares of.
//!
//! Every function does its work once to warm up, then `runs` times, and gives the milliseconds of each on the GPU's own clock.

use crate::driver::{Address, Arg, DeviceError, Gpu, Grid, Kernel};
use crate::format::{CHUNK, Format, Kind, TILE};
use crate::forward::{MANY, MATMUL_THREADS};

/// Bytes of a piece that a thread copies.
const PIECE: usize = 16;
const COPY_THREADS: u32 = 256;
/// As many as a multiprocessor runs at once.
const COPY_BLOCKS: usize = 8;

/// Copies `bytes` bytes, rounded down to 16, within the GPU's memory: twice as many pass through it.
///
/// # Errors
/// Those of the GPU.
pub fn copy(gpu: &Gpu, bytes: usize, runs: usize) -> Result<Vec<f64>, DeviceError> {
    let pieces = bytes / PIECE;
    let (from, to) = (gpu.alloc(bytes)?, gpu.alloc(bytes)?);
    let grid = Grid {
        blocks: [
            blocks(pieces.div_ceil(COPY_THREADS as usize).clamp(1, COPY_BLOCKS * gpu.multiprocessors())),
            1,
            1,
        ],
        threads: COPY_THREADS,
        shared: 0,
    };
    let words = [Arg::Address(from.at(0)), int(4 * pieces), Arg::I32(0x1234_5678)];
    gpu.launch(&gpu.kernel("wharf_fill")?, grid, &words)?;
    timed(
        gpu,
        runs,
        &gpu.kernel("wharf_copy")?,
        grid,
        &[Arg::Address(from.at(0)), Arg::Address(to.at(0)), int(pieces)],
    )
}

/// A product of bfloat16: `(tokens, cols)` by `(cols, rows)`, by the kernel that computes prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Rows of the matrix: outputs.
    pub rows: usize,
    /// Its columns: inputs.
    pub cols: usize,
    /// How many of these are multiplied with it.
    pub tokens: usize,
}

impl Product {
    /// Multiplications and additions.
    pub fn flops(&self) -> f64 {
        2.0 * self.rows as f64 * self.cols as f64 * self.tokens as f64
    }

    /// Computes it of random numbers.
    ///
    /// # Errors
    /// Those of the GPU.
    pub fn time(&self, gpu: &Gpu, runs: usize) -> Result<Vec<f64>, DeviceError> {
        let Product { rows, cols, tokens } = *self;
        let (tiles, chunks) = (rows.div_ceil(TILE), cols.div_ceil(CHUNK));
        let format = Format::Floats(Kind::Brain);
        let codes = gpu.alloc(tiles * chunks * format.chunk_bytes())?;
        let x = gpu.alloc(tokens * chunks * CHUNK * 2)?;
        for (buffer, seed) in [(&codes, 1), (&x, 2)] {
            gpu.upload(buffer, 0, &noise(buffer.len(), seed))?;
        }
        let out = gpu.alloc(tokens * rows * 4)?;
        let grid = Grid {
            blocks: [blocks(tiles.div_ceil(MANY.1)), blocks(tokens.div_ceil(MANY.0)), 1],
            threads: MATMUL_THREADS,
            shared: 0,
        };
        let arguments = [
            Arg::Address(codes.at(0)),
            Arg::Address(Address::NULL),
            int(chunks),
            Arg::Address(x.at(0)),
            int(tokens),
            Arg::Address(out.at(0)),
            Arg::Address(Address::NULL),
            int(rows),
            int(rows),
            Arg::I32(0),
            Arg::I32(Kind::Brain.number()),
        ];
        let kernel = gpu.kernel(&format!("wharf_matmul_{}_many", format.name()))?;
        timed(gpu, runs, &kernel, grid, &arguments)
    }
}

fn timed(
    gpu: &Gpu,
    runs: usize,
    kernel: &Kernel,
    grid: Grid,
    arguments: &[Arg],
) -> Result<Vec<f64>, DeviceError> {
    gpu.launch(kernel, grid, arguments)?;
    gpu.synchronize()?;
    (0..runs)
        .map(|_| {
            let timer = gpu.timer()?;
            gpu.launch(kernel, grid, arguments)?;
            timer.elapsed()
        })
        .collect()
}

/// Numbers of bfloat16 between 1/64 and 1/32, of either sign: zeros would let a GPU run faster than it does. SplitMix64.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut data = Vec::with_capacity(bytes + 7);
    while data.len() < bytes {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        data.extend((z & 0x807f_807f_807f_807f | 0x3c80_3c80_3c80_3c80).to_le_bytes());
    }
    data.truncate(bytes);
    data
}

fn blocks(count: usize) -> u32 {
    u32::try_from(count).expect("grids are far below 2^32 blocks")
}

fn int(value: usize) -> Arg {
    Arg::I32(i32::try_from(value).expect("what is measured is below 2^31 of anything"))
}
