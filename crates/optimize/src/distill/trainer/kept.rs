//! Decides which of the teacher's layers a run starts from, once for all of its processes and continuations.

use crate::distill::compute::{self, Device, Micro};
use crate::distill::data::{Corpus, Order};
use crate::distill::error::DistillError;
use crate::distill::layers::{self, Kept};
use crate::distill::parameters::Parameters;
use crate::distill::recipe::{Recipe, WorkFolder};
use crate::distill::student::Student;

/// Layers that make a student of the right shape, before it is known which they will be.
pub(super) fn any(student: &Student) -> Vec<usize> {
    match student {
        Student::Pruned { layers: Kept::These(layers), .. } => layers.clone(),
        Student::Pruned { layers: Kept::Busiest(wanted), .. } => (0..*wanted).collect(),
        Student::Model(_) | Student::Fresh(_) => Vec::new(),
    }
}

/// Windows of the data on which the teacher's layers are compared.
const LAYER_WINDOWS: u64 = 4;

/// The layers that a pruned student keeps. They are chosen once: a run that goes on, and the other processes, read what the
/// first one wrote.
pub(super) fn choose(
    recipe: &Recipe,
    work: &WorkFolder,
    teacher: &Parameters,
    corpus: &Corpus,
    following: bool,
) -> Result<Vec<usize>, DistillError> {
    let Student::Pruned { layers: Kept::Busiest(wanted), .. } = &recipe.student else {
        return Ok(any(&recipe.student));
    };
    let path = work.layers();
    if following || path.exists() {
        let bytes = std::fs::read(&path).map_err(DistillError::read(&path))?;
        return serde_json::from_slice(&bytes)
            .map_err(|error| DistillError::Input(format!("failed to parse {}: {error}", path.display())));
    }
    let mut order = Order::new(corpus, recipe.seed);
    let windows = (0..LAYER_WINDOWS).map(|place| {
        let window = order.at(place);
        Ok((window, corpus.window(window)?))
    });
    let batch = Micro::new(&windows.collect::<Result<Vec<_>, DistillError>>()?);
    // On a GPU the teacher's weights might not fit beside the student's.
    let layers = layers::busiest(*wanted, teacher, &*compute::open(Device::Cpu)?, &batch);
    let partial = path.with_extension("partial");
    let text = serde_json::to_vec(&layers).expect("numbers have a text");
    std::fs::write(&partial, text).map_err(DistillError::write(&partial))?;
    std::fs::rename(&partial, &path).map_err(DistillError::write(&path))?;
    Ok(layers)
}
