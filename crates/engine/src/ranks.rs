//! What the ranks of a tensor-parallel group do together, whatever carries it from one to the other.

use crate::backend::BackendError;

/// A rank's ties to the others. All ranks make the same calls in the same order with as many values.
pub trait Ranks: Send {
    /// Replaces `values` by their sum over all ranks, added in the order of ranks: every rank gets the same bits.
    ///
    /// # Errors
    /// [`BackendError::Lost`] when a rank is gone.
    fn sum(&mut self, values: &mut [f32]) -> Result<(), BackendError>;

    /// Leaves every rank's values in `all` of rank 0, in the order of ranks. `lens` says how many each has; `mine` has those of
    /// this one. Other ranks leave `all` as it was.
    ///
    /// # Errors
    /// [`BackendError::Lost`] when a rank is gone.
    fn gather(&mut self, mine: &[f32], lens: &[usize], all: &mut Vec<f32>) -> Result<(), BackendError>;
}
