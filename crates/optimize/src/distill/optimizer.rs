//! AdamW with decoupled decay, and how fast it goes.
//!
//! Weights and moments live on the host in F32, whatever the device computes in: a checkpoint is these numbers, and a mixed
//! precision run loses no small update. Each element is computed alone and in one way, so threads do not change a bit.

use serde::{Deserialize, Serialize};

use super::parameters::{Parameter, Parameters};

/// Gradients in the order of [`Parameters::list`]; what is empty has none yet.
pub(super) type Gradients = Vec<Vec<f32>>;

/// How weights follow their gradients.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    /// Learning rate after warm-up.
    pub lr: f64,
    /// Steps over which the rate rises from 0.
    pub warmup: usize,
    /// Decay of matrices per step, times the rate; norms and biases do not decay.
    pub weight_decay: f64,
    /// Longest gradient; longer ones are shortened to it.
    pub clip: f64,
}

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.95;
const EPSILON: f32 = 1e-8;
/// The rate at the last step, relative to the highest.
const FLOOR: f64 = 0.1;

impl Optimizer {
    /// The rate of step `step` (from 0) of `steps`: up in a line, then down along half a cosine to a tenth.
    pub(super) fn rate(&self, step: usize, steps: usize) -> f64 {
        if step < self.warmup {
            return self.lr * (step + 1) as f64 / self.warmup as f64;
        }
        let rest = steps.saturating_sub(self.warmup).max(1) as f64;
        let done = (step - self.warmup) as f64 / rest;
        self.lr * (FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos()))
    }
}

/// How one step moves weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    /// From 0.
    pub(super) step: usize,
    pub(super) rate: f64,
    pub(super) weight_decay: f64,
    /// Gradients are multiplied by it.
    pub(super) shorten: f32,
}

/// First and second moments of every element.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Moments {
    pub(super) first: Vec<Vec<f32>>,
    pub(super) second: Vec<Vec<f32>>,
}

impl Moments {
    pub(super) fn zero(parameters: &Parameters) -> Moments {
        let zeros = zeros(parameters);
        Moments { first: zeros.clone(), second: zeros }
    }

    /// One step of AdamW.
    pub(super) fn update(
        &mut self,
        parameters: &mut Parameters,
        gradients: &Gradients,
        to: Move,
        threads: usize,
    ) {
        let Move { step, rate, weight_decay, shorten } = to;
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(step as i32 + 1);
        let (first_bias, second_bias) = (correction(BETA1), correction(BETA2));
        let size = (rate / first_bias) as f32;
        let unbias = (1.0 / second_bias) as f32;
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((parameter, gradient), (first, second)) in parameters.list.iter_mut().zip(gradients).zip(moments)
        {
            let shrink = 1.0 - if decays(parameter) { (rate * weight_decay) as f32 } else { 0.0 };
            let part = parameter.data.len().div_ceil(threads.max(1)).max(1 << 16);
            std::thread::scope(|scope| {
                let parts = parameter.data.chunks_mut(part).zip(gradient.chunks(part));
                for ((w, g), (m, v)) in parts.zip(first.chunks_mut(part).zip(second.chunks_mut(part))) {
                    let work = move || {
                        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                            let g = g * shorten;
                            *m = BETA1 * *m + (1.0 - BETA1) * g;
                            *v = BETA2 * *v + (1.0 - BETA2) * g * g;
                            *w = *w * shrink - size * *m / ((*v * unbias).sqrt() + EPSILON);
                        }
                    };
                    if gradient.len() > part { drop(scope.spawn(work)) } else { work() }
                }
            });
        }
    }
}

fn decays(parameter: &Parameter) -> bool {
    parameter.rows > 1
}

/// Zeros in the shapes of all weights.
fn zeros(parameters: &Parameters) -> Gradients {
    parameters.list.iter().map(|parameter| vec![0.0; parameter.data.len()]).collect()
}

/// No gradient of any weight yet.
pub(super) fn none(parameters: &Parameters) -> Gradients {
    vec![Vec::new(); parameters.list.len()]
}

/// Zeros where nothing depends on a weight.
pub(super) fn complete(gradients: &mut Gradients, parameters: &Parameters) {
    for (gradient, parameter) in gradients.iter_mut().zip(&parameters.list) {
        if gradient.is_empty() {
            gradient.resize(parameter.data.len(), 0.0);
        }
    }
}

/// The length of a gradient, and what it is to be multiplied by so that it has at most `most`.
pub(super) fn clip(gradients: &Gradients, most: f64) -> (f64, f32) {
    // Lanes of single precision within short blocks, blocks in double: exact enough, and one fixed order.
    let square = |part: &[f32]| f64::from(part.iter().map(|x| x * x).sum::<f32>());
    let norm = gradients.iter().flat_map(|g| g.chunks(64)).map(square).sum::<f64>().sqrt();
    (norm, if norm > most { (most / norm) as f32 } else { 1.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distill::tests::tiny;

    const OPTIMIZER: Optimizer = Optimizer { lr: 1.0, warmup: 4, weight_decay: 0.1, clip: 1.0 };

    #[test]
    fn the_rate_rises_then_falls_to_a_tenth() {
        let rates: Vec<f64> = (0..=20).map(|step| OPTIMIZER.rate(step, 20)).collect();
        assert_eq!(rates[..5], [0.25, 0.5, 0.75, 1.0, 1.0]);
        assert!(rates[4..].windows(2).all(|pair| pair[0] >= pair[1]));
        assert!((rates[12] - 0.55).abs() < 1e-12 && (rates[20] - 0.1).abs() < 1e-12);
    }

    #[test]
    fn the_first_step_moves_every_weight_by_the_rate_and_only_matrices_decay() {
        let before = tiny();
        let mut after = before.clone();
        let gradients: Gradients = zeros(&before).iter().map(|g| vec![-6.0; g.len()]).collect();
        let to = Move { step: 0, rate: 0.01, weight_decay: 0.5, shorten: 0.5 };
        let mut moments = Moments::zero(&before);
        moments.update(&mut after, &gradients, to, 2);
        assert!(
            moments.first.iter().flatten().all(|m| (m + 0.3).abs() < 1e-6),
            "a tenth of what is left of -6"
        );
        for (before, after) in before.list.iter().zip(&after.list) {
            let shrink = if before.rows > 1 { 1.0 - 0.005 } else { 1.0 };
            for (before, after) in before.data.iter().zip(&after.data) {
                assert!((after - (before * shrink + 0.01)).abs() < 1e-6, "{before} {after}");
            }
        }
    }

    #[test]
    fn long_gradients_are_shortened_and_short_ones_left() {
        let gradients = vec![vec![3.0], vec![4.0]];
        assert_eq!(clip(&gradients, 10.0), (5.0, 1.0));
        assert_eq!(clip(&gradients, 1.0), (5.0, 0.2));
    }

    #[test]
    fn a_weight_on_which_nothing_depends_gets_zeros() {
        let parameters = tiny();
        let mut gradients = none(&parameters);
        gradients[0] = vec![1.0; parameters.list[0].data.len()];
        complete(&mut gradients, &parameters);
        assert!(gradients[0].iter().all(|x| *x == 1.0));
        assert_eq!(gradients[1..], zeros(&parameters)[1..]);
    }
}
