//! Everything that a run needs to go on as if it had never stopped, in one file that appears when it is whole.
//!
//! Weights, both moments and the number of finished steps; the place in the data and every random draw follow from that number
//! and the seed. The format is safetensors, so that other tools can look inside.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, View};

use super::error::DistillError;
use super::optimizer::Moments;
use super::parameters::Parameters;

/// Checkpoints that are kept; the one before the last guards against a disk that lies.
const KEPT: usize = 2;

/// Writes the state after `step` steps and forgets older ones.
pub(super) fn save(
    folder: &Path,
    step: usize,
    parameters: &Parameters,
    moments: &Moments,
) -> Result<PathBuf, DistillError> {
    let path = folder.join(format!("step-{step:08}.safetensors"));
    let partial = path.with_extension("partial");
    let mut tensors = Vec::new();
    for (kind, group) in [('m', &moments.first), ('v', &moments.second)] {
        tensors
            .extend(group.iter().enumerate().map(|(i, data)| (format!("{kind}.{i:05}"), Numbers::new(data))));
    }
    tensors.extend(
        parameters.list.iter().enumerate().map(|(i, w)| (format!("w.{i:05}"), Numbers::new(&w.data))),
    );
    let metadata = HashMap::from([("step".to_owned(), step.to_string())]);
    safetensors::serialize_to_file(tensors, Some(metadata), &partial).map_err(|error| {
        // On a full disk it would take what the next try needs.
        let _ = std::fs::remove_file(&partial);
        DistillError::Write { path: partial.clone(), source: into_io(error) }
    })?;
    let file = std::fs::File::open(&partial).map_err(DistillError::read(&partial))?;
    file.sync_all().map_err(DistillError::write(&partial))?;
    std::fs::rename(&partial, &path).map_err(DistillError::write(&path))?;
    for old in list(folder)?.into_iter().rev().skip(KEPT) {
        std::fs::remove_file(&old.1).map_err(DistillError::write(&old.1))?;
    }
    Ok(path)
}

/// The number of steps of the latest checkpoint, whose numbers are put into `parameters` and `moments`; 0 without any.
pub(super) fn load_latest(
    folder: &Path,
    parameters: &mut Parameters,
    moments: &mut Moments,
) -> Result<usize, DistillError> {
    let Some((step, path)) = list(folder)?.pop() else { return Ok(0) };
    let bytes = std::fs::read(&path).map_err(DistillError::read(&path))?;
    let bad = |why: String| {
        DistillError::Input(format!("{} is not a checkpoint of this run: {why}", path.display()))
    };
    let file = SafeTensors::deserialize(&bytes).map_err(|error| bad(error.to_string()))?;
    if file.len() != 3 * parameters.list.len() {
        return Err(bad(format!("it has {} tensors instead of {}", file.len(), 3 * parameters.list.len())));
    }
    let fill = |name: String, out: &mut Vec<f32>| {
        let tensor = file.tensor(&name).map_err(|error| bad(error.to_string()))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != [out.len()] {
            return Err(bad(format!("{name} has another shape")));
        }
        let numbers = tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        out.iter_mut().zip(numbers).for_each(|(out, number)| *out = number);
        Ok(())
    };
    for (i, parameter) in parameters.list.iter_mut().enumerate() {
        fill(format!("w.{i:05}"), &mut parameter.data)?;
        fill(format!("m.{i:05}"), &mut moments.first[i])?;
        fill(format!("v.{i:05}"), &mut moments.second[i])?;
    }
    Ok(step)
}

/// Checkpoints of a folder, oldest first.
fn list(folder: &Path) -> Result<Vec<(usize, PathBuf)>, DistillError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(DistillError::read(folder))? {
        let path = entry.map_err(DistillError::read(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let step = name.strip_prefix("step-").and_then(|rest| rest.strip_suffix(".safetensors"));
        if let Some(step) = step.and_then(|step| step.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

fn into_io(error: safetensors::SafeTensorError) -> std::io::Error {
    match error {
        safetensors::SafeTensorError::IoError(error) => error,
        other => std::io::Error::other(other),
    }
}

/// F32 numbers as a tensor of one dimension.
struct Numbers<'a> {
    shape: [usize; 1],
    data: &'a [f32],
}

impl<'a> Numbers<'a> {
    fn new(data: &'a [f32]) -> Numbers<'a> {
        Numbers { shape: [data.len()], data }
    }
}

impl View for Numbers<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.data.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        self.data.len() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distill::tests::tiny;

    #[test]
    fn the_latest_state_comes_back_to_the_bit_and_two_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut parameters = tiny();
        let mut moments = Moments::zero(&parameters);
        for step in 1..=3 {
            parameters.list[0].data[0] = step as f32 / 3.0;
            moments.second[1][0] = step as f32;
            save(folder.path(), step, &parameters, &moments).unwrap();
        }
        assert_eq!(list(folder.path()).unwrap().len(), KEPT);
        let mut found = tiny();
        let mut found_moments = Moments::zero(&found);
        assert_eq!(load_latest(folder.path(), &mut found, &mut found_moments).unwrap(), 3);
        assert_eq!((found, found_moments), (parameters, moments));
    }

    #[test]
    fn a_checkpoint_of_another_student_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let parameters = tiny();
        save(folder.path(), 1, &parameters, &Moments::zero(&parameters)).unwrap();
        let mut other = parameters.keep_layers(&[0]);
        other.list[0].data.push(0.0);
        let mut moments = Moments::zero(&other);
        assert!(load_latest(folder.path(), &mut other, &mut moments).unwrap_err().is_bad_input());
    }
}
