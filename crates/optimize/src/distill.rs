//! Distillation: a smaller student learns the distributions of a teacher.
//!
//! The parts decide, this file names them: `student` what the student looks like, `data` what it reads, `teacher` what it is
//! told, `loss` what it is punished for, `optimizer` how its weights move, `checkpoint` how a run survives, `export` what is
//! left in the end. `trainer` is the loop. Everything of a run lives in one folder beside the output until the output is whole.

mod checkpoint;
mod compute;
mod data;
mod error;
mod export;
mod layers;
mod loss;
mod network;
mod optimizer;
mod own_text;
mod parameters;
mod plot;
mod prune;
mod random;
mod ranks;
mod recipe;
mod report;
mod student;
mod teacher;
mod trainer;
mod validation;

pub use compute::{Device, best_device};
pub use data::TextSide;
pub use error::DistillError;
pub use export::Format;
pub use layers::{Kept, parse_list};
pub use loss::{Divergence, Objective};
pub use optimizer::Optimizer;
pub use recipe::{Recipe, is_begun};
pub use report::{Line, Report, StepLine, Validation};
pub use student::{Student, Width};
pub use trainer::{Event, Outcome, Processes, Run, run};

#[cfg(test)]
mod tests;
