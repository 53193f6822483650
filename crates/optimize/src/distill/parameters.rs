//! Decides how weights are held while they are trained: F32, in one order, in one convention.
//!
//! Whatever file they come from, rows of Q and K stand in the order of [`RopeLayout::Halves`] and norms hold what they multiply
//! by, so that one network computes all of them. [`Parameters::from_model`] and the export convert.

use wharf_kernels::block::dequantize;
use wharf_model::config::RopeLayout;
use wharf_model::{Model, ModelConfig, Role, TensorView};

use super::error::DistillError;

/// Which weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    /// `None` outside the layers.
    pub(super) layer: Option<usize>,
    /// What it is for.
    pub(super) role: Role,
}

/// One weight.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parameter {
    /// Which one.
    pub(super) key: Key,
    /// Rows; 1 for a vector.
    pub(super) rows: usize,
    /// Elements per row.
    pub(super) cols: usize,
    /// `(rows, cols)`.
    pub(super) data: Vec<f32>,
}

/// All weights of a model and the shape that they make.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parameters {
    /// Shape; its layout is `Halves`, its norm offset 0.
    pub(super) config: ModelConfig,
    /// Weights in ascending order of key. A tied output projection is not among them.
    pub(super) list: Vec<Parameter>,
}

impl Parameters {
    /// Reads every weight of a model; `what` names it in errors.
    pub(super) fn from_model(model: &Model, what: &'static str) -> Result<Parameters, DistillError> {
        let mut list = Vec::new();
        for role in Role::ALL {
            let layers: Vec<Option<usize>> = match role.is_per_layer() {
                true => (0..model.config.layers.len()).map(Some).collect(),
                false => vec![None],
            };
            if role == Role::Output && model.config.tied_embeddings {
                continue;
            }
            for layer in layers {
                if let Some(view) = model.weights.optional(layer, role) {
                    list.push(read(&view, Key { layer, role }, &model.config, what)?);
                }
            }
        }
        let mut config = model.config.clone();
        config.rope_layout = RopeLayout::Halves;
        config.norm_offset = 0.0;
        list.sort_by_key(|parameter| parameter.key);
        Ok(Parameters { config, list })
    }

    /// The weight for `key`, if the model has it.
    pub(super) fn get(&self, layer: Option<usize>, role: Role) -> Option<&Parameter> {
        let key = Key { layer, role };
        self.list.binary_search_by_key(&key, |parameter| parameter.key).ok().map(|index| &self.list[index])
    }

    /// Numbers to train.
    pub(super) fn elements(&self) -> usize {
        self.list.iter().map(|parameter| parameter.data.len()).sum()
    }

    /// The model made of the given layers of this one, in their order.
    pub(super) fn keep_layers(&self, kept: &[usize]) -> Parameters {
        let mut config = self.config.clone();
        config.layers = kept.iter().map(|layer| self.config.layers[*layer]).collect();
        let mut list: Vec<Parameter> =
            self.list.iter().filter(|parameter| parameter.key.layer.is_none()).cloned().collect();
        for (new, old) in kept.iter().enumerate() {
            let of_layer = self.list.iter().filter(|parameter| parameter.key.layer == Some(*old));
            list.extend(of_layer.map(|parameter| Parameter {
                key: Key { layer: Some(new), role: parameter.key.role },
                ..parameter.clone()
            }));
        }
        list.sort_by_key(|parameter| parameter.key);
        Parameters { config, list }
    }
}

fn read(
    view: &TensorView<'_>,
    key: Key,
    config: &ModelConfig,
    what: &'static str,
) -> Result<Parameter, DistillError> {
    let mut data = vec![0.0; view.rows * view.cols];
    dequantize(view.dtype, view.data, &mut data).expect("the model checked that rows are whole blocks");
    let bad = |x: &f32| !x.is_finite();
    if let Some(index) = data.iter().position(bad) {
        let count = data.iter().filter(|x| bad(x)).count();
        return Err(DistillError::NotFinite { what, role: key.role, layer: key.layer, count, index });
    }
    if key.role.is_norm() && config.norm_offset != 0.0 {
        data.iter_mut().for_each(|x| *x += config.norm_offset);
    }
    if config.rope_layout == RopeLayout::Interleaved
        && let Some(layer) = key.layer
    {
        let dim = config.ropes[config.layers[layer].rope].dim;
        // A matrix has a row for each element of a head, a vector a column.
        let width = if view.rows == 1 { 1 } else { view.cols };
        if rotated(key.role) {
            data = reorder(&data, config.head_dim, width, &|i| halves_to_interleaved(i, dim));
        }
    }
    Ok(Parameter { key, rows: view.rows, cols: view.cols, data })
}

/// Whether rows of the weight are elements of rotated heads.
pub(super) fn rotated(role: Role) -> bool {
    matches!(role, Role::Q | Role::K | Role::QBias | Role::KBias | Role::QNorm | Role::KNorm)
}

/// Where element `i` of a head in the order of halves stands in the interleaved order.
pub(super) fn halves_to_interleaved(i: usize, dim: usize) -> usize {
    match i {
        i if i < dim / 2 => 2 * i,
        i if i < dim => 2 * (i - dim / 2) + 1,
        i => i,
    }
}

/// Heads of `head_dim` elements of `width` numbers each: element `i` of the result is element `from(i)` of the input.
pub(super) fn reorder(
    data: &[f32],
    head_dim: usize,
    width: usize,
    from: &dyn Fn(usize) -> usize,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(data.len());
    for head in data.chunks(head_dim * width) {
        for i in 0..head_dim {
            out.extend_from_slice(&head[from(i) * width..][..width]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_that_stand_together_move_to_the_two_halves() {
        let interleaved = [0.0, 1.0, 2.0, 3.0, 9.0, 9.5];
        let halves = reorder(&interleaved, 6, 1, &|i| halves_to_interleaved(i, 4));
        assert_eq!(halves, [0.0, 2.0, 1.0, 3.0, 9.0, 9.5]);
    }
}
