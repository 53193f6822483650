//! Decides what Ctrl-C means: once stops the answer, twice in a row leaves.

/// What to do about an interrupt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Go on with the conversation, saying how to leave.
    Stay,
    /// End the program with exit code 130.
    Leave,
}

/// Remembers whether the last thing that the user did was to interrupt.
#[derive(Default)]
pub(super) struct Interrupts {
    pending: bool,
}

impl Interrupts {
    pub(super) fn interrupted(&mut self) -> Reaction {
        if std::mem::replace(&mut self.pending, true) { Reaction::Leave } else { Reaction::Stay }
    }

    /// The user typed something: they mean to stay.
    pub(super) fn typed(&mut self) {
        self.pending = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_interrupts_in_a_row_leave() {
        let mut interrupts = Interrupts::default();
        assert_eq!(interrupts.interrupted(), Reaction::Stay);
        interrupts.typed();
        assert_eq!(interrupts.interrupted(), Reaction::Stay);
        assert_eq!(interrupts.interrupted(), Reaction::Leave);
    }
}
