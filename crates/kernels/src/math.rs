//! Decides how transcendental functions are computed: one polynomial each, the same on every instruction
//! set.

use crate::simd::Simd;

/// Arguments above give infinity.
const EXP_MOST: f32 = 88.0;
/// Arguments below give zero: results would be subnormal.
const EXP_LEAST: f32 = -87.33;

/// `e^x` with a relative error below 2e-7; 0 below -87.33 and infinity above 88.
///
/// `e^x = 2^n · e^r` with `n` the integer nearest `x / ln 2`, so `|r| ≤ ln 2 / 2`; `e^r` by the Taylor
/// polynomial of degree 7, whose remainder is below 6e-9 there.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts: the first has few enough bits that `n` times it is exact.
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    let y = s.mul(p, s.exp2i(n));
    let y = s.if_less(x, s.splat(EXP_LEAST), s.splat(0.0), y);
    s.if_less(s.splat(EXP_MOST), x, s.splat(f32::INFINITY), y)
}

/// `tanh x`: the Taylor-like odd series near zero, where the exponential would cancel.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    let size = s.abs(x);
    let e = exp(s, s.mul(size, s.splat(-2.0)));
    let far = s.copysign(s.div(s.sub(one, e), s.add(one, e)), x);
    // x - x³/3 + 2x⁵/15 - 17x⁷/315 + 62x⁹/2835 - 1382x¹¹/155925
    let z = s.mul(x, x);
    let mut p = s.splat(-1382.0 / 155_925.0);
    for c in [62.0 / 2835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0] {
        p = s.fma(p, z, s.splat(c));
    }
    let near = s.fma(s.mul(p, z), x, x);
    s.if_less(size, s.splat(0.3), near, far)
}

/// `erf x` with an absolute error below 5e-7 (Abramowitz and Stegun, formula 7.1.26).
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    let size = s.abs(x);
    let t = s.div(one, s.fma(size, s.splat(0.327_591_1), one));
    let mut p = s.splat(1.061_405_4);
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = s.fma(p, t, s.splat(c));
    }
    let tail = s.mul(s.mul(p, t), exp(s, s.sub(s.splat(0.0), s.mul(x, x))));
    s.copysign(s.sub(one, tail), x)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{lanes, scalar::Scalar};

    fn check(
        f: impl Fn([f32; 16]) -> [f32; 16],
        exact: impl Fn(f64) -> f64,
        range: f32,
        error: impl Fn(f64, f64) -> f64,
        bound: f64,
    ) {
        let mut worst = (0.0, 0.0);
        for i in -200_000..=200_000 {
            let x = i as f32 / 200_000.0 * range;
            let e = error(f([x; 16])[0].into(), exact(x.into()));
            if e > worst.0 {
                worst = (e, x);
            }
        }
        assert!(worst.0 < bound, "error {} at {}", worst.0, worst.1);
    }

    fn relative(got: f64, want: f64) -> f64 {
        if want == 0.0 { got.abs() } else { ((got - want) / want).abs() }
    }

    #[test]
    fn exp_is_exact_to_two_in_ten_million() {
        check(|x| lanes(Scalar, exp(Scalar, x)), f64::exp, 87.3, relative, 2e-7);
        check(|x| lanes(Scalar, exp(Scalar, x)), f64::exp, 1.0, relative, 2e-7);
    }

    #[test]
    fn exp_saturates() {
        let e = |x| exp(Scalar, [x; 16])[0];
        assert_eq!((e(f32::NEG_INFINITY), e(-88.0), e(-1e30)), (0.0, 0.0, 0.0));
        assert_eq!((e(f32::INFINITY), e(89.0), e(0.0)), (f32::INFINITY, f32::INFINITY, 1.0));
        assert!(e(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_accurate_relative_to_its_size() {
        check(|x| lanes(Scalar, tanh(Scalar, x)), f64::tanh, 0.31, relative, 5e-7);
        check(|x| lanes(Scalar, tanh(Scalar, x)), f64::tanh, 20.0, relative, 5e-7);
    }

    #[test]
    fn erf_matches_tabulated_values() {
        for (x, want) in [(0.0, 0.0), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3), (4.0, 1.0)]
        {
            for sign in [1.0, -1.0] {
                let got = erf(Scalar, [sign * x; 16])[0];
                assert!((got - sign * want).abs() < 5e-7, "erf({x}) = {got}");
            }
        }
    }
}
