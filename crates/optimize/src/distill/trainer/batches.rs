//! Decides which sequences a step has, which of them this process computes, and how many of their targets count.

use super::*;
use crate::distill::data::Window;
use crate::distill::own_text;
use crate::distill::random::Random;

/// Sequences of a step.
pub(super) struct Batches {
    /// From the data.
    pub(super) given: Vec<Micro>,
    /// Continued by the student.
    pub(super) own: Vec<Micro>,
    /// Targets that count, those of all processes.
    pub(super) learned: usize,
}

/// Sets the choice of who writes a sequence apart from other random choices.
const OWN_TEXT: u64 = 0x6f77_6e74_6578_7400;

impl Trainer<'_> {
    /// This process's part of the next step's sequences.
    pub(super) fn batches(&mut self) -> Result<Batches, DistillError> {
        let Recipe { batch, micro_batch, .. } = *self.recipe;
        let (rank, size) = (self.ranks.rank(), self.ranks.size());
        let ours = rank * batch / size..(rank + 1) * batch / size;
        let mut given = Vec::new();
        let (mut own, mut places) = (Vec::new(), Vec::new());
        let mut learned = 0;
        for i in 0..batch {
            let place = (self.step * batch + i) as u64;
            let index = self.order.at(place);
            let window = self.corpus.window(index)?;
            let is_own = Random::new(self.recipe.seed ^ OWN_TEXT, place).unit() < self.recipe.on_policy;
            learned += if is_own { own_text::targets(&window) } else { window.targets(0) };
            match (ours.contains(&i), is_own) {
                (false, _) => {}
                (true, true) => {
                    own.push(window);
                    places.push(place);
                }
                (true, false) => given.push((index, window)),
            }
        }
        self.own_text.write(&self.parameters, &mut own, &places)?;
        // No windows of the data: their lists in a cache are of other text.
        let micro = |windows: &[Window]| {
            let windows: Vec<(u32, Window)> = windows.iter().map(|window| (0, window.clone())).collect();
            Micro { windows: Vec::new(), ..Micro::new(&windows) }
        };
        Ok(Batches {
            given: given.chunks(micro_batch).map(Micro::new).collect(),
            own: own.chunks(micro_batch).map(micro).collect(),
            learned,
        })
    }
}

/// The student's own tokens are no targets: only the teacher's opinion of them counts.
pub(super) fn of_own_text(objective: Objective) -> Objective {
    Objective { alpha: if objective.alpha > 0.0 { 1.0 } else { 0.0 }, ..objective }
}
