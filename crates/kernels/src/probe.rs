//! Measures what products and attention reach on this machine: how long a pass over matrices of given shapes and types takes.
//!
//! A forecast needs what our kernels reach, not what instructions could: on one machine a row of Q4_0 waits for memory, on another for
//! arithmetic, and a cache may hold the whole model. So the matrices are those of the model in shape and type, as many bytes of them as
//! the model has up to a bound, and the fastest of several passes counts, because other processes only ever add time.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use half::f16;

use crate::attention::{KvPages, PAGE_TOKENS, Queries, Scratch, attend, attend_chunk, partial_len};
use crate::{DType, Input, Isa, PackError, PackedMatrix, Part, Store, Team, block, matmul};

/// A matrix to multiply with: `[n, k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Type of its elements.
    pub dtype: DType,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
}

/// Heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Key and value heads.
    pub kv: usize,
    /// Query heads for each of those.
    pub group: usize,
    /// Elements of a head.
    pub dim: usize,
}

/// Packed matrices with made-up weights.
pub struct Probe<'a> {
    isa: Isa,
    team: &'a Team,
    /// Layers, one after the other.
    layers: Vec<Vec<PackedMatrix>>,
    /// What a pass ends with: the output projection.
    last: Option<PackedMatrix>,
}

/// What a pass did and how long it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pass {
    /// Bytes of packed weights.
    pub bytes: f64,
    /// Multiply-adds.
    pub macs: f64,
    /// Seconds.
    pub seconds: f64,
}

impl<'a> Probe<'a> {
    /// Packs as many layers of these matrices as there are, or as `most` bytes hold, and the output projection.
    ///
    /// # Errors
    /// When a type's blocks do not fill the rows of a matrix.
    pub fn new(
        isa: Isa,
        team: &'a Team,
        (layer, count): (&[Shape], usize),
        last: Option<Shape>,
        most: usize,
    ) -> Result<Probe<'a>, PackError> {
        let last = last.map(|shape| pack(shape, team)).transpose()?;
        let mut probe = Probe { isa, team, layers: Vec::new(), last };
        let mut held = probe.last.as_ref().map_or(0, PackedMatrix::bytes);
        while probe.layers.len() < count && (held < most || probe.layers.is_empty()) {
            let packed = layer.iter().map(|shape| pack(*shape, team)).collect::<Result<Vec<_>, _>>()?;
            held += packed.iter().map(PackedMatrix::bytes).sum::<usize>();
            probe.layers.push(packed);
        }
        Ok(probe)
    }

    /// The fastest pass of one row over everything, of as many as `budget` allows and at least two.
    pub fn decode(&self, budget: Duration) -> Pass {
        let all: Vec<&PackedMatrix> = self.layers.iter().flatten().chain(&self.last).collect();
        self.fastest(&all, 1, budget)
    }

    /// The fastest pass of `rows` rows over one layer.
    pub fn rows(&self, rows: usize, budget: Duration) -> Pass {
        let layers = self.layers.iter().map(|layer| layer.iter().collect::<Vec<_>>());
        let passes = layers.take(4).map(|layer| self.fastest(&layer, rows, budget / 4));
        passes.min_by(|a, b| a.seconds.total_cmp(&b.seconds)).expect("there is at least one layer")
    }

    fn fastest(&self, matrices: &[&PackedMatrix], rows: usize, budget: Duration) -> Pass {
        let widest = |of: fn(&PackedMatrix) -> usize| matrices.iter().map(|m| of(m)).max().unwrap_or(0);
        let x = noise(rows * widest(PackedMatrix::k));
        let mut y = vec![0.0; rows * widest(PackedMatrix::n)];
        let mut input = Input::new();
        let mut pass = || {
            for matrix in matrices {
                let (n, k) = (matrix.n(), matrix.k());
                input.fill(self.isa, self.team, &x[..rows * k], rows, k, matrix.input());
                matmul(self.isa, self.team, &input, matrix, &mut y[..rows * n], n, Store::Set);
            }
        };
        // The first one grows buffers and brings weights into caches that hold them.
        pass();
        Pass {
            bytes: matrices.iter().map(|matrix| matrix.bytes() as f64).sum(),
            macs: matrices.iter().map(|matrix| (rows * matrix.n() * matrix.k()) as f64).sum(),
            seconds: best(budget, pass),
        }
    }
}

/// Keys and values of some positions, made up.
struct Kv {
    heads: Heads,
    data: Vec<f16>,
    table: Vec<u32>,
}

impl Kv {
    /// Of so many layers.
    fn new(heads: Heads, tokens: usize, layers: usize) -> Kv {
        let pages = layers * tokens / PAGE_TOKENS;
        let data = noise(pages * heads.kv * Kv::page(heads)).into_iter().map(f16::from_f32).collect();
        Kv { heads, data, table: (0..pages as u32).collect() }
    }

    /// Elements of a page of one head.
    fn page(heads: Heads) -> usize {
        2 * heads.dim * PAGE_TOKENS
    }

    /// One head of the layer whose pages these are.
    fn of<'a>(&'a self, table: &'a [u32], head: usize) -> KvPages<'a, f16> {
        let size = Kv::page(self.heads);
        KvPages {
            data: &self.data,
            table,
            page_stride: self.heads.kv * size,
            k_offset: head * size,
            v_offset: head * size + self.heads.dim * PAGE_TOKENS,
            head_dim: self.heads.dim,
            scales: None,
        }
    }
}

/// Multiply-adds a second of attention over a prompt of 512 tokens.
pub fn attention(isa: Isa, team: &Team, heads: Heads, budget: Duration) -> f64 {
    const TOKENS: usize = 512;
    const TILE: usize = 16;
    let Heads { kv: kv_heads, group, dim } = heads;
    let kv = Kv::new(heads, TOKENS, 1);
    let q = noise(TOKENS * kv_heads * group * dim);
    let part = |index: usize| Queries {
        q: &q[index * TILE * group * dim..][..TILE * group * dim],
        group,
        first: index / kv_heads * TILE,
        window: usize::MAX,
        softcap: None,
    };
    let mut scratch: Vec<Scratch> = (0..team.threads()).map(|_| Scratch::default()).collect();
    let mut out = vec![0.0; q.len()];
    let seconds = best(budget, || {
        let slots: Vec<_> = out.chunks_exact_mut(TILE * group * dim).map(Mutex::new).collect();
        team.for_each_with(&mut scratch, slots.len(), 1, &|scratch, range| {
            for item in range {
                let mut slot = slots[item].lock().expect("no job panics");
                attend(isa, &kv.of(&kv.table, item % kv_heads), &part(item), scratch, &mut slot);
            }
        });
    });
    let pairs = (TOKENS * (TOKENS + 1) / 2) as f64;
    pairs * (kv_heads * group * dim * 2) as f64 / seconds
}

/// Multiply-adds a second of attention of one token over a context of 2,048, layer by layer, through `bytes` bytes of keys and values.
pub fn decode_attention(isa: Isa, team: &Team, heads: Heads, bytes: usize, budget: Duration) -> f64 {
    const TOKENS: usize = 2048;
    let Heads { kv: kv_heads, group, dim } = heads;
    let layer = TOKENS / PAGE_TOKENS * kv_heads * Kv::page(heads) * size_of::<f16>();
    let layers = (bytes / layer).max(1);
    let kv = Kv::new(heads, TOKENS, layers);
    let q = noise(group * dim);
    let queries = Queries { q: &q, group, first: TOKENS - 1, window: usize::MAX, softcap: None };
    let chunks: Vec<usize> = queries.chunks(dim).collect();
    let ends: Vec<usize> = (1..=chunks.len() * kv_heads).map(|n| n * partial_len(group, dim)).collect();
    let mut partials = vec![0.0; ends.last().copied().unwrap_or(0)];
    let mut scratch: Vec<Scratch> = (0..team.threads()).map(|_| Scratch::default()).collect();
    let seconds = best(budget, || {
        for table in kv.table.chunks_exact(TOKENS / PAGE_TOKENS) {
            team.for_each_part_with(&mut scratch, &mut partials, &ends, &|scratch, item, partial| {
                let (chunk, head) = (chunks[item / kv_heads], item % kv_heads);
                attend_chunk(isa, &kv.of(table, head), &queries, chunk, scratch, partial);
            });
        }
    });
    (layers * TOKENS) as f64 * (kv_heads * group * dim * 2) as f64 / seconds
}

/// Bytes a second that reading `bytes` bytes once reaches.
pub fn memory(team: &Team, bytes: usize, budget: Duration) -> f64 {
    const CHUNK: usize = 8192;
    let words = (bytes / 8).next_multiple_of(CHUNK);
    let big: Vec<u64> = (0..words as u64).collect();
    let seconds = best(budget, || {
        team.for_each(words / CHUNK, 8, &|range| {
            let sum = big[range.start * CHUNK..range.end * CHUNK].iter().fold(0u64, |a, b| a ^ b);
            std::hint::black_box(sum);
        });
    });
    words as f64 * 8.0 / seconds
}

/// The shortest of at least two runs, in seconds.
fn best(budget: Duration, mut run: impl FnMut()) -> f64 {
    let (start, mut best, mut runs) = (Instant::now(), f64::MAX, 0);
    while runs < 2 || start.elapsed() < budget {
        let once = Instant::now();
        run();
        best = best.min(once.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn pack(shape: Shape, team: &Team) -> Result<PackedMatrix, PackError> {
    let Shape { dtype, n, k } = shape;
    let row = block::quantize(dtype, &noise(k));
    // Types that can only be read have zeros: what they weigh changes no time.
    let row = row.unwrap_or_else(|_| vec![0; dtype.bytes_for(k).unwrap_or(0)]);
    let data: Vec<u8> = row.iter().copied().cycle().take(row.len() * n).collect();
    PackedMatrix::pack(&[Part { dtype, rows: n, data: &data }], k, team)
}

fn noise(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_count_what_they_do() {
        let (team, isa) = (Team::new(1), Isa::detect());
        let layer = [Shape { dtype: DType::Q8_0, n: 64, k: 32 }, Shape { dtype: DType::F16, n: 32, k: 64 }];
        let last = Shape { dtype: DType::Q6K, n: 16, k: 256 };
        let probe = Probe::new(isa, &team, (&layer, 3), Some(last), usize::MAX).unwrap();
        let pass = probe.decode(Duration::ZERO);
        assert_eq!(pass.macs, f64::from(3 * (64 * 32 + 32 * 64) + 16 * 256));
        assert!(pass.seconds > 0.0 && pass.bytes > 0.0);
        assert_eq!(probe.rows(8, Duration::ZERO).macs, f64::from(8 * (64 * 32 + 32 * 64)));
        let small = Probe::new(isa, &team, (&layer, 3), None, 0).unwrap();
        assert_eq!(small.layers.len(), 1);
        let heads = Heads { kv: 1, group: 2, dim: 32 };
        assert!(attention(isa, &team, heads, Duration::ZERO) > 0.0);
        assert!(decode_attention(isa, &team, heads, 1 << 20, Duration::ZERO) > 0.0);
        assert!(memory(&team, 1 << 16, Duration::ZERO) > 0.0);
        let ragged = [Shape { dtype: DType::Q8_0, n: 64, k: 33 }];
        assert!(Probe::new(isa, &team, (&ragged, 1), None, 0).is_err());
    }
}
