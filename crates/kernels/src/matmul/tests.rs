//! The product against a literal reading of its definition, and every instruction set against scalar.

mod bf16;
mod chain;

use proptest::prelude::*;

use super::*;
use crate::{
    InputKind, Part,
    block::{Codes, Format, Scales, dequantize},
};

/// Numbers without structure, the same for the same seed.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn bits(&mut self) -> u64 {
        // splitmix64 (Steele, Lea, Flood 2014)
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Within `-1.0..1.0`.
    pub(crate) fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }
}

/// `rows` rows of `k` elements whose codes are any bits and whose half-precision scales are small numbers.
pub(crate) fn weights(dtype: DType, rows: usize, k: usize, noise: &mut Noise) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rows * k / dtype.block_len() {
        let mut block: Vec<u8> = (0..dtype.block_bytes()).map(|_| noise.bits() as u8).collect();
        let mut half = |at: usize| {
            block[at..at + 2].copy_from_slice(&half::f16::from_f32(noise.float() / 8.0).to_le_bytes());
        };
        match dtype {
            DType::F32 => block.copy_from_slice(&noise.float().to_le_bytes()),
            DType::BF16 => block.copy_from_slice(&half::bf16::from_f32(noise.float()).to_le_bytes()),
            DType::F16 | DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => half(0),
            DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => [0, 2].map(&mut half).map(drop)[0],
            DType::Q2K => [80, 82].map(&mut half).map(drop)[0],
            DType::Q3K => half(108),
            DType::Q6K => half(208),
        }
        bytes.extend(block);
    }
    bytes
}

fn product(isa: Isa, team: &Team, w: &PackedMatrix, x: &[f32], rows: usize, stride: usize) -> Vec<f32> {
    let mut input = Input::new();
    input.fill(isa, team, x, rows, w.k(), w.input());
    let mut y = vec![f32::MAX; rows * stride];
    matmul(isa, team, &input, w, &mut y, stride, Store::Set);
    y
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// One output, read literally from the header of `matmul.rs`.
fn literal(order: Bf16Order, dtype: DType, w: &[u8], x: &[f32]) -> f32 {
    let Some(format) = Format::of(dtype) else {
        let mut row = vec![0.0; x.len()];
        dequantize(dtype, w, &mut row).unwrap();
        if dtype == DType::BF16 {
            return bf16::dot(order, x, &row);
        }
        return row.iter().zip(x).fold(0.0, |y, (w, x)| x.mul_add(*w, y));
    };
    let half = |bits| half::f16::from_bits(bits).to_f32();
    let mut y = 0.0f32;
    for (i, x) in x.as_chunks::<32>().0.iter().enumerate() {
        let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let (dx, inverse) = if most < 1e-30 { (0.0, 0.0) } else { (most / 127.0, 127.0 / most) };
        let q = x.map(|x| (x * inverse).round_ties_even() as i32);
        let blocks = dtype.block_len() / 32;
        let bytes = dtype.block_bytes();
        let mut codes = Codes::default();
        codes.read(dtype, &w[i / blocks * bytes..][..bytes]);
        for at in (0..32).step_by(format.sub_block()) {
            let first = i % blocks * 32 + at;
            let sub = first / format.sub_block();
            let q = &q[at..at + format.sub_block()];
            let products = q.iter().zip(&codes.code[first..]);
            let sum: i32 = products.map(|(q, code)| q * (i32::from(*code) - i32::from(format.zero))).sum();
            y = (half(codes.d) * f32::from(codes.scale[sub]) * dx).mul_add(sum as f32, y);
            if format.affine {
                let sign = if format.scales == Scales::Super { -1.0 } else { 1.0 };
                let min = sign * half(codes.min) * f32::from(codes.min_scale[sub]);
                y = min.mul_add(dx * q.iter().sum::<i32>() as f32, y);
            }
        }
    }
    y
}

/// All outputs of stacked parts.
fn literal_rows(order: Bf16Order, parts: &[Part<'_>], k: usize, x: &[f32]) -> Vec<f32> {
    let outputs = |x: &[f32]| -> Vec<f32> {
        parts
            .iter()
            .flat_map(|part| {
                let bytes = part.dtype.bytes_for(k).unwrap();
                part.data.chunks_exact(bytes).map(|w| literal(order, part.dtype, w, x))
            })
            .collect()
    };
    x.chunks_exact(k).flat_map(outputs).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(96), ..ProptestConfig::default() })]

    #[test]
    fn every_instruction_set_and_team_returns_the_defined_bits(
        seed: u64,
        first in 0..13usize,
        second in 0..13usize,
        n in 1..70usize,
        extra in 0..3usize,
        rows in 0..18usize,
        k in 1..5usize,
        threads in 1..4usize,
        gap in 0..3usize,
    ) {
        let mut noise = Noise(seed);
        let types = [DType::ALL[first], DType::ALL[second]];
        // Float rows need not be whole blocks of anything.
        let blocks = types.map(DType::block_len);
        let k = if blocks == [1, 1] { 13 * k } else { blocks[0].max(blocks[1]) * k };
        let data = [weights(types[0], n, k, &mut noise), weights(types[1], 20 * extra, k, &mut noise)];
        let parts = [
            Part { dtype: types[0], rows: n, data: &data[0] },
            Part { dtype: types[1], rows: 20 * extra, data: &data[1] },
        ];
        let x = noise.floats(rows * k);
        let team = Team::new(threads);
        let w = PackedMatrix::pack(&parts, k, &team).unwrap();
        let stride = w.n() + gap;
        let orders = [Bf16Order::Ascending, Bf16Order::OddFirst, Bf16Order::Blocks];
        let wanted = orders.map(|order| literal_rows(order, &parts, k, &x));
        for isa in Isa::available() {
            let want = &wanted[orders.iter().position(|order| *order == isa.bf16()).unwrap()];
            let y = product(isa, &team, &w, &x, rows, stride);
            for r in 0..rows {
                let (got, beyond) = y[r * stride..][..stride].split_at(w.n());
                prop_assert_eq!(bits(got), bits(&want[r * w.n()..][..w.n()]), "{} {:?} row {}", isa, w, r);
                prop_assert!(beyond.iter().all(|y| *y == f32::MAX), "columns beyond the matrix are not written");
            }
        }
    }
}

#[test]
fn sums_of_extreme_codes_are_exact() {
    let team = Team::new(1);
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1) {
        let k = 256;
        for fill in [0x00, 0x7f, 0x80, 0xff] {
            let mut data = weights(dtype, 1, k, &mut Noise(5));
            // All codes (and factors) extreme, the half-precision scales kept.
            let scales: Vec<usize> = match dtype {
                DType::Q2K => vec![80, 82],
                DType::Q3K => vec![108],
                DType::Q6K => vec![208],
                _ if Format::of(dtype).unwrap().affine => vec![0, 2],
                _ => vec![0],
            };
            for block in data.chunks_exact_mut(dtype.block_bytes()) {
                for (i, byte) in block.iter_mut().enumerate() {
                    if !scales.iter().any(|at| (*at..at + 2).contains(&i)) {
                        *byte = fill;
                    }
                }
            }
            let parts = [Part { dtype, rows: 1, data: &data }];
            let w = PackedMatrix::pack(&parts, k, &team).unwrap();
            for signs in [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]] {
                let x: Vec<f32> = (0..9 * k).map(|i| signs[i % 2] * 127.0).collect();
                for isa in Isa::available() {
                    let y = product(isa, &team, &w, &x, 9, 1);
                    assert_eq!(
                        bits(&y),
                        bits(&literal_rows(isa.bf16(), &parts, k, &x)),
                        "{dtype} {isa} {fill:#x} {signs:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn equals_the_dequantised_product_up_to_rounding() {
    let mut noise = Noise(1);
    let team = Team::new(1);
    for dtype in DType::ALL {
        let (k, n, rows) = (512, 19, 3);
        let data = weights(dtype, n, k, &mut noise);
        let w = PackedMatrix::pack(&[Part { dtype, rows: n, data: &data }], k, &team).unwrap();
        // Activations that are exact in eight bits, so that the two products differ by float rounding only.
        let x: Vec<f32> = (0..rows * k)
            .map(|i| if i % 32 == 0 { 127.0 } else { (noise.bits() % 255) as f32 - 127.0 })
            .collect();
        let y = product(Isa::detect(), &team, &w, &x, rows, n);
        let mut weights = vec![0.0; n * k];
        dequantize(dtype, &data, &mut weights).unwrap();
        for (x, y) in x.chunks_exact(k).zip(y.chunks_exact(n)) {
            for (o, (w, y)) in weights.chunks_exact(k).zip(y).enumerate() {
                let products = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                let (want, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                assert!(
                    (f64::from(*y) - want).abs() <= 1e-5 * size.max(1.0),
                    "{dtype} output {o}: {y}, not {want}"
                );
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_how_many_there_are() {
    let mut noise = Noise(6);
    // More blocks than are unpacked at once, more rows than one claim covers, and panels of which some are not full.
    let (k, n, rows) = (256 * 7, 40, 150);
    let x = noise.floats(rows * k);
    for dtype in [DType::BF16, DType::Q4_0, DType::Q4_1, DType::Q4K, DType::Q8_0] {
        let data = weights(dtype, n, k, &mut noise);
        let w = PackedMatrix::pack(&[Part { dtype, rows: n, data: &data }], k, &Team::new(1)).unwrap();
        for isa in Isa::available() {
            let one_by_one: Vec<u32> =
                x.chunks(k).flat_map(|x| bits(&product(isa, &Team::new(1), &w, x, 1, n))).collect();
            for rows in [15, 16, 17, 63, 64, 150] {
                let all = product(isa, &Team::new(2), &w, &x[..rows * k], rows, n);
                assert_eq!(bits(&all), one_by_one[..rows * n], "{dtype} {isa} {rows} rows");
            }
        }
    }
}

#[test]
fn results_can_be_added_to_what_is_there() {
    let (mut noise, team) = (Noise(9), Team::new(2));
    let (k, n, rows) = (64, 21, 5);
    let data = weights(DType::Q4_0, n, k, &mut noise);
    let w = PackedMatrix::pack(&[Part { dtype: DType::Q4_0, rows: n, data: &data }], k, &team).unwrap();
    let x = noise.floats(rows * k);
    let before = noise.floats(rows * n);
    for isa in Isa::available() {
        let alone = product(isa, &team, &w, &x, rows, n);
        let mut input = Input::new();
        input.fill(isa, &team, &x, rows, k, w.input());
        let mut y = before.clone();
        matmul(isa, &team, &input, &w, &mut y, n, Store::Add);
        let want: Vec<f32> = before.iter().zip(&alone).map(|(before, y)| before + y).collect();
        assert_eq!(bits(&y), bits(&want), "{isa}");
    }
}

#[test]
fn a_row_that_is_no_number_does_not_touch_its_neighbours() {
    let (mut noise, team) = (Noise(7), Team::new(1));
    for dtype in DType::ALL {
        let data = weights(dtype, 16, 256, &mut noise);
        let w = PackedMatrix::pack(&[Part { dtype, rows: 16, data: &data }], 256, &team).unwrap();
        let clean = noise.floats(5 * 256);
        let mut x = clean.clone();
        x[2 * 256 + 100] = f32::NAN;
        for isa in Isa::available() {
            let (y, want) = (product(isa, &team, &w, &x, 5, 16), product(isa, &team, &w, &clean, 5, 16));
            assert!(y[32..48].iter().all(|y| y.is_nan()), "{dtype} {isa}");
            assert_eq!((bits(&y[..32]), bits(&y[48..])), (bits(&want[..32]), bits(&want[48..])));
        }
    }
}

#[test]
#[should_panic(expected = "activations were filled for this matrix")]
fn activations_in_another_form_are_refused() {
    let (mut noise, team) = (Noise(8), Team::new(1));
    let data = weights(DType::F32, 16, 32, &mut noise);
    let w = PackedMatrix::pack(&[Part { dtype: DType::F32, rows: 16, data: &data }], 32, &team).unwrap();
    let mut input = Input::new();
    input.fill(Isa::SCALAR, &team, &noise.floats(32), 1, 32, InputKind::NONE);
    matmul(Isa::SCALAR, &team, &input, &w, &mut [0.0; 16], 16, Store::Set);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(32), ..ProptestConfig::default() })]

    #[test]
    fn a_gated_product_is_the_activation_of_both_halves(
        seed: u64,
        types in [0..13usize, 0..13],
        n in 1..40usize,
        rows in 0..40usize,
        threads in 1..4usize,
        gap in 0..3usize,
    ) {
        let mut noise = Noise(seed);
        let types = types.map(|at| DType::ALL[at]);
        let k = 256;
        let data = types.map(|dtype| weights(dtype, n, k, &mut noise));
        let parts = [0, 1].map(|at| Part { dtype: types[at], rows: n, data: &data[at] });
        let x = noise.floats(rows * k);
        let team = Team::new(threads);
        let w = PackedMatrix::pack(&parts, k, &team).unwrap();
        let stride = n + gap;
        for isa in Isa::available() {
            let both = product(isa, &team, &w, &x, rows, 2 * n);
            let mut input = Input::new();
            input.fill(isa, &team, &x, rows, k, w.input());
            let mut y = vec![f32::MAX; rows * stride];
            matmul_gated(isa, &team, &input, &w, crate::ops::silu_mul, &mut y, stride);
            let mut want = vec![0.0; n];
            for (both, y) in both.chunks_exact(2 * n).zip(y.chunks_exact(stride)) {
                crate::ops::silu_mul(isa, &both[..n], &both[n..], &mut want);
                prop_assert_eq!(bits(&y[..n]), bits(&want), "{} {:?}", isa, w);
                prop_assert!(y[n..].iter().all(|y| *y == f32::MAX), "columns beyond are not written");
            }
        }
    }
}

#[test]
#[should_panic(expected = "as many outputs of the other half")]
fn a_gate_needs_another_half() {
    let team = Team::new(1);
    let data = weights(DType::Q4_0, 48, 32, &mut Noise(1));
    let (gate, up) = data.split_at(data.len() / 3);
    let parts =
        [Part { dtype: DType::Q4_0, rows: 16, data: gate }, Part { dtype: DType::Q4_0, rows: 32, data: up }];
    let w = PackedMatrix::pack(&parts, 32, &team).unwrap();
    let mut input = Input::new();
    input.fill(Isa::SCALAR, &team, &[0.0; 32], 1, 32, w.input());
    matmul_gated(Isa::SCALAR, &team, &input, &w, crate::ops::silu_mul, &mut [0.0; 24], 24);
}
