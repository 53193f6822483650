//! Prints how fast products and attention run on this machine, next to what its registers and memory
//! could do: `cargo run --release -p wharf-kernels --example bench [threads]`; with `--probe` only what the machine could
//! do, in about a second, as one JSON object.
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "the peak loops are intrinsics"))]
#![expect(clippy::print_stdout, reason = "it is what a bench is for")]

use std::{hint::black_box, time::Instant};

use half::f16;
use wharf_kernels::{
    DType, Input, Isa, PackedMatrix, Part, Store, Team,
    attention::{KvPages, PAGE_TOKENS, Queries, Scratch, attend, attend_chunk, attend_rest, partial_len},
    block, matmul,
};

fn main() {
    let (flags, numbers): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|a| a == "--probe");
    let threads = numbers.first().map_or(2, |n| n.parse().expect("a number of threads"));
    let team = Team::new(threads);
    let isa = Isa::detect();
    if !flags.is_empty() {
        println!("{}", probe(&team));
        return;
    }
    println!("{isa}, {threads} threads");
    let peaks = Peaks::measure(&team);
    products(isa, &team, &peaks);
    attention(isa, &team);
    fork_join(&team);
}

/// The best of several runs, in seconds: other processes only ever add time.
fn best(seconds: f64, mut f: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::MAX);
    f();
    while start.elapsed().as_secs_f64() < seconds || best == f64::MAX {
        let once = Instant::now();
        f();
        best = best.min(once.elapsed().as_secs_f64());
    }
    best
}

/// What the machine can do with the widest instructions that it has, whether our kernels use them or not.
fn probe(team: &Team) -> String {
    let rate = |(macs, peak): (f64, fn())| {
        let seconds = best(0.2, || team.run(&|_| peak()));
        macs * team.threads() as f64 / seconds / 1e9
    };
    let int8 = rate(widest::int8().unwrap_or((PEAK_LOOPS as f64 * 12.0 * 32.0, int8_peak)));
    let float = rate(widest::float().unwrap_or((PEAK_LOOPS as f64 * 10.0 * 8.0, float_peak)));
    let bf16 = widest::bf16().map_or("null".to_owned(), |peak| format!("{:.2}", rate(peak)));
    let memory = memory_peak(team, 0.4);
    let threads = team.threads();
    format!(
        r#"{{"threads":{threads},"int8_gmacs":{int8:.2},"f32_gmacs":{float:.2},"bf16_gmacs":{bf16},"dram_gbs":{memory:.2}}}"#
    )
}

/// Bytes read from memory a second, in 10⁹.
fn memory_peak(team: &Team, seconds: f64) -> f64 {
    let big: Vec<u64> = (0..(256 << 20) / 8).collect();
    let seconds = best(seconds, || {
        team.for_each(big.len() / 8192, 8, &|range| {
            let sum = big[range.start * 8192..range.end * 8192].iter().fold(0u64, |a, b| a ^ b);
            black_box(sum);
        });
    });
    big.len() as f64 * 8.0 / seconds / 1e9
}

struct Peaks {
    /// Integer multiply-adds a second, in 10⁹.
    int8: f64,
    float: f64,
    /// Bytes read from memory a second, in 10⁹.
    memory: f64,
}

impl Peaks {
    fn measure(team: &Team) -> Peaks {
        let rate = |macs: f64, f: &(dyn Fn() + Sync)| {
            let seconds = best(0.3, || team.run(&|_| f()));
            macs * team.threads() as f64 / seconds / 1e9
        };
        let (int8, float) = (
            rate(PEAK_LOOPS as f64 * 12.0 * 32.0, &int8_peak),
            rate(PEAK_LOOPS as f64 * 10.0 * 8.0, &float_peak),
        );
        let memory = memory_peak(team, 1.0);
        println!("peak: int8 {int8:.0} GMAC/s (maddubs), f32 {float:.0} GMAC/s, memory {memory:.1} GB/s\n");
        Peaks { int8, float, memory }
    }
}

const PEAK_LOOPS: usize = 1_000_000;

#[cfg(target_arch = "x86_64")]
fn int8_peak() {
    use std::arch::x86_64::*;
    #[target_feature(enable = "avx2")]
    fn run() {
        // Twelve chains cover the latency of the multiplication; what adds up its results has pipes of its own.
        let b = black_box(_mm256_set1_epi8(5));
        let mut x = [black_box(_mm256_set1_epi8(3)); 12];
        for _ in 0..PEAK_LOOPS {
            for x in &mut x {
                *x = _mm256_maddubs_epi16(*x, b);
            }
        }
        black_box(x);
    }
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the feature was just detected.
        unsafe { run() }
    }
}

#[cfg(target_arch = "x86_64")]
fn float_peak() {
    use std::arch::x86_64::*;
    #[target_feature(enable = "avx2,fma")]
    fn run() {
        let (a, b) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(0.25)));
        let mut sums = [a; 10];
        for _ in 0..PEAK_LOOPS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the features were just detected.
        unsafe { run() }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn int8_peak() {}

#[cfg(not(target_arch = "x86_64"))]
fn float_peak() {}

/// Peak loops of AVX-512, each with the multiply-adds that one call does; `None` where the machine has no such
/// instruction.
#[cfg(target_arch = "x86_64")]
mod widest {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::PEAK_LOOPS;

    type Peak = Option<(f64, fn())>;
    /// Independent sums: more than latency times throughput of each of these instructions.
    const SUMS: usize = 12;

    pub(super) fn int8() -> Peak {
        #[target_feature(enable = "avx512f,avx512vnni")]
        fn run() {
            let (a, b) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(5)));
            let mut sums = [_mm512_setzero_si512(); SUMS];
            for _ in 0..PEAK_LOOPS {
                for sum in &mut sums {
                    *sum = _mm512_dpbusd_epi32(*sum, a, b);
                }
            }
            black_box(sums);
        }
        let found = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        // SAFETY: handed out only where the features were just detected.
        found.then_some((macs(64), || unsafe { run() }))
    }

    pub(super) fn float() -> Peak {
        #[target_feature(enable = "avx512f")]
        fn run() {
            let (a, b) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(0.25)));
            let mut sums = [a; SUMS];
            for _ in 0..PEAK_LOOPS {
                for sum in &mut sums {
                    *sum = _mm512_fmadd_ps(*sum, a, b);
                }
            }
            black_box(sums);
        }
        // SAFETY: handed out only where the feature was just detected.
        is_x86_feature_detected!("avx512f").then_some((macs(16), || unsafe { run() }))
    }

    pub(super) fn bf16() -> Peak {
        #[target_feature(enable = "avx512f,avx512bf16")]
        fn run() {
            let ones = black_box(_mm512_set1_ps(1.0));
            let a = _mm512_cvtne2ps_pbh(ones, ones);
            let mut sums = [_mm512_setzero_ps(); SUMS];
            for _ in 0..PEAK_LOOPS {
                for sum in &mut sums {
                    *sum = _mm512_dpbf16_ps(*sum, a, a);
                }
            }
            black_box(sums);
        }
        let found = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
        // SAFETY: handed out only where the features were just detected.
        found.then_some((macs(32), || unsafe { run() }))
    }

    fn macs(each: usize) -> f64 {
        (PEAK_LOOPS * SUMS * each) as f64
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod widest {
    type Peak = Option<(f64, fn())>;

    pub(super) fn int8() -> Peak {
        None
    }

    pub(super) fn float() -> Peak {
        None
    }

    pub(super) fn bf16() -> Peak {
        None
    }
}

fn noise(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
}

fn products(isa: Isa, team: &Team, peaks: &Peaks) {
    println!(
        "{:5} {:>5} {:>5} {:>4} {:>9} {:>8} {:>7} {:>6} {:>6}",
        "type", "k", "n", "m", "µs", "GMAC/s", "of peak", "GB/s", "of mem"
    );
    for (k, n, rows) in [
        (576, 3072, &[1usize, 8, 32, 512][..]),
        (1536, 576, &[1, 8, 32, 512]),
        (2048, 2048, &[1, 8, 32, 512]),
        (2048, 65536, &[1, 4]),
    ] {
        for dtype in [DType::Q4_0, DType::Q4_1, DType::Q8_0, DType::F16] {
            let source = if n > 10_000 && dtype == DType::F16 {
                continue;
            } else {
                block::quantize(dtype, &noise(n * k))
            };
            let source = source.expect("the type can be written");
            let w =
                PackedMatrix::pack(&[Part { dtype, rows: n, data: &source }], k, team).expect("whole blocks");
            if n > 10_000 {
                let seconds = best(0.2, || {
                    let part = Part { dtype, rows: n, data: &source };
                    black_box(PackedMatrix::pack(&[part], k, team).expect("whole blocks"));
                });
                let (bytes, weights) = (source.len() as f64 / seconds / 1e9, (n * k) as f64 / seconds / 1e6);
                println!(
                    "{dtype:5} {k:5} {n:5} packs in {:.1} ms: {bytes:.2} GB/s, {weights:.0} weights/µs",
                    seconds * 1e3
                );
            }
            drop(source);
            for &m in rows {
                let x = noise(m * k);
                let (mut input, mut y) = (Input::new(), vec![0.0; m * n]);
                let seconds = best(0.15, || {
                    input.fill(isa, team, &x, m, k, w.input());
                    matmul(isa, team, &input, &w, &mut y, n, Store::Set);
                });
                let gmacs = (m * k * n) as f64 / seconds / 1e9;
                let peak = if dtype == DType::F16 { peaks.float } else { peaks.int8 };
                let bytes = w.bytes() as f64 / seconds / 1e9;
                println!(
                    "{dtype:5} {k:5} {n:5} {m:4} {:9.1} {gmacs:8.1} {:6.0}% {bytes:6.1} {:5.0}%",
                    seconds * 1e6,
                    gmacs / peak * 100.0,
                    bytes / peaks.memory * 100.0
                );
            }
        }
    }
}

fn attention(isa: Isa, team: &Team) {
    println!("\nattention, 3 KV heads of 64 with 3 query heads each, f16");
    let (heads, group, hd) = (3, 3, 64);
    let head = 2 * hd * PAGE_TOKENS;
    for (context, queries) in [(512usize, 1usize), (4096, 1), (512, 512), (2048, 512)] {
        let pages = context.div_ceil(PAGE_TOKENS);
        let data: Vec<f16> = noise(pages * heads * head).into_iter().map(f16::from_f32).collect();
        let table: Vec<u32> = (0..pages as u32).collect();
        let kv = |h: usize| KvPages {
            data: &data,
            table: &table,
            page_stride: heads * head,
            k_offset: h * head,
            v_offset: h * head + hd * PAGE_TOKENS,
            head_dim: hd,
            scales: None,
        };
        let tile = 32.min(queries);
        let q = noise(queries * heads * group * hd);
        let part = |index: usize| Queries {
            q: &q[index * tile * group * hd..][..tile * group * hd],
            group,
            first: context - queries + index / heads * tile,
            window: usize::MAX,
            softcap: None,
        };
        let mut scratch: Vec<Scratch> = (0..team.threads()).map(|_| Scratch::default()).collect();
        let mut out = vec![0.0; q.len()];
        let seconds = if queries == 1 {
            let chunks = part(0).chunks(hd).len();
            let mut partials = vec![0.0; heads * chunks * partial_len(group, hd)];
            best(0.2, || {
                let len = partial_len(group, hd);
                team.for_each_chunk_with(&mut scratch, &mut partials, len, 1, &|scratch, item, partial| {
                    let (head, chunk) = (item / chunks, item % chunks);
                    attend_chunk(isa, &kv(head), &part(head), chunk, scratch, partial);
                });
                let partials = &partials;
                team.for_each_chunk_with(&mut scratch, &mut out, group * hd, 1, &|scratch, head, out| {
                    let done = |chunk: usize| Some(&partials[(head * chunks + chunk) * len..][..len]);
                    attend_rest(isa, &kv(head), &part(head), &done, scratch, out);
                });
            })
        } else {
            best(0.3, || {
                let slots: Vec<_> =
                    out.chunks_exact_mut(tile * group * hd).map(std::sync::Mutex::new).collect();
                team.for_each_with(&mut scratch, slots.len(), 1, &|scratch, range| {
                    for item in range {
                        let mut slot = slots[item].lock().expect("no job panics");
                        attend(isa, &kv(item % heads), &part(item), scratch, &mut slot);
                    }
                });
            })
        };
        let pairs = queries as f64 * (context as f64 - (queries as f64 - 1.0) / 2.0);
        let gmacs = pairs * (heads * group * hd * 2) as f64 / seconds / 1e9;
        println!("context {context:5} queries {queries:4} {:9.1} µs {gmacs:6.1} GMAC/s", seconds * 1e6);
    }
}

fn fork_join(team: &Team) {
    let seconds = best(0.2, || (0..1000).for_each(|_| team.run(&|thread| _ = black_box(thread))));
    println!("\nfork and join: {:.2} µs", seconds * 1e3);
}
