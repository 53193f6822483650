//! Decides sine and cosine of a rotation: angles in double precision, so that they are exact at any position.

use wharf_model::config::RopeConfig;

/// Rotations of some positions for one rotary embedding.
#[derive(Default)]
pub struct Rotations {
    pairs: usize,
    /// `(positions, pairs)`.
    cos: Vec<f32>,
    /// As `cos`.
    sin: Vec<f32>,
}

impl Rotations {
    /// Prepares the rotations of `positions`.
    pub fn fill(&mut self, rope: &RopeConfig, positions: impl Iterator<Item = usize>) {
        self.pairs = rope.inv_freq.len();
        self.cos.clear();
        self.sin.clear();
        let amplitude = f64::from(rope.amplitude);
        for position in positions {
            for frequency in &rope.inv_freq {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                self.cos.push((cos * amplitude) as f32);
                self.sin.push((sin * amplitude) as f32);
            }
        }
    }

    /// `(cos, sin)` of all positions, each `(positions, pairs)`.
    pub fn all(&self) -> (&[f32], &[f32]) {
        (&self.cos, &self.sin)
    }

    /// `(cos, sin)` of the `index`-th position, each `(pairs)`.
    pub fn at(&self, index: usize) -> (&[f32], &[f32]) {
        let range = index * self.pairs..(index + 1) * self.pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }
}
