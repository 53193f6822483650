//! Against double precision, and every instruction set against scalar.

use super::*;
use crate::matmul::tests::Noise;

const LENGTHS: [usize; 9] = [1, 2, 15, 16, 17, 31, 64, 100, 576];

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Every instruction set gives the bits of scalar; returns them.
fn same(f: impl Fn(Isa) -> Vec<f32>) -> Vec<f32> {
    let want = f(Isa::SCALAR);
    for isa in Isa::available() {
        assert_eq!(bits(&f(isa)), bits(&want), "{isa}");
    }
    want
}

fn close(got: &[f32], want: impl Iterator<Item = f64>, tolerance: f64) {
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*got) - want).abs() <= tolerance * want.abs().max(1.0), "{i}: {got}, not {want}");
    }
}

#[test]
fn rms_norm_scales_to_unit_mean_square() {
    for len in LENGTHS {
        let mut noise = Noise(len as u64);
        let (x, w) = (noise.floats(len), noise.floats(len));
        let got = same(|isa| {
            let mut out = vec![0.0; len];
            rms_norm(isa, &x, &w, 1e-5, &mut out);
            out
        });
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / len as f64;
        close(
            &got,
            x.iter().zip(&w).map(|(x, w)| f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*w)),
            1e-6,
        );
    }
}

#[test]
fn gated_activations_match_their_definitions() {
    type Op = fn(Isa, &[f32], &[f32], &mut [f32]);
    // The error function is not in std; Simpson's rule over its integrand serves as well.
    let erf = |x: f64| {
        let (n, f) = (2000, |t: f64| (-t * t).exp());
        let h = x / f64::from(n);
        let inner: f64 = (1..n).map(|i| f(h * f64::from(i)) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
        (f(0.0) + inner + f(x)) * h / 3.0 * std::f64::consts::FRAC_2_SQRT_PI
    };
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let gelu_tanh =
        |x: f64| 0.5 * x * (1.0 + (std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x * x * x)).tanh());
    let gelu_erf = |x: f64| 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2));
    let cases: [(Op, &dyn Fn(f64) -> f64); 3] =
        [(silu_mul, &silu), (gelu_tanh_mul, &gelu_tanh), (gelu_erf_mul, &gelu_erf)];
    for (op, definition) in cases {
        for len in LENGTHS {
            let mut noise = Noise(len as u64);
            let gate: Vec<f32> = noise.floats(len).iter().map(|x| 6.0 * x).collect();
            let up = noise.floats(len);
            let got = same(|isa| {
                let mut out = vec![0.0; len];
                op(isa, &gate, &up, &mut out);
                out
            });
            close(&got, gate.iter().zip(&up).map(|(g, u)| definition((*g).into()) * f64::from(*u)), 2e-6);
        }
    }
}

#[test]
fn silu_of_large_numbers_is_the_number_or_nothing() {
    let mut out = [0.0; 3];
    silu_mul(Isa::detect(), &[1e4, -1e4, f32::NAN], &[2.0; 3], &mut out);
    assert_eq!(out[..2], [2e4, 0.0]);
    assert!(out[2].is_nan());
}

#[test]
fn in_place_operations_match_their_definitions() {
    for len in LENGTHS {
        let mut noise = Noise(len as u64);
        let (x, y) = (noise.floats(len), noise.floats(len));
        let after = |op: &dyn Fn(Isa, &mut [f32])| {
            same(|isa| {
                let mut x = x.clone();
                op(isa, &mut x);
                x
            })
        };
        let added: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
        assert_eq!(after(&|isa, x| add_assign(isa, x, &y)), added);
        let scaled: Vec<f32> = x.iter().map(|x| x * 3.5).collect();
        assert_eq!(after(&|isa, x| scale(isa, x, 3.5)), scaled);
        let capped = after(&|isa, x| softcap(isa, x, 0.5));
        close(&capped, x.iter().map(|x| 0.5 * (f64::from(*x) / 0.5).tanh()), 1e-6);
    }
}

#[test]
fn rope_turns_pairs_and_leaves_the_rest() {
    for layout in [RopeLayout::Halves, RopeLayout::Interleaved] {
        for half in [1, 8, 17, 32] {
            let mut noise = Noise(half as u64);
            let head = noise.floats(2 * half + 5);
            let angles: Vec<f64> = (0..half).map(|i| 0.3 + i as f64).collect();
            let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
            let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
            let got = same(|isa| {
                let mut head = head.clone();
                rope(isa, &mut head, &cos, &sin, layout);
                head
            });
            for (i, angle) in angles.iter().enumerate() {
                let (a, b) = match layout {
                    RopeLayout::Halves => (i, half + i),
                    RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                };
                let (x, y) = (f64::from(head[a]), f64::from(head[b]));
                close(
                    &[got[a], got[b]],
                    [x * angle.cos() - y * angle.sin(), y * angle.cos() + x * angle.sin()].into_iter(),
                    1e-6,
                );
            }
            assert_eq!(got[2 * half..], head[2 * half..]);
        }
    }
}
