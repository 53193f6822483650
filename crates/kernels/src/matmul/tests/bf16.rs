//! The three orders of products of bf16, read literally, against what instructions of their own do.

use half::bf16;

use super::*;

/// Zero in the place of a number that is subnormal.
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// `a · b + c`, subnormal numbers being zero before and after.
fn fma(a: f32, b: f32, c: f32) -> f32 {
    flushed(flushed(a).mul_add(flushed(b), flushed(c)))
}

/// One output, read literally from [`Bf16Order`].
pub(super) fn dot(order: Bf16Order, x: &[f32], w: &[f32]) -> f32 {
    let rounded: Vec<f32> = x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
    let mut both: Vec<[f32; 2]> = rounded.into_iter().zip(w.iter().copied()).map(|(x, w)| [x, w]).collect();
    both.resize(both.len().next_multiple_of(32), [0.0; 2]);
    match order {
        Bf16Order::Ascending => both.iter().fold(0.0, |y, [x, w]| x.mul_add(*w, y)),
        Bf16Order::OddFirst => {
            let (pairs, []) = both.as_chunks::<2>() else { panic!("whole pairs") };
            pairs.iter().fold(0.0, |y, [[x0, w0], [x1, w1]]| fma(*x0, *w0, fma(*x1, *w1, y)))
        }
        Bf16Order::Blocks => both.chunks_exact(32).fold(0.0, |y, block| {
            let chain = |first| block.iter().skip(first).step_by(2).fold(0.0, |y, [x, w]| fma(*x, *w, y));
            flushed(y + flushed(chain(0) + chain(1)))
        }),
    }
}

/// A bf16 of a magnitude that has products and sums of all kinds: rounded, lost beside others, subnormal, zero.
fn any_size(noise: &mut Noise) -> f32 {
    let bits = noise.bits();
    let exponent = match bits % 8 {
        0 => -130,
        1 => -63 - (bits >> 8 & 3) as i32,
        2 => return 0.0,
        _ => (bits >> 8 & 7) as i32 - 4,
    };
    bf16::from_f32((noise.float() as f64 * 2f64.powi(exponent)) as f32).to_f32()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(64), ..ProptestConfig::default() })]

    #[test]
    fn products_of_bf16_are_those_of_the_sets_order(
        seed: u64,
        n in 1..50usize,
        rows in 1..80usize,
        k in 1..140usize,
        threads in 1..3usize,
        of_any_size: bool,
    ) {
        let mut noise = Noise(seed);
        let mut number = || if of_any_size { any_size(&mut noise) } else { noise.float() };
        let weights: Vec<f32> = (0..n * k).map(|_| bf16::from_f32(number()).to_f32()).collect();
        let x: Vec<f32> = (0..rows * k).map(|_| number()).collect();
        let data: Vec<u8> = weights.iter().flat_map(|w| bf16::from_f32(*w).to_le_bytes()).collect();
        let team = Team::new(threads);
        let w = PackedMatrix::pack(&[Part { dtype: DType::BF16, rows: n, data: &data }], k, &team).unwrap();
        for isa in Isa::available() {
            let y = product(isa, &team, &w, &x, rows, n);
            for (r, y) in y.chunks_exact(n).enumerate() {
                let x = &x[r * k..][..k];
                let want: Vec<f32> = weights.chunks_exact(k).map(|w| dot(isa.bf16(), x, w)).collect();
                prop_assert_eq!(bits(y), bits(&want), "{} {} inputs, row {} of {}", isa, k, r, rows);
            }
        }
    }
}

#[test]
fn every_order_sums_the_same_numbers() {
    let mut noise = Noise(3);
    let (x, w) = (noise.floats(300), noise.floats(300));
    let w: Vec<f32> = w.iter().map(|w| bf16::from_f32(*w).to_f32()).collect();
    let exact: f64 =
        x.iter().zip(&w).map(|(x, w)| f64::from(bf16::from_f32(*x).to_f32()) * f64::from(*w)).sum();
    for order in [Bf16Order::Ascending, Bf16Order::OddFirst, Bf16Order::Blocks] {
        let y = f64::from(dot(order, &x, &w));
        assert!((y - exact).abs() < 1e-4, "{order:?}: {y}, not {exact}");
    }
}
