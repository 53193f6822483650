//! Decides which steps of a pass are told apart when somebody asks where the time goes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A step of a pass, over all layers and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Rows of the embedding.
    Embed,
    /// Norm, and the product that makes queries, keys and values.
    Qkv,
    /// Norms and rotations of queries and keys.
    Rotate,
    /// Keys and values into their blocks.
    Store,
    /// Scores, weights and weighted values.
    Attend,
    /// The product of what attention found, added to the stream.
    Project,
    /// Norm, and the gated product.
    GateUp,
    /// The product back to the stream's width, added to it.
    Down,
    /// Norm, and the product that makes logits.
    Logits,
}

impl Step {
    /// Every step, in the order of a pass.
    pub const ALL: [Step; 9] = [
        Step::Embed,
        Step::Qkv,
        Step::Rotate,
        Step::Store,
        Step::Attend,
        Step::Project,
        Step::GateUp,
        Step::Down,
        Step::Logits,
    ];
}

/// Time spent in each step since it was last taken. Reading the clock is skipped unless somebody asked for it.
#[derive(Debug, Default)]
pub(super) struct Profile {
    pub(super) on: bool,
    nanoseconds: [AtomicU64; Step::ALL.len()],
}

impl Profile {
    /// Runs a step.
    pub(super) fn time<T>(&self, step: Step, run: impl FnOnce() -> T) -> T {
        if !self.on {
            return run();
        }
        let began = Instant::now();
        let result = run();
        self.nanoseconds[step as usize].fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result
    }

    /// What was spent, from now on counted anew.
    pub(super) fn take(&mut self) -> Vec<(Step, Duration)> {
        let spent = Step::ALL.into_iter().zip(&mut self.nanoseconds);
        spent.map(|(step, spent)| (step, Duration::from_nanos(std::mem::take(spent.get_mut())))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_apart_and_only_when_asked_for() {
        let mut profile = Profile::default();
        assert_eq!(profile.time(Step::Qkv, || 7), 7);
        assert!(profile.take().iter().all(|(_, spent)| spent.is_zero()));
        profile.on = true;
        let until = Instant::now() + Duration::from_micros(50);
        profile.time(Step::Down, || while Instant::now() < until {});
        let spent = profile.take();
        assert_eq!(spent.iter().map(|(step, _)| *step).collect::<Vec<_>>(), Step::ALL);
        for (step, spent) in spent {
            assert_eq!(!spent.is_zero(), step == Step::Down, "{step:?}");
        }
        assert!(profile.take().iter().all(|(_, spent)| spent.is_zero()), "counted anew");
    }
}
