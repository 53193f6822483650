//! How much each input of each matrix matters: the mean square of what calibration text sends through it.

use std::collections::BTreeMap;

use wharf_model::Role;
use wharf_model::export::Exported;

/// Mean squares of inputs, by layer and matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance(BTreeMap<(Option<usize>, Role), Vec<f32>>);

impl Importance {
    /// Says what goes into the matrix of `role`: `(columns)`, each finite and not negative.
    ///
    /// # Panics
    /// When a number is not.
    pub fn insert(&mut self, layer: Option<usize>, role: Role, mean_squares: Vec<f32>) {
        assert!(
            mean_squares.iter().all(|x| x.is_finite() && *x >= 0.0),
            "mean squares are finite and not negative"
        );
        self.0.insert((layer, role), mean_squares);
    }

    /// What goes into `tensor`; `None` for one that calibration has not seen.
    pub(super) fn of(&self, tensor: &Exported) -> Option<&[f32]> {
        let role = *tensor.roles.first()?;
        self.0.get(&(tensor.layer, role)).map(Vec::as_slice)
    }

    /// Gives `feed` bytes that are the same if and only if the numbers are.
    pub(super) fn identify(&self, feed: &mut dyn FnMut(&[u8])) {
        for ((layer, role), numbers) in &self.0 {
            feed(format!("{layer:?} {role} {}", numbers.len()).as_bytes());
            numbers.iter().for_each(|number| feed(&number.to_le_bytes()));
        }
    }
}
