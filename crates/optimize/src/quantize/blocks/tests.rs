//! Blocks read back by the kernels: bytes of the reference quantiser, sizes of errors, numbers at the edge.

use proptest::prelude::*;
use wharf_kernels::block;

use super::*;

const WRITTEN: [DType; 11] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
];

fn bytes(dtype: DType, x: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xaa; dtype.bytes_for(x.len()).unwrap()];
    encode(dtype, Row { x, importance }, &mut out);
    out
}

fn round_trip(dtype: DType, x: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    let mut back = vec![0.0; x.len()];
    block::dequantize(dtype, &bytes(dtype, x, importance), &mut back).unwrap();
    back
}

/// Square error, each square weighted.
fn error(x: &[f32], back: &[f32], w: &[f32]) -> f64 {
    x.iter().zip(back).zip(w).map(|((x, y), w)| f64::from(*w) * f64::from(x - y).powi(2)).sum()
}

/// Roughly normal numbers; the same for the same seed.
fn normal(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    (0..n).map(|_| (uniform() + uniform() + uniform() + uniform()) * 0.05).collect()
}

#[test]
fn types_that_the_kernels_write_have_their_bytes() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1] {
        for seed in 0..20 {
            let x = normal(seed, 512);
            assert_eq!(bytes(dtype, &x, None), block::quantize(dtype, &x).unwrap(), "{dtype}");
        }
        // Extremes of either sign or both, the first of which counts, and of neither.
        for (a, b) in
            [(0.5, 0.25), (-0.5, 0.25), (0.5, -0.5), (-0.5, 0.5), (-0.5, -0.25), (0.0, 0.0), (-0.0, -0.0)]
        {
            let mut x = [b / 4.0; 32];
            (x[9], x[27]) = (a, b);
            assert_eq!(bytes(dtype, &x, None), block::quantize(dtype, &x).unwrap(), "{dtype}: {a} and {b}");
        }
    }
}

#[test]
fn more_bits_mean_smaller_errors() {
    let x = normal(1, 2048);
    let squares: f64 = x.iter().map(|x| f64::from(x * x)).sum();
    let relative = |dtype| (error(&x, &round_trip(dtype, &x, None), &[1.0; 2048]) / squares).sqrt();
    let bounds = [
        (DType::Q8_0, 0.008),
        (DType::Q6K, 0.023),
        (DType::Q5K, 0.042),
        (DType::Q5_1, 0.045),
        (DType::Q5_0, 0.06),
        (DType::Q4K, 0.083),
        (DType::Q4_1, 0.095),
        (DType::Q4_0, 0.11),
    ];
    for (dtype, bound) in bounds {
        let error = relative(dtype);
        assert!(error < bound, "{dtype}: {error}");
    }
}

#[test]
fn importance_moves_the_error_to_where_it_matters_less() {
    let x = normal(2, 4096);
    let importance: Vec<f32> = (0..4096).map(|i| if i % 7 == 0 { 30.0 } else { 0.3 }).collect();
    for dtype in [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q4K, DType::Q5K, DType::Q6K] {
        let plain = error(&x, &round_trip(dtype, &x, None), &importance);
        let calibrated = error(&x, &round_trip(dtype, &x, Some(&importance)), &importance);
        assert!(calibrated < plain, "{dtype}: {calibrated} with importance, {plain} without");
    }
}

#[test]
fn zeros_constants_and_single_numbers_survive() {
    let mut one = vec![0.0; 256];
    one[77] = -3.0;
    for x in [vec![0.0; 256], vec![0.25; 256], vec![-0.25; 256], one] {
        for dtype in WRITTEN {
            let back = round_trip(dtype, &x, None);
            let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (x, y) in x.iter().zip(&back) {
                assert!((x - y).abs() <= 0.02 * most, "{dtype}: {x} became {y}");
            }
        }
    }
}

proptest! {
    #[test]
    fn any_finite_row_reads_back_as_finite_numbers(
        scale in -30i32..15,
        seed in 0u64..1000,
        important in any::<bool>(),
    ) {
        let x: Vec<f32> = normal(seed, 256).iter().map(|x| x * 2f32.powi(scale)).collect();
        let importance: Vec<f32> = normal(seed + 1, 256).iter().map(|x| x.abs()).collect();
        for dtype in WRITTEN {
            let back = round_trip(dtype, &x, important.then_some(&importance));
            prop_assert!(back.iter().all(|y| y.is_finite()), "{}: {:?}", dtype, back);
        }
    }

    #[test]
    fn no_number_moves_further_than_a_step_of_its_block(seed in 0u64..1000) {
        let x = normal(seed, 256);
        let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (dtype, steps) in [(DType::Q8_0, 127.0), (DType::Q6K, 28.0), (DType::Q5_0, 15.0), (DType::Q4_0, 7.5), (DType::Q4K, 7.0)] {
            for (x, y) in x.iter().zip(round_trip(dtype, &x, None)) {
                prop_assert!((x - y).abs() <= most / steps, "{}: {} became {}", dtype, x, y);
            }
        }
    }
}
