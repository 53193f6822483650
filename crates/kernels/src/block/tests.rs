//! Blocks against the Python package `gguf` (see `fixtures/blocks.py`).

use super::*;

struct Record<'a> {
    writes: bool,
    dtype: DType,
    bytes: &'a [u8],
    floats: Vec<f32>,
}

fn records() -> Vec<Record<'static>> {
    let mut rest: &[u8] = include_bytes!("../../fixtures/blocks.bin");
    let mut records = Vec::new();
    while !rest.is_empty() {
        let header: Vec<u32> = rest[..16].as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let (bytes, after) = rest[16..].split_at(header[2] as usize);
        let (floats, after) = after.split_at(4 * header[3] as usize);
        rest = after;
        records.push(Record {
            writes: header[0] == 1,
            dtype: DType::from_ggml(header[1]).unwrap(),
            bytes,
            floats: floats.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        });
    }
    records
}

#[test]
fn every_type_reads_as_the_reference_reads_it() {
    let mut seen = Vec::new();
    for Record { dtype, bytes, floats, .. } in records().into_iter().filter(|r| !r.writes) {
        let mut got = vec![0.0; floats.len()];
        dequantize(dtype, bytes, &mut got).unwrap();
        assert_eq!(got, floats, "{dtype}");
        seen.push(dtype);
    }
    seen.sort();
    assert_eq!(seen, DType::ALL);
}

#[test]
fn integers_with_their_scales_are_the_weights() {
    let mut seen = 0;
    for Record { dtype, bytes, floats, .. } in records().into_iter().filter(|r| !r.writes) {
        let Some(integers) = Integers::of(dtype) else { continue };
        let subs = floats.len() / integers.sub_block;
        let (mut codes, mut scales, mut mins) = (vec![0; floats.len()], vec![0.0; subs], vec![0.0; subs]);
        integers.read(dtype, bytes, &mut codes, &mut scales, &mut mins).unwrap();
        for (i, expected) in floats.iter().enumerate() {
            let sub = i / integers.sub_block;
            let value = scales[sub] * (f32::from(codes[i]) - f32::from(integers.zero)) + mins[sub];
            assert_eq!(value, *expected, "{dtype} at {i}");
            assert!(!integers.four_bits || codes[i] < 16, "{dtype}");
            assert!(integers.affine || mins[sub] == 0.0, "{dtype}");
        }
        assert!(integers.read(dtype, &bytes[1..], &mut codes, &mut scales, &mut mins).is_err(), "{dtype}");
        seen += 1;
    }
    assert_eq!(seen, 10);
}

#[test]
fn written_types_round_as_the_reference_rounds() {
    let mut seen = 0;
    for Record { dtype, bytes, floats, .. } in records().into_iter().filter(|r| r.writes) {
        assert_eq!(quantize(dtype, &floats).unwrap(), bytes, "{dtype}");
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[test]
fn lengths_that_are_no_whole_blocks_are_refused() {
    let mut out = [0.0; 32];
    assert_eq!(
        dequantize(DType::Q4_0, &[0; 17], &mut out),
        Err(BlockError::Length { dtype: DType::Q4_0, elements: 32, bytes: 17 })
    );
    assert!(dequantize(DType::Q4_0, &[0; 18], &mut out[..31]).is_err());
    assert_eq!(
        quantize(DType::Q8_0, &out[..31]),
        Err(BlockError::Ragged { dtype: DType::Q8_0, elements: 31 })
    );
    assert_eq!(quantize(DType::Q5_0, &out), Err(BlockError::ReadOnly { dtype: DType::Q5_0 }));
}
