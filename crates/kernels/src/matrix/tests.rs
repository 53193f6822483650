//! What was packed can be read back, from bytes that were kept too, and what does not fit is refused.

use std::sync::Arc;

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

const ROOM: usize = 1 << 16;

/// Bytes at the begin of a cache line, as a mapped file gives them.
#[repr(align(64))]
struct Kept([u8; ROOM]);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn kept(bytes: &[u8], offset: usize) -> SharedBytes {
    let mut kept = Kept([0xa5; ROOM]);
    kept.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    Arc::new(kept)
}

#[test]
fn a_view_of_kept_bytes_is_the_matrix_and_does_not_read_the_source() {
    let (team, mut noise) = (Team::new(2), Noise(5));
    for dtype in DType::ALL {
        let (rows, k) = (19, 256);
        let data = weights(dtype, rows, k, &mut noise);
        let parts = |data| [Part { dtype, rows, data }, Part { dtype, rows: 0, data: &[] }];
        let packed = PackedMatrix::pack(&parts(&data), k, &team).unwrap();
        let other = vec![0xff; data.len()];
        let view = PackedMatrix::view(&parts(&other), k, kept(packed.as_bytes(), 128), 128).unwrap();
        assert_eq!((view.n(), view.k(), view.input()), (rows, k, packed.input()));
        assert_eq!(view.as_bytes(), packed.as_bytes());
        let (mut want, mut got) = (vec![0.0; k], vec![0.0; k]);
        for row in 0..rows {
            packed.row(row, &mut want);
            view.row(row, &mut got);
            assert_eq!(got, want, "{dtype} row {row}");
        }
    }
}

#[test]
fn a_view_that_does_not_fit_is_refused() {
    let data = vec![0; 16 * 4 * 16];
    let parts = [Part { dtype: DType::F32, rows: 16, data: &data }];
    let view = |offset| PackedMatrix::view(&parts, 16, kept(&[], 0), offset).map(|view| view.bytes());
    let there = ROOM;
    assert_eq!(view(there - 1024), Ok(1024));
    assert_eq!(view(96), Err(PackError::Misaligned { offset: 96 }));
    for offset in [there - 1023, there + 1, usize::MAX] {
        assert_eq!(view(offset), Err(PackError::Outside { offset, wanted: 1024, there }));
    }
    let short = [Part { dtype: DType::F32, rows: 17, data: &data }];
    let refused = PackedMatrix::view(&short, 16, kept(&[], 0), 0).map(|view| view.bytes());
    assert!(matches!(refused, Err(PackError::Length { .. })));
}

/// Packed bytes outlive the program that wrote them, so their order is a promise. Whoever changes it raises
/// [`PACK_LAYOUT`] and writes down the new sums.
#[test]
fn packed_bytes_are_those_of_the_layouts_version() {
    let (version, sums) = (
        2,
        [
            (DType::F32, 0x3fd4_a6f5_dbb1_1f10),
            (DType::F16, 0xbbfb_ea32_822d_d7a6),
            (DType::BF16, 0xd468_cec9_ff74_13a8),
            (DType::Q4_0, 0x2969_0769_45aa_f376),
            (DType::Q4_1, 0x9eee_a659_fb23_6a92),
            (DType::Q5_0, 0xda29_40bf_0d47_7615),
            (DType::Q5_1, 0xf88a_b96e_a846_97e6),
            (DType::Q8_0, 0x1505_9f9d_23a8_b212),
            (DType::Q2K, 0x99b7_3d4d_547b_034c),
            (DType::Q3K, 0x87db_ad5e_7c1f_20f1),
            (DType::Q4K, 0x1830_44bb_0286_4365),
            (DType::Q5K, 0xc290_fc98_f6a0_bb53),
            (DType::Q6K, 0x7326_fd11_7789_58a3),
        ],
    );
    let found = DType::ALL.map(|dtype| {
        // Inputs of two super-blocks; a second panel with a single output in it.
        let (rows, k) = (17, 512);
        let data = weights(dtype, rows, k, &mut Noise(6));
        let packed = PackedMatrix::pack(&[Part { dtype, rows, data: &data }], k, &Team::new(1)).unwrap();
        (dtype, fnv(packed.as_bytes()))
    });
    assert_eq!((PACK_LAYOUT, found), (version, sums), "the layout has changed: raise PACK_LAYOUT");
}

/// FNV-1a, 64 bits: the same everywhere and for ever.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
