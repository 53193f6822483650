//! Decides which layers each stage of a pipeline has: the longest stage reads as few bytes as can be.

use std::ops::Range;

use super::ShardError;
use crate::config::ModelConfig;
use crate::role::Role;
use crate::weights::Weights;

/// Bytes that a pass reads of each layer, and of the output projection behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerBytes {
    /// By layer.
    pub layers: Vec<u64>,
    /// Of the last stage. An embedding is not counted: a pass reads a few rows of it.
    pub output: u64,
}

impl LayerBytes {
    /// Those of a model.
    pub fn of(config: &ModelConfig, weights: &Weights) -> LayerBytes {
        let bytes = |layer, role| weights.optional(layer, role).map_or(0, |view| view.data.len() as u64);
        let layers = 0..config.layers.len();
        LayerBytes {
            layers: layers
                .map(|layer| Role::ALL.into_iter().map(|role| bytes(Some(layer), role)).sum())
                .collect(),
            output: bytes(None, Role::Output),
        }
    }

    /// Consecutive layers for each of `stages` stages, none without one.
    ///
    /// # Errors
    /// When there are more stages than layers.
    pub fn stages(&self, stages: usize) -> Result<Vec<Range<usize>>, ShardError> {
        let count = self.layers.len();
        if stages == 0 {
            return Err(ShardError::NoRanks);
        }
        if stages > count {
            return Err(ShardError::TooManyRanks { what: "the layers", ranks: stages, most: count });
        }
        let mut sums = vec![0];
        sums.extend(self.layers.iter().scan(0, |sum, bytes| {
            *sum += bytes;
            Some(*sum)
        }));
        // best[n]: the least that the longest of some stages over the first `n` layers can have; from[s][n]: where the last begins.
        let mut best: Vec<u64> = sums.clone();
        let mut from = vec![vec![0; count + 1]];
        for stage in 1..stages {
            let tail = if stage + 1 == stages { self.output } else { 0 };
            let longest = |first: usize, end: usize| best[first].max(sums[end] - sums[first] + tail);
            let firsts: Vec<usize> = (0..=count)
                .map(|end| (stage..end).min_by_key(|first| longest(*first, end)).unwrap_or(end))
                .collect();
            best = (0..=count)
                .map(|end| if end > stage { longest(firsts[end], end) } else { u64::MAX })
                .collect();
            from.push(firsts);
        }
        let mut ranges = Vec::with_capacity(stages);
        let mut end = count;
        for firsts in from.iter().rev() {
            ranges.push(firsts[end]..end);
            end = firsts[end];
        }
        ranges.reverse();
        Ok(ranges)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_output_projection_counts_for_the_last_stage() {
        let bytes = LayerBytes { layers: vec![10; 6], output: 0 };
        assert_eq!(bytes.stages(1).unwrap()[0], 0..6);
        assert_eq!(bytes.stages(2).unwrap(), [0..3, 3..6]);
        assert_eq!(bytes.stages(6).unwrap().len(), 6);
        let bytes = LayerBytes { layers: vec![10; 6], output: 20 };
        assert_eq!(bytes.stages(2).unwrap(), [0..4, 4..6]);
        assert_eq!(bytes.stages(3).unwrap(), [0..2, 2..5, 5..6]);
        let error = bytes.stages(7).unwrap_err().to_string();
        assert!(error.starts_with("the layers cannot be cut into 7 parts, at most into 6"), "{error}");
    }

    fn longest(bytes: &LayerBytes, ranges: &[Range<usize>]) -> u64 {
        let last = ranges.len() - 1;
        let of = |(index, range): (usize, &Range<usize>)| {
            bytes.layers[range.clone()].iter().sum::<u64>() + if index == last { bytes.output } else { 0 }
        };
        ranges.iter().enumerate().map(of).max().unwrap()
    }

    proptest! {
        #[test]
        fn no_other_cut_in_two_or_three_is_better(
            layers in prop::collection::vec(1u64..50, 3..9),
            output in 0u64..60,
        ) {
            let count = layers.len();
            let bytes = LayerBytes { layers, output };
            for stages in 2..=3 {
                let ranges = bytes.stages(stages).unwrap();
                prop_assert!(ranges.iter().all(|range| !range.is_empty()));
                prop_assert_eq!(ranges.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
                let found = longest(&bytes, &ranges);
                for first in 1..count {
                    let seconds = if stages == 2 { count..count + 1 } else { first + 1..count };
                    for second in seconds {
                        let cuts = [0..first, first..second, second..count];
                        prop_assert!(found <= longest(&bytes, &cuts[..stages]));
                    }
                }
            }
        }
    }
}
