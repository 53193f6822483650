//! Decides which of the teacher's layers a shallower student starts from.
//!
//! Those that do most are kept: the ones between whose input and output the residual stream turns furthest (block influence,
//! arXiv 2403.03853). Evenly spread layers were rejected: half of SmolLM2's start a thousand times as perplexed.

use serde::{Deserialize, Serialize};
use wharf_model::Role;

use super::compute::{Compute, Micro};
use super::parameters::Parameters;

/// Which layers are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// These, ascending.
    These(Vec<usize>),
    /// So many, those that do most with the data.
    Busiest(usize),
}

/// The `wanted` of the teacher's layers that do most with `batch`, ascending.
pub(super) fn busiest(
    wanted: usize,
    teacher: &Parameters,
    compute: &dyn Compute,
    batch: &Micro,
) -> Vec<usize> {
    let influence = influence(teacher, compute, batch);
    let mut order: Vec<usize> = (0..influence.len()).collect();
    order.sort_by(|a, b| influence[*b].total_cmp(&influence[*a]).then(a.cmp(b)));
    order.truncate(wanted);
    order.sort_unstable();
    order
}

/// One less the cosine between what goes into each layer and what comes out, mean over tokens.
fn influence(teacher: &Parameters, compute: &dyn Compute, batch: &Micro) -> Vec<f64> {
    let layers: Vec<usize> = (0..teacher.config.layers.len()).collect();
    let width = teacher.config.hidden_size;
    // The embedding's scale does not turn it.
    let embedding = &teacher.get(None, Role::TokenEmbedding).expect("every model has one").data;
    let mut before: Vec<f32> = batch
        .tokens
        .iter()
        .flat_map(|token| &embedding[*token as usize * width..][..width])
        .copied()
        .collect();
    let mut all = Vec::new();
    for after in compute.features(teacher, batch, &layers) {
        let cosines = before.chunks(width).zip(after.chunks(width)).map(|(a, b)| cosine(a, b));
        all.push(1.0 - cosines.sum::<f64>() / batch.tokens.len() as f64);
        before = after;
    }
    all
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    // A stream of zeros has no direction; nothing turns it.
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 1.0 }
}

/// Parses a list of layers such as `0,2,4-10,29`: ascending, without repetition, all below `layers`.
///
/// # Errors
/// A sentence that quotes the part that is wrong.
pub fn parse_list(list: &str, layers: usize) -> Result<Vec<usize>, String> {
    let mut kept = Vec::new();
    for part in list.split(',').map(str::trim) {
        let number = |text: &str| {
            text.trim().parse::<usize>().map_err(|_| {
                format!("{part:?} in --keep-layers is no layer; write numbers and ranges such as 0,2,4-10")
            })
        };
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(format!("the range {part:?} in --keep-layers runs backwards"));
        }
        if last >= layers {
            return Err(format!(
                "--keep-layers names layer {last}, but the teacher has layers 0 to {}",
                layers - 1
            ));
        }
        if kept.last().is_some_and(|previous| *previous >= first) {
            return Err(format!("--keep-layers is not ascending at {part:?}"));
        }
        kept.extend(first..=last);
    }
    Ok(kept)
}

impl Kept {
    /// `wanted` of a teacher's `layers` layers.
    ///
    /// # Errors
    /// When there are not so many.
    pub fn busiest(wanted: usize, layers: usize) -> Result<Kept, String> {
        match (1..=layers).contains(&wanted) {
            true => Ok(Kept::Busiest(wanted)),
            false => Err(format!("--layers must be between 1 and the teacher's {layers}, not {wanted}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distill::compute::{self, Device};
    use crate::distill::tests::tiny;

    #[test]
    fn lists_are_numbers_and_ranges() {
        assert_eq!(parse_list("0,2,4-6, 9", 10).unwrap(), [0, 2, 4, 5, 6, 9]);
        for (list, complaint) in [
            ("", "no layer"),
            ("1,x", "\"x\""),
            ("3-1", "backwards"),
            ("0,10", "0 to 9"),
            ("2,2", "ascending"),
            ("1-3,2", "ascending"),
        ] {
            let error = parse_list(list, 10).unwrap_err();
            assert!(error.contains(complaint), "{list}: {error}");
        }
    }

    #[test]
    fn a_layer_that_does_nothing_is_the_first_to_go() {
        let mut teacher = tiny();
        let idle = 1;
        for parameter in &mut teacher.list {
            if parameter.key.layer == Some(idle) && matches!(parameter.key.role, Role::O | Role::Down) {
                parameter.data.fill(0.0);
            }
        }
        let tokens: Vec<u32> = (0..32).map(|i| i * 7 % 288).collect();
        let learned = vec![true; tokens.len()];
        let batch = Micro { windows: Vec::new(), targets: tokens.clone(), learned, length: 16, tokens };
        let compute = compute::open(Device::Cpu).unwrap();
        let influence = influence(&teacher, &*compute, &batch);
        assert!(influence[idle].abs() < 1e-6 && influence[0] > 1e-3, "{influence:?}");
        assert_eq!(busiest(1, &teacher, &*compute, &batch), [0]);
        assert_eq!(busiest(2, &teacher, &*compute, &batch), [0, 1]);
    }

    #[test]
    fn as_many_layers_as_there_are_can_be_kept() {
        assert_eq!(Kept::busiest(4, 4), Ok(Kept::Busiest(4)));
        assert!(
            Kept::busiest(0, 4).is_err() && Kept::busiest(5, 4).unwrap_err().contains("teacher's 4, not 5")
        );
    }
}
