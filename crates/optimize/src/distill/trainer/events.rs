//! What a run tells while it lasts, and how it ends.

use crate::distill::report::{Report, StepLine, Validation};

/// What a run is doing, for people who wait.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Text is turned into tokens; so many yet.
    Packing {
        /// Tokens.
        tokens: usize,
    },
    /// It is known which of the teacher's layers the student starts from.
    Layers {
        /// Ascending.
        kept: Vec<usize>,
    },
    /// Training begins or goes on.
    Start {
        /// Steps done before.
        step: usize,
        /// Windows of the data to train on.
        windows: usize,
        /// Numbers in the student.
        parameters: usize,
    },
    /// A step is done.
    Step(StepLine),
    /// The student was judged.
    Validation(Validation),
    /// A checkpoint is on disk.
    Checkpoint {
        /// Steps that it holds.
        step: usize,
    },
    /// The result is being written.
    Export,
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// The student is at the output path.
    Finished(Box<Report>),
    /// Stopped from outside; a checkpoint is kept.
    Interrupted {
        /// Steps that it holds.
        step: usize,
    },
    /// This process was one of those that the first one started, and is no longer needed.
    Followed,
}
