//! Decides which channels, neurons and heads of a model are worth keeping when it becomes narrower.
//!
//! Importance is read off the weights: how strongly a part is written and read. A channel of the residual stream is one for all
//! layers; neurons and heads are chosen in each layer. What is kept keeps its order.

use wharf_model::Role;

use super::parameters::{Key, Parameters};
use super::student::Width;

/// Cuts a model down to `width`.
///
/// # Errors
/// A sentence about a size that the model cannot have.
pub(super) fn narrow(mut model: Parameters, width: Width) -> Result<Parameters, String> {
    let Width { hidden, ffn, heads } = width;
    if let Some(ffn) = ffn {
        check("ffn", ffn, model.config.ffn_size)?;
        neurons(&mut model, ffn);
    }
    if let Some(heads) = heads {
        check("heads", heads, model.config.n_heads)?;
        let group = model.config.n_heads / model.config.n_kv_heads;
        if !heads.is_multiple_of(group) {
            return Err(format!(
                "--width heads={heads} is no multiple of {group}, the query heads that share one key head; \
                 whole groups are kept"
            ));
        }
        groups(&mut model, heads / group);
    }
    if let Some(hidden) = hidden {
        check("hidden", hidden, model.config.hidden_size)?;
        channels(&mut model, hidden);
    }
    Ok(model)
}

fn check(name: &str, wanted: usize, has: usize) -> Result<(), String> {
    if (1..=has).contains(&wanted) {
        Ok(())
    } else {
        Err(format!("--width {name}={wanted} is not between 1 and {has}, which the teacher has"))
    }
}

fn neurons(model: &mut Parameters, wanted: usize) {
    for layer in 0..model.config.layers.len() {
        let read = |role| rows_squared(model, layer, role);
        let (gate, up, down) =
            (read(Role::Gate), read(Role::Up), columns_squared(model, Some(layer), Role::Down));
        let scores: Vec<f64> = (0..gate.len()).map(|i| (gate[i] * up[i]).sqrt() * down[i]).collect();
        let kept = best(&scores, wanted);
        keep_rows(model, layer, Role::Gate, &kept);
        keep_rows(model, layer, Role::Up, &kept);
        keep_columns(model, Some(layer), Role::Down, &kept);
    }
    model.config.ffn_size = wanted;
}

fn groups(model: &mut Parameters, wanted: usize) {
    let (d, group) = (model.config.head_dim, model.config.n_heads / model.config.n_kv_heads);
    let elements = |heads: &[usize], per: usize| -> Vec<usize> {
        heads.iter().flat_map(|head| head * per * d..(head + 1) * per * d).collect()
    };
    for layer in 0..model.config.layers.len() {
        let (v, o) = (rows_squared(model, layer, Role::V), columns_squared(model, Some(layer), Role::O));
        // What a group adds to the stream: its values times what the output projection makes of them.
        let score = |kv: usize| {
            let values: f64 = v[kv * d..(kv + 1) * d].iter().sum();
            values * o[kv * group * d..(kv + 1) * group * d].iter().sum::<f64>()
        };
        let scores: Vec<f64> = (0..model.config.n_kv_heads).map(score).collect();
        let kept = best(&scores, wanted);
        let (kv, q) = (elements(&kept, 1), elements(&kept, group));
        for (role, kept) in [(Role::Q, &q), (Role::K, &kv), (Role::V, &kv)] {
            keep_rows(model, layer, role, kept);
        }
        for (role, kept) in [(Role::QBias, &q), (Role::KBias, &kv), (Role::VBias, &kv), (Role::O, &q)] {
            keep_columns(model, Some(layer), role, kept);
        }
    }
    model.config.n_heads = wanted * group;
    model.config.n_kv_heads = wanted;
}

fn channels(model: &mut Parameters, wanted: usize) {
    // What is written into a channel: embeddings, and the two projections of every layer.
    let mut scores = columns_squared(model, None, Role::TokenEmbedding);
    // Tokens are rows of which one is added; a layer's row is added whole.
    let tokens = model.config.vocab_size as f64;
    scores.iter_mut().for_each(|score| *score /= tokens);
    for layer in 0..model.config.layers.len() {
        for role in [Role::O, Role::Down] {
            scores.iter_mut().zip(rows_squared(model, layer, role)).for_each(|(sum, part)| *sum += part);
        }
    }
    let kept = best(&scores, wanted);
    let keys: Vec<Key> = model.list.iter().map(|parameter| parameter.key).collect();
    for Key { layer, role } in keys {
        match role {
            Role::O | Role::Down => keep_rows(model, layer.expect("roles of layers"), role, &kept),
            Role::QNorm | Role::KNorm | Role::QBias | Role::KBias | Role::VBias => {}
            Role::TokenEmbedding
            | Role::OutputNorm
            | Role::Output
            | Role::AttnNorm
            | Role::Q
            | Role::K
            | Role::V
            | Role::OBias
            | Role::PostAttnNorm
            | Role::FfnNorm
            | Role::Gate
            | Role::Up
            | Role::PostFfnNorm => keep_columns(model, layer, role, &kept),
        }
    }
    model.config.hidden_size = wanted;
}

/// The `wanted` highest scores, as ascending indices.
fn best(scores: &[f64], wanted: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    order.truncate(wanted);
    order.sort_unstable();
    order
}

fn rows_squared(model: &Parameters, layer: usize, role: Role) -> Vec<f64> {
    let weight = model.get(Some(layer), role).expect("every layer has its matrices");
    let square = |row: &[f32]| row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    weight.data.chunks(weight.cols).map(square).collect()
}

fn columns_squared(model: &Parameters, layer: Option<usize>, role: Role) -> Vec<f64> {
    let weight = model.get(layer, role).expect("every layer has its matrices");
    let mut sums = vec![0.0; weight.cols];
    for row in weight.data.chunks(weight.cols) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
    }
    sums
}

fn keep_rows(model: &mut Parameters, layer: usize, role: Role, kept: &[usize]) {
    let key = Key { layer: Some(layer), role };
    if let Some(weight) = model.list.iter_mut().find(|parameter| parameter.key == key) {
        weight.data = kept
            .iter()
            .flat_map(|row| &weight.data[row * weight.cols..(row + 1) * weight.cols])
            .copied()
            .collect();
        weight.rows = kept.len();
    }
}

fn keep_columns(model: &mut Parameters, layer: Option<usize>, role: Role, kept: &[usize]) {
    let key = Key { layer, role };
    if let Some(weight) = model.list.iter_mut().find(|parameter| parameter.key == key) {
        weight.data = weight.data.chunks(weight.cols).flat_map(|row| kept.iter().map(|i| row[*i])).collect();
        weight.cols = kept.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distill::tests::tiny;

    #[test]
    fn every_weight_fits_the_narrower_shape() {
        let width = Width { hidden: Some(48), ffn: Some(96), heads: Some(2) };
        let narrow = narrow(tiny(), width).unwrap();
        assert_eq!((narrow.config.n_heads, narrow.config.n_kv_heads), (2, 1));
        for parameter in &narrow.list {
            let shape = parameter.key.role.shape(&narrow.config);
            assert_eq!((parameter.rows, parameter.cols), shape, "{:?}", parameter.key);
            assert_eq!(parameter.data.len(), shape.0 * shape.1);
        }
    }

    #[test]
    fn what_does_nothing_goes_first() {
        let mut model = tiny();
        let key = |role| Key { layer: Some(1), role };
        for parameter in &mut model.list {
            if parameter.key == key(Role::Down) {
                // Neuron 5 of layer 1 is not read by anything.
                parameter.data.iter_mut().skip(5).step_by(parameter.cols).for_each(|x| *x = 0.0);
            }
        }
        let up = model.get(Some(1), Role::Up).unwrap().clone();
        let ffn = model.config.ffn_size;
        let narrow = narrow(model, Width { ffn: Some(ffn - 1), ..Width::default() }).unwrap();
        let kept = &narrow.get(Some(1), Role::Up).unwrap().data;
        assert_eq!(kept[..5 * up.cols], up.data[..5 * up.cols]);
        assert_eq!(kept[5 * up.cols..], up.data[6 * up.cols..]);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        for width in [
            Width { ffn: Some(1000), ..Width::default() },
            Width { heads: Some(1), ..Width::default() },
            Width { hidden: Some(0), ..Width::default() },
        ] {
            assert!(narrow(tiny(), width).is_err(), "{width:?}");
        }
    }
}
