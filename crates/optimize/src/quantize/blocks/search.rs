//! Decides which scale (and minimum) rounds a few numbers with the least weighted error.

use super::{inverse, round};

/// What integers from zero are multiplied by, and a number added to all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shifted {
    pub(super) scale: f32,
    pub(super) offset: f32,
}

/// Roundings that are tried on each side of the obvious one, and how far they lie apart in units of a code.
const TRIES: i32 = 9;
const STEP: f32 = 0.1;

/// The least and the largest number. Eight are compared at once: one after the other, each comparison would wait for the last.
#[inline(always)]
pub(super) fn bounds<const N: usize>(x: &[f32; N]) -> (f32, f32) {
    let (mut least, mut largest) = ([f32::MAX; 8], [f32::MIN; 8]);
    for chunk in x.as_chunks::<8>().0 {
        for i in 0..8 {
            least[i] = if chunk[i] < least[i] { chunk[i] } else { least[i] };
            largest[i] = if chunk[i] > largest[i] { chunk[i] } else { largest[i] };
        }
    }
    (least.into_iter().fold(f32::MAX, f32::min), largest.into_iter().fold(f32::MIN, f32::max))
}

/// The number of largest magnitude; the first of two that differ in their sign alone.
#[inline(always)]
pub(super) fn extreme<const N: usize>(x: &[f32; N]) -> f32 {
    let (least, largest) = bounds(x);
    if largest > -least {
        largest
    } else if largest < -least {
        least
    } else {
        // Zero is not to be negative.
        x.iter().find(|x| x.abs() == largest).map_or(0.0, |x| x + 0.0)
    }
}

/// The scale of `x ≈ scale · codes` with codes from `-half` to `half - 1`. The extreme is near code `-half`, which has no opposite, whatever its
/// sign.
#[inline(always)]
pub(super) fn scaled<const N: usize>(x: &[f32; N], w: &[f32; N], half: f32) -> f32 {
    let extreme = extreme(x);
    let mut best = 0.0;
    if extreme == 0.0 {
        return best;
    }
    // What of the squares a scale explains: the error is the rest.
    let mut explained = 0.0;
    for step in -TRIES..=TRIES {
        let inverse = -(half + STEP * step as f32) / extreme;
        let (mut xq, mut qq) = ([0.0f32; N], [0.0f32; N]);
        for i in 0..N {
            let q = round(x[i] * inverse).clamp(-half, half - 1.0);
            xq[i] = w[i] * x[i] * q;
            qq[i] = w[i] * q * q;
        }
        let (xq, qq) = (sum(&xq), sum(&qq));
        if qq > 0.0 && xq * xq > explained * qq {
            explained = xq * xq / qq;
            best = xq / qq;
        }
    }
    best
}

/// `x ≈ scale · codes + offset` with codes from 0 to `most`; the offset is at most zero unless `any_sign`.
#[inline(always)]
pub(super) fn shifted<const N: usize>(x: &[f32; N], w: &[f32; N], most: f32, any_sign: bool) -> Shifted {
    let (least, largest) = bounds(x);
    let least = if any_sign { least } else { least.min(0.0) };
    let mut best = Shifted { scale: 0.0, offset: least };
    if largest <= least {
        return best;
    }
    let (sw, sx, sxx) = {
        let (mut wx, mut wxx) = ([0.0f32; N], [0.0f32; N]);
        for i in 0..N {
            wx[i] = w[i] * x[i];
            wxx[i] = wx[i] * x[i];
        }
        (sum(w), sum(&wx), sum(&wxx))
    };
    let mut least_error = f32::INFINITY;
    for step in -TRIES..=TRIES {
        let inverse = (most + STEP * step as f32) / (largest - least);
        let (mut q1, mut qq, mut xq) = ([0.0f32; N], [0.0f32; N], [0.0f32; N]);
        for i in 0..N {
            let q = round((x[i] - least) * inverse).clamp(0.0, most);
            q1[i] = w[i] * q;
            qq[i] = q1[i] * q;
            xq[i] = q1[i] * x[i];
        }
        let (sq, sqq, sxq) = (sum(&q1), sum(&qq), sum(&xq));
        let determinant = sw * sqq - sq * sq;
        let mut scale = (sw * sxq - sx * sq) / determinant;
        let mut offset = (sqq * sx - sq * sxq) / determinant;
        // Equal codes say nothing of the offset.
        if determinant <= 1e-6 * sw * sqq || (offset > 0.0 && !any_sign) {
            (scale, offset) = (sxq / sqq, 0.0);
        }
        let error = sxx - 2.0 * (scale * sxq + offset * sx)
            + scale * scale * sqq
            + 2.0 * scale * offset * sq
            + offset * offset * sw;
        if scale > 0.0 && error < least_error {
            least_error = error;
            best = Shifted { scale, offset };
        }
    }
    best
}

/// The codes of `x` for a scale and an offset that are given.
#[inline(always)]
pub(super) fn codes<const N: usize>(x: &[f32; N], scale: f32, offset: f32, from: f32, to: f32) -> [u8; N] {
    let inverse = inverse(scale);
    // Codes with a sign are stored as the distance from the least. Halves go up, as in every other writer of these types.
    std::array::from_fn(|i| ((x[i] - offset) * inverse - from + 0.5).floor().clamp(0.0, to - from) as u8)
}

/// Adds in an order that a vector unit can follow.
#[inline(always)]
fn sum<const N: usize>(x: &[f32; N]) -> f32 {
    let mut lanes = [0.0f32; 8];
    for chunk in x.as_chunks::<8>().0 {
        for i in 0..8 {
            lanes[i] += chunk[i];
        }
    }
    lanes.iter().sum()
}
