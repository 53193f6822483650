//! Sixteen lanes as an array: the twin that every instruction set must agree with, and the fallback of
//! targets without a kernel of their own.

use half::{bf16, f16};

use super::{BYTE_BLOCK, Bf16Order, CodeRange, LANES, Many, NIBBLE_BLOCK, Simd, WideBlock, XBlock};

/// Portable lanes; needs no proof.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

type F = [f32; LANES];
type I = [i32; LANES];

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> F {
    std::array::from_fn(f)
}

impl Simd for Scalar {
    type F = F;
    type I = I;
    type Tiles = ();
    const ROWS: usize = 4;
    const SUMS: usize = 4;
    const MANY: Many = Many::Same;
    const WIDE: bool = false;
    const BF16: Bf16Order = Bf16Order::Ascending;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> F {
        *x
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES], x: F) {
        *to = x;
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16; LANES]) -> F {
        each(|i| f16::from_bits(x[i]).to_f32())
    }
    #[inline(always)]
    fn store_f16(self, to: &mut [u16; LANES], x: F) {
        *to = x.map(|x| f16::from_f32(x).to_bits());
    }
    #[inline(always)]
    fn load_pairs(self, x: &[u8; 4 * LANES]) -> [F; 2] {
        [0, 2].map(|at| each(|i| bf16::from_le_bytes([x[4 * i + at], x[4 * i + at + 1]]).to_f32()))
    }
    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> F {
        each(|i| f32::from(x[i]))
    }
    #[inline(always)]
    fn store_i8(self, to: &mut [i8; LANES], x: F) {
        *to = x.map(|x| x.round_ties_even() as i8);
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        each(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn abs(self, a: F) -> F {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn copysign(self, a: F, sign: F) -> F {
        each(|i| a[i].copysign(sign[i]))
    }
    #[inline(always)]
    fn if_less(self, a: F, b: F, yes: F, no: F) -> F {
        each(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn round(self, a: F) -> F {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn exp2i(self, n: F) -> F {
        n.map(|n| f32::from_bits((n as i32).wrapping_add(127).wrapping_shl(23) as u32))
    }
    #[inline(always)]
    fn to_float(self, a: I) -> F {
        each(|i| a[i] as f32)
    }

    #[inline(always)]
    fn sum(self, x: F) -> f32 {
        fold(x, |a, b| a + b)
    }
    #[inline(always)]
    fn largest(self, x: F) -> f32 {
        fold(x, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn tiles(self) {}

    #[inline(always)]
    fn load_int(self, x: &[i32; LANES]) -> I {
        *x
    }

    #[inline(always)]
    fn nibbles<const R: usize, const HALVES: bool>(
        self,
        w: &[u8; NIBBLE_BLOCK],
        x: &XBlock<R>,
        zero: i16,
    ) -> [[I; R]; 2] {
        let mut sums = start::<R, HALVES>(x, zero);
        for r in 0..R {
            for (g, vector) in w.chunks_exact(64).enumerate() {
                for (at, code) in vector.iter().enumerate() {
                    let (o, k) = (at / 4, 4 * g + at % 4);
                    sums[0][r][o] += i32::from(code & 15) * i32::from(x.q[r][k]);
                    sums[usize::from(HALVES)][r][o] += i32::from(code >> 4) * i32::from(x.q[r][16 + k]);
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn bytes<const R: usize, const HALVES: bool>(
        self,
        w: &[u8; BYTE_BLOCK],
        _: CodeRange,
        x: &XBlock<R>,
        _: &[WideBlock; R],
        zero: i16,
    ) -> [[I; R]; 2] {
        let mut sums = start::<R, HALVES>(x, zero);
        for r in 0..R {
            for (g, vector) in w.chunks_exact(64).enumerate() {
                for (at, code) in vector.iter().enumerate() {
                    let (o, k) = (at / 4, 4 * g + at % 4);
                    sums[usize::from(HALVES && k >= 16)][r][o] += i32::from(*code) * i32::from(x.q[r][k]);
                }
            }
        }
        sums
    }
}

/// What the sums begin with: what the zero point takes off.
#[inline(always)]
fn start<const R: usize, const HALVES: bool>(x: &XBlock<R>, zero: i16) -> [[I; R]; 2] {
    let mut sums = [[[0; LANES]; R]; 2];
    for r in 0..R {
        let [a, b] = x.bias(r, zero);
        (sums[0][r], sums[1][r]) =
            if HALVES { ([a; LANES], [b; LANES]) } else { ([a + b; LANES], [0; LANES]) };
    }
    sums
}

/// Folds the upper half of the lanes onto the lower until one is left.
fn fold(mut lanes: F, f: impl Fn(f32, f32) -> f32) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}
