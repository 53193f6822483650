//! Decides the order of operations of everything between matrix products: norms, activations, rotations.
//!
//! Buffers are rows of floats; the functions check that lengths agree and panic when they do not, since
//! only a programming error can make them differ.

use crate::{
    Isa,
    isa::Kernel,
    math,
    simd::{LANES, Simd, load_part, store_part},
};

/// `out = x / √(mean(x²) + eps) · weight`. The squares are summed in sixteen lanes (element `i` in lane
/// `i mod 16`, ascending), the lanes in one tree.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "lengths of x, weight and out");
    isa.run(RmsNorm { x, weight, eps, out });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut squares = s.splat(0.0);
        for x in self.x.chunks(LANES) {
            let x = load_part(s, x, 0.0);
            squares = s.fma(x, x, squares);
        }
        let mean = s.sum(squares) / self.x.len() as f32;
        let scale = s.splat(1.0 / (mean + self.eps).sqrt());
        let weights = self.weight.chunks(LANES);
        for ((x, w), out) in self.x.chunks(LANES).zip(weights).zip(self.out.chunks_mut(LANES)) {
            store_part(s, out, s.mul(s.mul(load_part(s, x, 0.0), scale), load_part(s, w, 0.0)));
        }
    }
}

/// `x += y`.
pub fn add_assign(isa: Isa, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "lengths of x and y");
    isa.run(InPlace { x, y, f: AddAssign });
}

/// `x *= factor`.
pub fn scale(isa: Isa, x: &mut [f32], factor: f32) {
    isa.run(InPlace { x, y: &[], f: Scale(factor) });
}

/// `x = cap · tanh(x / cap)`.
pub fn softcap(isa: Isa, x: &mut [f32], cap: f32) {
    isa.run(InPlace { x, y: &[], f: Softcap(cap) });
}

/// `out = silu(gate) · up` with `silu(x) = x / (1 + e^-x)`.
pub fn silu_mul(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
    gated(isa, gate, up, out, Silu);
}

/// `out = gelu(gate) · up` with GELU's tanh approximation.
pub fn gelu_tanh_mul(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
    gated(isa, gate, up, out, GeluTanh);
}

/// `out = gelu(gate) · up` with GELU's definition by the error function.
pub fn gelu_erf_mul(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32]) {
    gated(isa, gate, up, out, GeluErf);
}

/// A function of one lane of each of two slices.
trait Lane {
    fn apply<S: Simd>(&self, s: S, x: S::F, y: S::F) -> S::F;
}

struct AddAssign;
struct Scale(f32);
struct Softcap(f32);
struct Silu;
struct GeluTanh;
struct GeluErf;

impl Lane for AddAssign {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, x: S::F, y: S::F) -> S::F {
        s.add(x, y)
    }
}

impl Lane for Scale {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, x: S::F, _: S::F) -> S::F {
        s.mul(x, s.splat(self.0))
    }
}

impl Lane for Softcap {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, x: S::F, _: S::F) -> S::F {
        cap(s, x, self.0)
    }
}

impl Lane for Silu {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, gate: S::F, up: S::F) -> S::F {
        s.mul(s.mul(gate, math::sigmoid(s, gate)), up)
    }
}

impl Lane for GeluTanh {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, gate: S::F, up: S::F) -> S::F {
        // √(2/π) · (x + 0.044715 x³)
        let cube = s.mul(s.mul(gate, gate), gate);
        let inner = s.mul(s.fma(cube, s.splat(0.044_715), gate), s.splat(0.797_884_6));
        half_one_plus(s, gate, math::tanh(s, inner), up)
    }
}

impl Lane for GeluErf {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, gate: S::F, up: S::F) -> S::F {
        let inner = math::erf(s, s.mul(gate, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
        half_one_plus(s, gate, inner, up)
    }
}

/// `x / 2 · (1 + t) · up`.
#[inline(always)]
fn half_one_plus<S: Simd>(s: S, x: S::F, t: S::F, up: S::F) -> S::F {
    s.mul(s.mul(s.mul(x, s.splat(0.5)), s.add(s.splat(1.0), t)), up)
}

/// `cap · tanh(x / cap)`.
#[inline(always)]
pub(crate) fn cap<S: Simd>(s: S, x: S::F, cap: f32) -> S::F {
    s.mul(s.splat(cap), math::tanh(s, s.div(x, s.splat(cap))))
}

/// `x = f(x, y)`; an empty `y` is all zeros.
struct InPlace<'a, L> {
    x: &'a mut [f32],
    y: &'a [f32],
    f: L,
}

impl<L: Lane> Kernel for InPlace<'_, L> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.y.is_empty() {
            for x in self.x.chunks_mut(LANES) {
                let y = self.f.apply(s, load_part(s, x, 0.0), s.splat(0.0));
                store_part(s, x, y);
            }
        } else {
            for (x, y) in self.x.chunks_mut(LANES).zip(self.y.chunks(LANES)) {
                let y = self.f.apply(s, load_part(s, x, 0.0), load_part(s, y, 0.0));
                store_part(s, x, y);
            }
        }
    }
}

/// `out = f(gate, up)`.
struct Gated<'a, L> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
    f: L,
}

fn gated(isa: Isa, gate: &[f32], up: &[f32], out: &mut [f32], f: impl Lane) {
    assert!(gate.len() == up.len() && gate.len() == out.len(), "lengths of gate, up and out");
    isa.run(Gated { gate, up, out, f });
}

impl<L: Lane> Kernel for Gated<'_, L> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let inputs = self.gate.chunks(LANES).zip(self.up.chunks(LANES));
        for ((gate, up), out) in inputs.zip(self.out.chunks_mut(LANES)) {
            store_part(s, out, self.f.apply(s, load_part(s, gate, 0.0), load_part(s, up, 0.0)));
        }
    }
}

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// Element `i` with element `rot/2 + i` (Hugging Face, NeoX).
    Halves,
    /// Element `2i` with element `2i + 1` (the paper, GGUF's Llama).
    Interleaved,
}

/// Rotates the first `2 · cos.len()` elements of one head in place: each pair `(a, b)` becomes
/// `(a·cos - b·sin, b·cos + a·sin)`. The rest of the head is left alone.
///
/// # Panics
/// When `cos` and `sin` differ in length or the head is shorter than they say.
pub fn rope(isa: Isa, head: &mut [f32], cos: &[f32], sin: &[f32], layout: RopeLayout) {
    assert!(cos.len() == sin.len() && 2 * cos.len() <= head.len(), "lengths of cos, sin and the head");
    isa.run(Rope { head: &mut head[..2 * cos.len()], cos, sin, layout });
}

struct Rope<'a> {
    head: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    layout: RopeLayout,
}

impl Kernel for Rope<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.layout {
            RopeLayout::Halves => {
                let (a, b) = self.head.split_at_mut(self.cos.len());
                let angles = self.cos.chunks(LANES).zip(self.sin.chunks(LANES));
                for ((a, b), (cos, sin)) in a.chunks_mut(LANES).zip(b.chunks_mut(LANES)).zip(angles) {
                    let (va, vb) = (load_part(s, a, 0.0), load_part(s, b, 0.0));
                    let (cos, sin) = (load_part(s, cos, 0.0), load_part(s, sin, 0.0));
                    store_part(s, a, s.sub(s.mul(va, cos), s.mul(vb, sin)));
                    store_part(s, b, s.fma(vb, cos, s.mul(va, sin)));
                }
            }
            RopeLayout::Interleaved => {
                for ((pair, cos), sin) in
                    self.head.as_chunks_mut::<2>().0.iter_mut().zip(self.cos).zip(self.sin)
                {
                    let [a, b] = *pair;
                    *pair = [a * cos - b * sin, b.mul_add(*cos, a * sin)];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
