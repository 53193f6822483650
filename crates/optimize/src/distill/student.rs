//! Decides what a student looks like before training: some of the teacher's layers, narrower ones, or another model.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wharf_model::config::RopeLayout;
use wharf_model::{Model, ModelConfig, Role};

use super::error::DistillError;
use super::layers::Kept;
use super::parameters::{Key, Parameter, Parameters};
use super::prune;
use super::random::Random;

/// Where a student comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Student {
    /// These layers of the teacher, made narrower.
    Pruned {
        /// Which are kept.
        layers: Kept,
        /// Sizes to shrink to.
        width: Width,
    },
    /// A model of its own, trained on.
    Model(PathBuf),
    /// A config.json: random weights.
    Fresh(PathBuf),
}

/// Sizes of a narrower student; `None` keeps the teacher's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Width {
    /// Residual stream.
    pub hidden: Option<usize>,
    /// Inner width of the feed-forward.
    pub ffn: Option<usize>,
    /// Query heads; key heads shrink with them.
    pub heads: Option<usize>,
}

impl Width {
    /// Parses `hidden=384,ffn=1024,heads=6`, any of them left out.
    ///
    /// # Errors
    /// A sentence that quotes the part that is wrong.
    pub fn parse(text: &str) -> Result<Width, String> {
        let mut width = Width::default();
        for part in text.split(',').map(str::trim) {
            let wrong = || format!("{part:?} in --width is not one of hidden=N, ffn=N, heads=N");
            let (name, size) = part.split_once('=').ok_or_else(wrong)?;
            let size: usize = size.trim().parse().ok().filter(|size| *size > 0).ok_or_else(wrong)?;
            let field = match name.trim() {
                "hidden" => &mut width.hidden,
                "ffn" => &mut width.ffn,
                "heads" => &mut width.heads,
                _ => return Err(wrong()),
            };
            if field.replace(size).is_some() {
                return Err(format!("--width gives {name} twice"));
            }
        }
        Ok(width)
    }

    fn is_whole(&self) -> bool {
        *self == Width::default()
    }
}

/// A student's weights, and the teacher's layer that each of its layers answers to.
pub(super) struct Start {
    pub(super) parameters: Parameters,
    /// Pairs of layers (student, teacher) that should say the same.
    pub(super) pairs: Vec<(usize, usize)>,
}

/// Makes the student that `student` describes; a pruned one has `kept` of the teacher's layers.
pub(super) fn start(
    student: &Student,
    teacher: &Parameters,
    kept: &[usize],
    seed: u64,
) -> Result<Start, DistillError> {
    let parameters = match student {
        Student::Pruned { layers: _, width } => {
            let parameters = teacher.keep_layers(kept);
            let parameters = if width.is_whole() {
                parameters
            } else {
                prune::narrow(parameters, *width).map_err(DistillError::Input)?
            };
            let pairs = kept.iter().copied().enumerate().collect();
            return Ok(Start { parameters, pairs });
        }
        Student::Model(path) => {
            let model = open(path, "student")?;
            Parameters::from_model(&model, "student")?
        }
        Student::Fresh(path) => {
            let config = Model::read_config(path).map_err(|source| DistillError::Open {
                what: "student",
                path: path.clone(),
                source: Box::new(source),
            })?;
            fresh(config, teacher, seed)
        }
    };
    let (own, of_teacher) = (parameters.config.vocab_size, teacher.config.vocab_size);
    if own != of_teacher {
        return Err(DistillError::Input(format!(
            "the student has {own} tokens and the teacher {of_teacher}: a student learns the teacher's distribution over \
             tokens and needs the same vocabulary"
        )));
    }
    let (n, of_teacher) = (parameters.config.layers.len(), teacher.config.layers.len());
    let pairs = (0..n).map(|i| (i, ((i + 1) * of_teacher).div_ceil(n) - 1)).collect();
    Ok(Start { parameters, pairs })
}

/// Opens a model; `what` names it in errors.
pub(super) fn open(path: &Path, what: &'static str) -> Result<Model, DistillError> {
    Model::open(path).map_err(|source| DistillError::Open {
        what,
        path: path.to_owned(),
        source: Box::new(source),
    })
}

/// Deviation of fresh weights, as GPT-2 and its successors start.
const DEVIATION: f32 = 0.02;

/// Random weights in a shape; biases and head norms where the teacher has them.
fn fresh(mut config: ModelConfig, teacher: &Parameters, seed: u64) -> Parameters {
    config.rope_layout = RopeLayout::Halves;
    config.norm_offset = 0.0;
    let needed = |role: Role| match role {
        Role::Output => !config.tied_embeddings,
        Role::QNorm | Role::KNorm => config.qk_norm,
        Role::PostAttnNorm | Role::PostFfnNorm => config.post_norms,
        Role::QBias | Role::KBias | Role::VBias | Role::OBias => {
            teacher.config.architecture == config.architecture && teacher.get(Some(0), role).is_some()
        }
        _ => true,
    };
    let mut list = Vec::new();
    for role in Role::ALL.into_iter().filter(|role| needed(*role)) {
        let layers: Vec<Option<usize>> = match role.is_per_layer() {
            true => (0..config.layers.len()).map(Some).collect(),
            false => vec![None],
        };
        for layer in layers {
            let (rows, cols) = role.shape(&config);
            // One sequence of random numbers for each weight, so that a weight does not depend on the others.
            let mut random = Random::new(seed, (layer.map_or(0, |n| n as u64 + 1) << 8) | role as u64);
            let data = match (role.is_norm(), rows) {
                (true, _) => vec![1.0; cols],
                (false, 1) => vec![0.0; cols],
                (false, _) => (0..rows * cols).map(|_| random.normal() * DEVIATION).collect(),
            };
            list.push(Parameter { key: Key { layer, role }, rows, cols, data });
        }
    }
    list.sort_by_key(|parameter| parameter.key);
    Parameters { config, list }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_named_sizes() {
        let width = Width::parse("hidden=384, heads=6").unwrap();
        assert_eq!(width, Width { hidden: Some(384), ffn: None, heads: Some(6) });
        for wrong in ["", "384", "hidden=x", "hidden=0", "depth=3", "ffn=1,ffn=2"] {
            assert!(Width::parse(wrong).is_err(), "{wrong}");
        }
    }
}
