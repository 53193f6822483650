//! What the ranks of a tensor-parallel group do together, whatever carries it from one to the other.
//!
//! A product of which each rank has some inputs is one chain of additions over all inputs, in the order of ranks. So the chain is
//! passed on: a rank goes on from what the one before it has reached, and what the last one reaches is what one process computes,
//! to the bit. Outputs travel in pieces, so that ranks work on different ones at the same time.

use std::ops::Range;

use crate::backend::BackendError;

/// A rank's ties to the others. All ranks make the same calls in the same order with as many values.
///
/// A chain is [`before`](Ranks::before) and [`after`](Ranks::after) for one piece after the other, and then
/// [`result`](Ranks::result) for each of them, at most [`Grain::pieces`] with no more than [`Grain::room`] values together.
pub trait Ranks: Send {
    /// How chains are cut.
    fn grain(&self) -> Grain;

    /// Replaces `piece` by what the rank before has reached, by zeros where there is none.
    ///
    /// # Errors
    /// [`BackendError::Lost`] when a rank is gone.
    fn before(&mut self, piece: &mut [f32]) -> Result<(), BackendError>;

    /// Shows the rank behind what this one has reached, and everybody if there is none.
    ///
    /// # Errors
    /// [`BackendError::Lost`] when a rank is gone.
    fn after(&mut self, piece: &[f32]) -> Result<(), BackendError>;

    /// Replaces what this rank has reached by what the last one has.
    ///
    /// # Errors
    /// [`BackendError::Lost`] when a rank is gone.
    fn result(&mut self, piece: &mut [f32]) -> Result<(), BackendError>;

    /// Replaces each of `values`, which are numbers, by the largest that a rank has in its place.
    ///
    /// # Errors
    /// [`BackendError::Lost`] when a rank is gone.
    fn largest(&mut self, values: &mut [f32]) -> Result<(), BackendError>;

    /// Leaves every rank's values in `all` of rank 0, in the order of ranks. `lens` says how many each has; `mine` has those of
    /// this one. Other ranks leave `all` as it was.
    ///
    /// # Errors
    /// [`BackendError::Lost`] when a rank is gone.
    fn gather(&mut self, mine: &[f32], lens: &[usize], all: &mut Vec<f32>) -> Result<(), BackendError>;
}

/// What decides how a chain is cut into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grain {
    /// Values for which passing them on takes no longer than computing them: a piece has no fewer.
    pub least: usize,
    /// Pieces that are under way together, at most.
    pub pieces: usize,
    /// Values that they have together, at most.
    pub room: usize,
}

/// How a chain is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// Outputs of a piece; the last has what is left.
    outputs: usize,
    /// Pieces that are under way together.
    together: usize,
}

impl Cut {
    /// Pieces of `rows` by a multiple of `step` outputs.
    fn new(rows: usize, outputs: usize, step: usize, grain: Grain) -> Cut {
        let Grain { least, pieces, room } = grain;
        let wanted = (rows * outputs / least).clamp(1, pieces);
        // Where there is not room for that many pieces there are more rounds, not fewer pieces.
        let most = (room / (pieces * rows) / step * step).max(step);
        let outputs = outputs.div_ceil(wanted).next_multiple_of(step).min(most);
        Cut { outputs, together: (room / (rows * outputs)).clamp(1, pieces) }
    }
}

/// A rank's ties, and what it has reached of the pieces that are under way.
pub(crate) struct Chains {
    pub(crate) ranks: Box<dyn Ranks>,
    reached: Vec<f32>,
}

impl Chains {
    pub(crate) fn new(ranks: Box<dyn Ranks>) -> Chains {
        Chains { ranks, reached: Vec::new() }
    }

    /// Computes `y: (rows, width)` with the other ranks: `go_on(outputs, piece)` adds what this one has to `piece`, which is
    /// `(rows, outputs)`. Pieces begin at multiples of `step` outputs.
    pub(crate) fn run(
        &mut self,
        y: &mut [f32],
        width: usize,
        step: usize,
        go_on: &mut dyn FnMut(Range<usize>, &mut [f32]),
    ) -> Result<(), BackendError> {
        let Chains { ranks, reached } = self;
        let rows = y.len() / width;
        let cut = Cut::new(rows, width, step, ranks.grain());
        let round = cut.outputs * cut.together;
        for first in (0..width).step_by(round) {
            let end = width.min(first + round);
            reached.resize(rows * (end - first), 0.0);
            let pieces = || (first..end).step_by(cut.outputs).map(|at| at..end.min(at + cut.outputs));
            let place = |piece: &Range<usize>| rows * (piece.start - first)..rows * (piece.end - first);
            for piece in pieces() {
                let reached = &mut reached[place(&piece)];
                ranks.before(reached)?;
                go_on(piece, reached);
                ranks.after(reached)?;
            }
            for piece in pieces() {
                let reached = &mut reached[place(&piece)];
                ranks.result(reached)?;
                for (y, row) in y.chunks_exact_mut(width).zip(reached.chunks_exact(piece.len())) {
                    y[piece.clone()].copy_from_slice(row);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Grain = Grain { least: 128, pieces: 8, room: 1 << 18 };
    const FAR: Grain = Grain { least: 1 << 14, pieces: 4, room: 1 << 24 };

    #[test]
    fn a_chain_is_cut_where_passing_it_on_pays() {
        let table = [
            // Rows, outputs, grain; outputs of a piece, pieces under way together.
            ((1, 64), NEAR, (64, 8)),
            ((1, 576), NEAR, (144, 8)),
            ((1, 4096), NEAR, (512, 8)),
            ((8, 576), NEAR, (80, 8)),
            ((384, 576), NEAR, (80, 8)),
            ((384, 4096), NEAR, (80, 8)),
            ((4000, 576), NEAR, (16, 4)),
            ((1, 4096), FAR, (4096, 4)),
            ((8, 4096), FAR, (2048, 4)),
            ((384, 576), FAR, (144, 4)),
            ((384, 8192), FAR, (2048, 4)),
        ];
        for ((rows, outputs), grain, expected) in table {
            let Cut { outputs: found, together } = Cut::new(rows, outputs, 16, grain);
            assert_eq!((found, together), expected, "{rows} rows of {outputs}");
            assert!(rows * found * together <= grain.room);
        }
    }

    /// A rank in the middle: what comes from the one before and the last, and what has to leave it.
    struct Middle {
        before: Vec<f32>,
        after: Vec<f32>,
        last: Vec<f32>,
    }

    /// The next values.
    fn next(from: &mut Vec<f32>, piece: &[f32]) -> Vec<f32> {
        from.drain(..piece.len()).collect()
    }

    impl Ranks for Middle {
        fn grain(&self) -> Grain {
            Grain { least: 4, pieces: 2, room: 24 }
        }

        fn before(&mut self, piece: &mut [f32]) -> Result<(), BackendError> {
            piece.copy_from_slice(&next(&mut self.before, piece));
            Ok(())
        }

        fn after(&mut self, piece: &[f32]) -> Result<(), BackendError> {
            assert_eq!(piece, next(&mut self.after, piece));
            Ok(())
        }

        fn result(&mut self, piece: &mut [f32]) -> Result<(), BackendError> {
            piece.copy_from_slice(&next(&mut self.last, piece));
            Ok(())
        }

        fn largest(&mut self, _: &mut [f32]) -> Result<(), BackendError> {
            unreachable!("no product is rounded here")
        }

        fn gather(&mut self, _: &[f32], _: &[usize], _: &mut Vec<f32>) -> Result<(), BackendError> {
            unreachable!("there are no logits here")
        }
    }

    #[test]
    fn every_output_goes_on_from_what_the_rank_before_has_reached() {
        // Three rows of ten outputs in pieces of four: two of them under way together, then one of two outputs.
        let pieces = [0..4, 4..8, 8..10];
        let packed = |from: f32| -> Vec<f32> {
            let places = pieces.iter().flat_map(|piece| {
                (0..3).flat_map(move |row| piece.clone().map(move |output| 10 * row + output))
            });
            places.map(|place| from + place as f32).collect()
        };
        let middle = Middle { before: packed(0.0), after: packed(0.5), last: packed(1000.0) };
        let (mut y, mut found) = (vec![0.0; 30], Vec::new());
        let go_on = &mut |outputs, piece: &mut [f32]| {
            found.push(outputs);
            piece.iter_mut().for_each(|value| *value += 0.5);
        };
        Chains::new(Box::new(middle)).run(&mut y, 10, 4, go_on).unwrap();
        assert_eq!(found, pieces);
        assert_eq!(y, (0..30).map(|at| 1000.0 + at as f32).collect::<Vec<_>>());
    }
}
