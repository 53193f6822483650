//! How activations are rounded.

use super::*;

fn quantized(isa: Isa, x: &[f32; 32]) -> XBlock<1> {
    let mut input = Input::new();
    let kind = InputKind { quantized: true, ..InputKind::NONE };
    input.fill(isa, &Team::new(1), x, 1, 32, kind);
    input.tile::<1>(0)[0]
}

#[test]
fn extremes_become_127_and_ties_round_to_even() {
    for isa in Isa::available() {
        let mut x = [0.0; 32];
        (x[0], x[1], x[2], x[17]) = (127.0, 0.5, 1.5, -127.0);
        let block = quantized(isa, &x);
        assert_eq!(
            (block.scale[0], block.q[0][0], block.q[0][1], block.q[0][2], block.q[0][17]),
            (1.0, 127, 0, 2, -127)
        );
        assert_eq!(block.sums[0], [129, -127]);
    }
}

#[test]
fn a_rule_of_rows_or_of_all_decides_for_every_block() {
    let mut x = [[1.0; 32], [0.25; 32]];
    x[0][3] = -2.0;
    for isa in Isa::available() {
        let blocks = |rounding| {
            let mut input = Input::new();
            let kind = InputKind { quantized: true, rounding, ..InputKind::NONE };
            input.fill(isa, &Team::new(1), x.as_flattened(), 1, 64, kind);
            [0, 1].map(|i| input.tile::<1>(0)[i])
        };
        let [first, second] = blocks(Rounding::Rows);
        assert_eq!((first.scale, second.scale), ([2.0 / 127.0], [2.0 / 127.0]), "{isa}");
        assert_eq!((first.q[0][3], first.q[0][4], second.q[0][0]), (-127, 64, 16), "{isa}");
        let [first, second] = blocks(Rounding::Fixed(0.01));
        assert_eq!((first.scale, second.scale), ([0.01], [0.01]), "{isa}");
        assert_eq!((first.q[0][3], first.q[0][4], second.q[0][0]), (-127, 100, 25), "{isa}");
        assert_eq!(second.sums[0], [400; 2], "{isa}");
        for zero in [8, 128] {
            let bias = second.kept_bias(zero).expect("formats have this zero point");
            assert_eq!(*bias, [-800 * i32::from(zero)], "{isa}: what a zero point of {zero} takes off");
        }
    }
}

#[test]
fn what_is_no_number_poisons_its_block_by_any_rule() {
    for isa in Isa::available() {
        for rounding in [Rounding::Rows, Rounding::Fixed(0.1)] {
            let mut x = [1.0; 64];
            x[40] = f32::NAN;
            let mut input = Input::new();
            let kind = InputKind { quantized: true, rounding, ..InputKind::NONE };
            input.fill(isa, &Team::new(1), &x, 1, 64, kind);
            assert!(input.tile::<1>(0)[1].scale[0].is_nan(), "{isa} {rounding:?}");
        }
    }
}

#[test]
fn what_is_no_number_poisons_its_block() {
    for isa in Isa::available() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..32 {
                let mut x = [1.0; 32];
                x[at] = bad;
                assert!(quantized(isa, &x).scale[0].is_nan(), "{isa} {bad} at {at}");
            }
        }
    }
}

#[test]
fn tiny_and_zero_blocks_are_zero() {
    for isa in Isa::available() {
        for x in [0.0, -0.0, 1e-40, 9e-31] {
            let block = quantized(isa, &[x; 32]);
            assert_eq!((block.scale[0], block.q[0], block.sums[0]), (0.0, [0; 32], [0; 2]));
        }
    }
}
