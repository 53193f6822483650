//! The largest number of a sliding window.

use std::collections::VecDeque;
use std::time::Duration;

/// Remembers what may still become the largest: each entry is smaller and younger than the one before, so there are never more
/// entries than different numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Largest {
    entries: VecDeque<(Duration, i64)>,
}

impl Largest {
    /// Adds a number at a time that is not before any earlier one, and forgets what is older than `window`.
    pub(crate) fn push(&mut self, at: Duration, value: i64, window: Duration) {
        while self.entries.back().is_some_and(|(_, v)| *v <= value) {
            self.entries.pop_back();
        }
        self.entries.push_back((at, value));
        while self.entries.len() > 1 && self.entries.front().is_some_and(|(t, _)| *t + window <= at) {
            self.entries.pop_front();
        }
    }

    /// The largest number of the window that ended with the last push.
    pub(crate) fn get(&self) -> Option<i64> {
        self.entries.front().map(|(_, v)| *v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_looking_at_every_number() {
        let mut rng = fastrand::Rng::with_seed(1);
        let window = Duration::from_secs(10);
        let (mut largest, mut all) = (Largest::default(), Vec::new());
        let mut at = Duration::ZERO;
        for _ in 0..2000 {
            at += Duration::from_millis(rng.u64(0..3000));
            let value = rng.i64(0..20);
            all.push((at, value));
            largest.push(at, value, window);
            let expected = all.iter().filter(|(t, _)| *t + window > at).map(|(_, v)| *v).max();
            assert_eq!(largest.get(), expected);
            assert!(largest.entries.len() <= 20);
        }
    }
}
