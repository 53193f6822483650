//! Counter-based random numbers: the draw for a position depends on the request's seed and the position alone.
//!
//! So a request samples the same tokens whatever else runs, after preemption, and with or without speculation. The mixing
//! function is SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014), applied to seed and position in turn.

/// A uniform number in `[0, 1)` with 53 random bits for position `position` of the stream `seed`.
pub fn uniform(seed: u64, position: u64) -> f64 {
    let bits = mix(mix(seed.wrapping_add(GOLDEN)) ^ position.wrapping_mul(GOLDEN));
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(GOLDEN);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_uniform_and_independent_of_neighbouring_seeds() {
        let mut buckets = [0usize; 10];
        let mut product = 0.0;
        for position in 0..10_000 {
            let x = uniform(42, position);
            assert!((0.0..1.0).contains(&x));
            buckets[(x * 10.0) as usize] += 1;
            product += (x - 0.5) * (uniform(43, position) - 0.5);
        }
        // Binomial(10000, 0.1) has a standard deviation of 30; the mean product of independent draws one of 8.3e-4.
        assert!(buckets.iter().all(|n| (850..1150).contains(n)), "{buckets:?}");
        assert!((product / 10_000.0).abs() < 0.004, "correlation {product}");
    }
}
