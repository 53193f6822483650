//! `out = x W^T` for every format, few tokens and many, and whatever becomes of it.

use half::f16;
use wharf_kernels::block::{dequantize, quantize};
use wharf_kernels::{DType, Part};
use wharf_model::config::Activation;

use super::support::{
    Random, SCHEDULES, close, floats, floats_on_gpu, gpu, halves, launch, narrow, on_gpu, widen,
};
use crate::driver::{Address, Arg};
use crate::format::{CHUNK, Format, Kind, TILE, place};
use crate::pack::{Order, common_format, pack};

/// Rows of random weights, about as large as those of models.
fn weights(dtype: DType, len: usize, random: &mut Random) -> Vec<u8> {
    if let Ok(data) = quantize(dtype, &random.floats(len)) {
        return data;
    }
    let mut data: Vec<u8> = (0..dtype.bytes_for(len).unwrap()).map(|_| random.next() as u8).collect();
    // Where blocks have their half-precision scales and minima.
    let halves: &[usize] = match dtype {
        DType::Q5_0 => &[0],
        DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q2K => &[80, 82],
        DType::Q3K => &[108],
        DType::Q6K => &[208],
        _ => unreachable!("{dtype} can be quantised"),
    };
    for block in data.chunks_exact_mut(dtype.block_bytes()) {
        for at in halves {
            let value = f16::from_f32(0.01 + 0.005 * random.float());
            block[*at..at + 2].copy_from_slice(&value.to_bits().to_le_bytes());
        }
    }
    data
}

struct Case {
    dtype: DType,
    rows: usize,
    cols: usize,
    tokens: usize,
}

/// What becomes of the product, its rows, and the kind of what leaves where it is gated.
enum Then {
    Set,
    AddWithBias,
    Gated(Activation, Kind),
}

impl Case {
    fn name(&self) -> String {
        format!("{} {}x{} on {} tokens", self.dtype, self.rows, self.cols, self.tokens)
    }

    fn kernel(&self, format: Format) -> (String, [u32; 3]) {
        let tiles = |rows: usize| rows.div_ceil(TILE) as u32;
        let few = self.tokens.next_power_of_two().max(8);
        match self.tokens {
            ..=64 => (format!("wharf_matmul_{}_{few}", format.name()), [tiles(self.rows), 1, 1]),
            _ => {
                let blocks = [tiles(self.rows).div_ceil(8), self.tokens.div_ceil(128) as u32, 1];
                (format!("wharf_matmul_{}_many", format.name()), blocks)
            }
        }
    }

    /// Runs the kernel on a GPU and compares; gives the bits that left.
    fn check(&self, then: &Then, schedule: u64) -> Vec<u32> {
        let Case { dtype, rows, cols, tokens } = *self;
        let mut random = Random(rows as u64 * 7 + tokens as u64);
        let data = weights(dtype, rows * cols, &mut random);
        let mut w = vec![0.0; rows * cols];
        dequantize(dtype, &data, &mut w).unwrap();
        let gated = matches!(then, Then::Gated(..));
        let half = data.len() / 2;
        let parts = match gated {
            true => vec![
                Part { dtype, rows: rows / 2, data: &data[..half] },
                Part { dtype, rows: rows / 2, data: &data[half..] },
            ],
            false => vec![Part { dtype, rows, data: &data }],
        };
        let format = common_format(&parts).unwrap();
        let order = if gated { Order::Paired } else { Order::Stacked };
        let packed = pack(&parts, cols, order, format, 2).unwrap();
        let padded = cols.next_multiple_of(CHUNK);
        let (mut x, mut bits) = (vec![0.0; tokens * cols], vec![0_u16; tokens * padded]);
        for token in 0..tokens {
            for k in 0..cols {
                let value = narrow(format.kind(), random.float());
                bits[token * padded + place(k)] = value;
                x[token * cols + k] = widen(format.kind(), value);
            }
        }
        let product = |token: usize, row: usize| -> f64 {
            let (x, w) = (&x[token * cols..][..cols], &w[row * cols..][..cols]);
            x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
        };
        let gpu = gpu(schedule, 4);
        let (codes, scales) =
            (on_gpu(&gpu, &packed.codes), on_gpu(&gpu, bytemuck::cast_slice(&packed.scales)));
        let x_there = on_gpu(&gpu, bytemuck::cast_slice(&bits));
        let bias = random.floats(rows);
        let bias_there = floats_on_gpu(&gpu, &bias);
        let before = random.floats(tokens * rows);
        let out = match then {
            Then::Gated(..) => gpu.alloc(tokens * (rows / 2).next_multiple_of(CHUNK) * 2).unwrap(),
            Then::Set | Then::AddWithBias => floats_on_gpu(&gpu, &before),
        };
        let (outputs, width, epilogue, kind, bias_at) = match then {
            Then::Set => (rows, rows, 0, Kind::Half, Address::NULL),
            Then::AddWithBias => (rows, rows, 1, Kind::Half, bias_there.at(0)),
            Then::Gated(activation, kind) => {
                (rows / 2, (rows / 2).next_multiple_of(CHUNK), 2 + *activation as i32, *kind, Address::NULL)
            }
        };
        let (name, blocks) = self.kernel(format);
        let arguments = [
            Arg::Address(codes.at(0)),
            Arg::Address(scales.at(0)),
            Arg::I32(packed.chunks as i32),
            Arg::Address(x_there.at(0)),
            Arg::I32(tokens as i32),
            Arg::Address(out.at(0)),
            Arg::Address(bias_at),
            Arg::I32(outputs as i32),
            Arg::I32(width as i32),
            Arg::I32(epilogue),
            Arg::I32(kind.number()),
        ];
        launch(&gpu, &name, blocks, 256, &arguments);
        let what = format!("{} by {name}", self.name());
        if let Then::Gated(activation, kind) = then {
            let found = halves(&gpu, &out);
            let act = |x: f64| match activation {
                Activation::Silu => x / (1.0 + (-x).exp()),
                Activation::GeluTanh => {
                    0.5 * x
                        * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
                }
                Activation::GeluErf => 0.5 * x * (1.0 + erf(x / 2.0_f64.sqrt())),
            };
            let (mut values, mut expected) = (Vec::new(), Vec::new());
            for token in 0..tokens {
                for row in 0..rows / 2 {
                    values.push(widen(*kind, found[token * width + place(row)]));
                    expected.push(act(product(token, row)) * product(token, rows / 2 + row));
                }
            }
            close(&values, &expected, 6e-3, &what);
            let padding = (rows / 2..width).map(place);
            assert!(padding.into_iter().all(|at| found[at] == 0), "{what}: padding is written to");
            return found.into_iter().map(u32::from).collect();
        }
        let found = floats(&gpu, &out);
        let expected: Vec<f64> = (0..tokens * rows)
            .map(|at| {
                let value = product(at / rows, at % rows);
                match then {
                    Then::AddWithBias => value + f64::from(bias[at % rows]) + f64::from(before[at]),
                    Then::Set | Then::Gated(..) => value,
                }
            })
            .collect();
        close(&found, &expected, 2e-3, &what);
        found.into_iter().map(f32::to_bits).collect()
    }
}

/// Abramowitz and Stegun 7.1.26: to 1.5e-7.
fn erf(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let poly = [0.254_829_592, -0.284_496_736, 1.421_413_741, -1.453_152_027, 1.061_405_429];
    let sum = poly.iter().rev().fold(0.0, |sum, c| (sum + c) * t);
    (1.0 - sum * (-x * x).exp()).copysign(x)
}

#[test]
fn every_type_is_multiplied_for_few_tokens_and_for_many() {
    for dtype in DType::ALL {
        for tokens in [1, 9, 20, 50, 70] {
            Case { dtype, rows: 40, cols: 512, tokens }.check(&Then::Set, 0);
        }
    }
}

#[test]
fn whatever_the_sizes_nothing_is_missed_and_nothing_is_written_beside() {
    for (rows, cols, tokens) in
        [(16, 32, 8), (7, 40, 3), (300, 64, 1), (130, 96, 129), (20, 1056, 64), (260, 33, 200)]
    {
        for dtype in [DType::F16, DType::BF16] {
            Case { dtype, rows, cols, tokens }.check(&Then::AddWithBias, 0);
        }
    }
}

#[test]
fn gates_are_activated_and_multiplied() {
    for activation in [Activation::Silu, Activation::GeluTanh, Activation::GeluErf] {
        for (kind, tokens) in [(Kind::Half, 4), (Kind::Brain, 4), (Kind::Half, 100)] {
            for dtype in [DType::BF16, DType::Q8_0, DType::Q4_0] {
                Case { dtype, rows: 2 * 44, cols: 96, tokens }.check(&Then::Gated(activation, kind), 0);
            }
        }
    }
}

#[test]
fn no_order_of_threads_changes_a_bit() {
    for tokens in [5, 60, 140] {
        for dtype in [DType::F16, DType::Q4_1] {
            let case = Case { dtype, rows: 50, cols: 480, tokens };
            let [first, rest @ ..] = SCHEDULES.map(|schedule| case.check(&Then::AddWithBias, schedule));
            assert!(rest.iter().all(|bits| *bits == first), "{}", case.name());
        }
    }
}
