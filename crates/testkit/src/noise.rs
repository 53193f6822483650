//! Decides what matrices of random bits look like: quick to make, of every type, and as large in value as weights of models.
//!
//! Quantising random numbers costs seconds for a large matrix, and some types nobody here quantises to. Random bits are both: only what scales a block
//! is set, so that activations neither vanish nor explode.

use wharf_kernels::DType;

use crate::tiny::Random;

/// Where a block has half-precision numbers, and how often 2 goes into each, relative to one over the root of the columns. Minima
/// have the sign that takes a block's mean to about zero.
fn halves(dtype: DType) -> &'static [(usize, i32, bool)] {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => &[],
        DType::Q4_0 => &[(0, 2, false)],
        DType::Q4_1 => &[(0, 2, false), (2, -1, true)],
        DType::Q5_0 => &[(0, 3, false)],
        DType::Q5_1 => &[(0, 3, false), (2, -1, true)],
        DType::Q8_0 => &[(0, 6, false)],
        DType::Q2K => &[(80, 3, false), (82, 3, false)],
        DType::Q3K => &[(108, 5, false)],
        DType::Q4K => &[(0, 8, false), (2, 5, false)],
        DType::Q5K => &[(0, 9, false), (2, 5, false)],
        DType::Q6K => &[(208, 10, false)],
    }
}

/// `rows` rows of `cols` elements as the type stores them. Equal seeds give equal bits.
///
/// # Panics
/// When rows are not whole blocks, which is a mistake in the test.
pub fn noise(dtype: DType, rows: usize, cols: usize, seed: u64) -> Vec<u8> {
    let bytes = dtype.bytes_for(cols).expect("rows are whole blocks") * rows;
    let mut random = Random(seed);
    let mut data = Vec::with_capacity(bytes.next_multiple_of(8));
    // Numbers are up to twice that power of 2, so it is below one over the root of the columns: larger ones make attention choose single positions.
    let size = cols.ilog2().div_ceil(2) as i32 + 1;
    match dtype {
        // Sign and mantissa are random, the exponent is the same everywhere.
        DType::BF16 => words(&mut data, bytes, &mut random, 0x807f, exponent(size, 127, 7)),
        DType::F16 => words(&mut data, bytes, &mut random, 0x83ff, exponent(size, 15, 10)),
        DType::F32 => {
            for _ in 0..bytes / 4 {
                let bits = random.next() as u32 & 0x807f_ffff | ((127 - size) as u32) << 23;
                data.extend(bits.to_le_bytes());
            }
        }
        _ => {
            while data.len() < bytes {
                data.extend(random.next().to_le_bytes());
            }
            data.truncate(bytes);
            for block in data.chunks_exact_mut(dtype.block_bytes()) {
                let mantissa = random.next() as u16 & 0x3ff;
                for (at, down, negative) in halves(dtype) {
                    let bits = half(size + down, mantissa) | u16::from(*negative) << 15;
                    block[*at..at + 2].copy_from_slice(&bits.to_le_bytes());
                }
            }
        }
    }
    data
}

fn words(data: &mut Vec<u8>, bytes: usize, random: &mut Random, kept: u16, exponent: u16) {
    let repeated = |word: u16| u64::from(word) * 0x0001_0001_0001_0001;
    while data.len() < bytes {
        data.extend((random.next() & repeated(kept) | repeated(exponent)).to_le_bytes());
    }
    data.truncate(bytes);
}

/// The bits of 2 to the minus `down`, of a type with this bias and so many bits of mantissa.
fn exponent(down: i32, bias: i32, mantissa: u32) -> u16 {
    ((bias - down) as u16) << mantissa
}

/// The bits of 2 to the minus `down`, times 1 and a fraction, in half precision; below 2 to the minus 14 there is no exponent for it.
fn half(down: i32, fraction: u16) -> u16 {
    match u32::try_from(down - 14) {
        Ok(below) => (0x400 | fraction).checked_shr(below).unwrap_or(0),
        Err(_) => exponent(down, 15, 10) | fraction,
    }
}

#[cfg(test)]
mod tests {
    use wharf_kernels::block::dequantize;

    use super::*;

    #[test]
    fn values_of_every_type_are_as_large_as_those_of_models() {
        for (dtype, cols) in
            DType::ALL.iter().flat_map(|dtype| [(*dtype, 256), (*dtype, 768), (*dtype, 4096)])
        {
            let rows = 32;
            let data = noise(dtype, rows, cols, 3);
            let mut values = vec![0.0; rows * cols];
            dequantize(dtype, &data, &mut values).unwrap();
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            let rms = (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt();
            let scaled = rms * (cols as f32).sqrt();
            assert!(
                (0.3..1.7).contains(&scaled),
                "{dtype}, {cols} columns: {scaled} over the root of the columns"
            );
            assert!(mean.abs() < 0.4 * rms, "{dtype}: mean {mean}, deviation {rms}");
        }
    }

    #[test]
    fn equal_seeds_give_equal_bits_and_others_do_not() {
        assert_eq!(noise(DType::Q4_0, 3, 64, 1), noise(DType::Q4_0, 3, 64, 1));
        assert_ne!(noise(DType::Q4_0, 3, 64, 1), noise(DType::Q4_0, 3, 64, 2));
        assert_eq!(noise(DType::BF16, 3, 33, 1).len(), 198);
    }
}
