//! The product against a literal reading of its definition, and every instruction set against scalar.

use super::*;
use crate::{Part, block::dequantize};

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
    matmul(isa, team, &input, w, &mut y, stride);
    y
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// `Σ x · w` in double precision, and the sum of magnitudes for the tolerance.
fn exact(part: &Part<'_>, k: usize, x: &[f32], row: usize) -> (f64, f64) {
    let bytes = part.dtype.bytes_for(k).unwrap();
    let mut w = vec![0.0; k];
    dequantize(part.dtype, &part.data[row * bytes..][..bytes], &mut w).unwrap();
    w.iter().zip(x).fold((0.0, 0.0), |(sum, size), (w, x)| {
        let p = f64::from(*w) * f64::from(*x);
        (sum + p, size + p.abs())
    })
}

#[test]
fn equals_the_dequantised_product_up_to_activation_rounding() {
    let mut noise = Noise(1);
    let team = Team::new(1);
    for dtype in DType::ALL {
        let (k, n, rows) = (512, 19, 3);
        let data = weights(dtype, n, k, &mut noise);
        let part = Part { dtype, rows: n, data: &data };
        let w = PackedMatrix::pack(&[part], k, &team).unwrap();
        // Activations that are exact in eight bits, so that the two products differ by float rounding only.
        let x: Vec<f32> = (0..rows * k)
            .map(|i| if i % 32 == 0 { 127.0 } else { (noise.bits() % 255) as f32 - 127.0 })
            .collect();
        for isa in Isa::available() {
            let y = product(isa, &team, &w, &x, rows, n);
            for r in 0..rows {
                for o in 0..n {
                    let (want, size) = exact(&part, k, &x[r * k..][..k], o);
                    let error = (f64::from(y[r * n + o]) - want).abs();
                    // Affine sums cancel: their terms are as large as scale·code·activation.
                    assert!(
                        error <= 3e-5 * size.max(1.0),
                        "{dtype} {isa} row {r} output {o}: {error} of {size}"
                    );
                }
            }
        }
    }
}
