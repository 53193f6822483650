//! What was packed can be read back, and what does not fit is refused.

use super::*;
use crate::{
    block::{dequantize, quantize},
    matmul::tests::{Noise, weights},
};

#[test]
fn rows_read_back_exactly_as_the_source_does() {
    let (team, mut noise) = (Team::new(2), Noise(3));
    for dtype in DType::ALL {
        for rows in [1, 16, 37] {
            let k = if dtype.block_len() == 1 { 45 } else { 512 };
            let data = weights(dtype, rows, k, &mut noise);
            let extra = weights(DType::F32, 3, k, &mut noise);
            let parts =
                [Part { dtype: DType::F32, rows: 3, data: &extra }, Part { dtype, rows, data: &data }];
            let packed = PackedMatrix::pack(&parts, k, &team).unwrap();
            assert_eq!((packed.n(), packed.k()), (rows + 3, k));
            let (mut want, mut got) = (vec![0.0; rows * k], vec![0.0; k]);
            dequantize(dtype, &data, &mut want).unwrap();
            for (row, want) in want.chunks_exact(k).enumerate() {
                packed.row(3 + row, &mut got);
                assert_eq!(got, want, "{dtype} row {row} of {rows}");
            }
        }
    }
}

#[test]
fn packing_takes_less_than_two_and_a_half_times_the_source() {
    let (team, mut noise) = (Team::new(1), Noise(4));
    for dtype in DType::ALL {
        let data = weights(dtype, 64, 512, &mut noise);
        let packed = PackedMatrix::pack(&[Part { dtype, rows: 64, data: &data }], 512, &team).unwrap();
        assert!(packed.bytes() * 2 < data.len() * 5, "{dtype}: {} from {}", packed.bytes(), data.len());
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let team = Team::new(1);
    let data = quantize(DType::Q8_0, &[1.0; 64]).unwrap();
    let pack = |rows, k| {
        PackedMatrix::pack(&[Part { dtype: DType::Q8_0, rows, data: &data }], k, &team)
            .map(|packed| packed.n())
    };
    assert_eq!(pack(2, 32), Ok(2));
    assert_eq!(pack(2, 31), Err(PackError::Ragged { part: 0, dtype: DType::Q8_0, k: 31 }));
    assert_eq!(
        pack(3, 32),
        Err(PackError::Length { part: 0, dtype: DType::Q8_0, rows: 3, k: 32, bytes: 68 })
    );
    assert!(matches!(pack(usize::MAX, 32), Err(PackError::Length { .. })));
    assert!(matches!(pack(2, usize::MAX - 31), Err(PackError::Length { .. } | PackError::Ragged { .. })));
}

#[test]
fn rows_of_no_inputs_are_empty() {
    let team = Team::new(2);
    let none = Part { dtype: DType::F32, rows: 3, data: &[] };
    let packed = PackedMatrix::pack(&[none], 0, &team).unwrap();
    assert_eq!((packed.n(), packed.k(), packed.bytes()), (3, 0, 0));
    packed.row(2, &mut []);
}
