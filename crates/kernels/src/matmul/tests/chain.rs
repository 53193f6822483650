//! A product that is continued over further inputs is the product over all of them.

use super::*;
use crate::{Made, Rounding};

/// Columns `cut` of a matrix of whole rows.
fn columns(part: Part<'_>, k: usize, cut: &Range<usize>) -> Vec<u8> {
    let bytes = |len| part.dtype.bytes_for(len).unwrap();
    let rows = part.data.chunks_exact(bytes(k));
    rows.flat_map(|row| &row[bytes(cut.start)..bytes(cut.end)]).copied().collect()
}

/// What is multiplied as a whole.
struct Whole<'a> {
    parts: &'a [Part<'a>],
    k: usize,
    x: &'a [f32],
    rounding: Rounding,
}

/// The product over `cuts` of the inputs, one after the other, each over pieces of `piece` outputs.
fn continued(isa: Isa, team: &Team, whole: &Whole<'_>, cuts: &[Range<usize>], piece: usize) -> Vec<f32> {
    let &Whole { parts, k, x, rounding } = whole;
    let (rows, n) = (x.len() / k, parts.iter().map(|part| part.rows).sum());
    let makers: Vec<_> = cuts
        .iter()
        .map(|cut| move |row: usize, to: &mut [f32]| to.copy_from_slice(&x[row * k..][cut.clone()]))
        .collect();
    let made: Vec<Made<'_>> =
        cuts.iter().zip(&makers).map(|(cut, make)| Made { rows, k: cut.len(), make, largest: &[] }).collect();
    let mut largest = vec![0.0f32; rows];
    if rounding == Rounding::Rows {
        for made in &made {
            largest.iter_mut().zip(made.largest(isa, team)).for_each(|(most, own)| *most = most.max(own));
        }
    }
    let mut y = vec![0.0; rows * n];
    for (cut, made) in cuts.iter().zip(made) {
        let data: Vec<Vec<u8>> = parts.iter().map(|part| columns(*part, k, cut)).collect();
        let parts: Vec<Part<'_>> =
            parts.iter().zip(&data).map(|(part, data)| Part { data, ..*part }).collect();
        let w = PackedMatrix::pack(&parts, cut.len(), team).unwrap().with_rounding(rounding);
        let mut input = Input::new();
        let largest = if w.input().whole_rows() { &largest[..] } else { &[] };
        input.fill_made(isa, team, w.input(), Made { largest, ..made });
        for first in (0..n).step_by(piece) {
            let outputs = first..n.min(first + piece);
            let results = Results { y: &mut y[first..], stride: n, store: Store::Continue };
            matmul_outputs(isa, team, &input, &w, outputs, results);
        }
    }
    y
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(96), ..ProptestConfig::default() })]

    #[test]
    fn a_sum_that_is_passed_on_is_the_sum_of_one_hand(
        seed: u64,
        dtype in 0..13usize,
        n in 1..70usize,
        rows in 1..40usize,
        steps in 2..9usize,
        [first, second] in [1..8usize, 1..8],
        tail in 0..40usize,
        threads in 1..3usize,
        piece in 1..4usize,
        per_row: bool,
    ) {
        let mut noise = Noise(seed);
        let dtype = DType::ALL[dtype];
        // What is behind the last cut need not be a whole step where a type has no blocks.
        let step = if dtype.chain_step() == 1 { 13 } else { dtype.chain_step() };
        let k = steps * step + if dtype.block_len() == 1 { tail } else { 0 };
        let mut ends = [first, second, steps].map(|at| at.min(steps) * step);
        ends.sort_unstable();
        ends[2] = k;
        let cuts: Vec<Range<usize>> =
            [0..ends[0], ends[0]..ends[1], ends[1]..ends[2]].into_iter().filter(|cut| !cut.is_empty()).collect();
        let data = weights(dtype, n, k, &mut noise);
        let parts = [Part { dtype, rows: n, data: &data }];
        let x = noise.floats(rows * k);
        let team = Team::new(threads);
        let rounding = if per_row && dtype.block_len() > 1 { Rounding::Rows } else { Rounding::Blocks };
        let w = PackedMatrix::pack(&parts, k, &team).unwrap().with_rounding(rounding);
        for isa in Isa::available() {
            let whole = product(isa, &team, &w, &x, rows, n);
            let found = continued(isa, &team, &Whole { parts: &parts, k, x: &x, rounding }, &cuts, piece * crate::PANEL);
            prop_assert_eq!(bits(&found), bits(&whole), "{} {:?} {} rows, cut at {:?}", isa, w, rows, ends);
        }
    }
}

#[test]
fn a_sum_of_many_segments_and_claims_is_passed_on_too() {
    let mut noise = Noise(11);
    // More blocks than are unpacked at once on either side of the cut, more rows than one claim covers.
    let (k, n, rows) = (256 * 14, 40, 150);
    let (x, team) = (noise.floats(rows * k), Team::new(2));
    for dtype in [DType::F16, DType::BF16, DType::Q4_0, DType::Q4_1, DType::Q4K, DType::Q6K, DType::Q8_0] {
        let data = weights(dtype, n, k, &mut noise);
        let parts = [Part { dtype, rows: n, data: &data }];
        let w = PackedMatrix::pack(&parts, k, &team).unwrap();
        for isa in Isa::available() {
            let whole = product(isa, &team, &w, &x, rows, n);
            let cuts = [0..256 * 8, 256 * 8..k];
            let found = continued(
                isa,
                &team,
                &Whole { parts: &parts, k, x: &x, rounding: Rounding::Blocks },
                &cuts,
                32,
            );
            assert!(bits(&found) == bits(&whole), "{isa} {w:?}");
        }
    }
}

#[test]
fn outputs_of_several_types_are_passed_on_in_pieces() {
    let (mut noise, team) = (Noise(12), Team::new(2));
    let (k, rows) = (768, 20);
    let types = [(DType::Q4K, 32), (DType::Q6K, 48), (DType::F32, 20)];
    let data = types.map(|(dtype, n)| weights(dtype, n, k, &mut noise));
    let parts: Vec<Part<'_>> = types
        .iter()
        .zip(&data)
        .map(|((dtype, rows), data)| Part { dtype: *dtype, rows: *rows, data })
        .collect();
    let x = noise.floats(rows * k);
    let w = PackedMatrix::pack(&parts, k, &team).unwrap();
    for isa in Isa::available() {
        let whole = product(isa, &team, &w, &x, rows, 100);
        for piece in [16, 48, 112] {
            let found = continued(
                isa,
                &team,
                &Whole { parts: &parts, k, x: &x, rounding: Rounding::Blocks },
                &[0..256, 256..k],
                piece,
            );
            assert!(bits(&found) == bits(&whole), "{isa} pieces of {piece}");
        }
    }
}

#[test]
#[should_panic(expected = "outputs are whole panels")]
fn a_piece_that_cuts_a_panel_is_refused() {
    let team = Team::new(1);
    let data = weights(DType::F32, 40, 32, &mut Noise(1));
    let w = PackedMatrix::pack(&[Part { dtype: DType::F32, rows: 40, data: &data }], 32, &team).unwrap();
    let mut input = Input::new();
    input.fill(Isa::SCALAR, &team, &[0.0; 32], 1, 32, w.input());
    let results = Results { y: &mut [0.0; 32], stride: 32, store: Store::Set };
    matmul_outputs(Isa::SCALAR, &team, &input, &w, 8..40, results);
}
