//! Decides which type each tensor of a GGUF file gets: not all weights bear the same number of bits.
//!
//! The mixes follow llama.cpp's `llama-quantize`, whose files people compare with: values and down projections of the first,
//! the last and every third layer get more bits than the rest, the output projection the most.

use wharf_kernels::DType;
use wharf_model::{ModelConfig, Role};

use super::scheme::GgufScheme;

/// What a tensor is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Use<'a> {
    /// Layer of a tensor that every layer has.
    pub(crate) layer: Option<usize>,
    /// Roles of its rows, more than one where the file fuses matrices; empty for a tensor that is no weight.
    pub(crate) roles: &'a [Role],
    /// Elements per row.
    pub(crate) cols: usize,
    /// Whether it is a vector.
    pub(crate) vector: bool,
}

/// The type of a tensor; `None` leaves it as it is.
pub(crate) fn dtype(scheme: GgufScheme, config: &ModelConfig, tensor: Use<'_>) -> Option<DType> {
    if tensor.roles.is_empty() {
        return None;
    }
    if tensor.vector {
        return Some(DType::F32);
    }
    let is = |role| tensor.roles.contains(&role);
    let is_output = is(Role::Output) || (config.tied_embeddings && is(Role::TokenEmbedding));
    let favoured = tensor.layer.is_some_and(|layer| more_bits(layer, config.layers.len()));
    let wanted = match scheme {
        GgufScheme::Q8_0 => DType::Q8_0,
        _ if is_output => DType::Q6K,
        GgufScheme::Q4KM | GgufScheme::Q5KM if favoured && (is(Role::V) || is(Role::Down)) => DType::Q6K,
        other => other.base(),
    };
    Some(fitting(wanted, tensor.cols))
}

/// Layers at both ends and every third between them.
fn more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// The type nearest to `wanted` whose blocks fill rows of `cols` elements, never with fewer bits.
fn fitting(wanted: DType, cols: usize) -> DType {
    let smaller_blocks = match wanted {
        DType::Q4K => DType::Q5_0,
        DType::Q5K => DType::Q5_1,
        DType::Q6K => DType::Q8_0,
        other => other,
    };
    [wanted, smaller_blocks].into_iter().find(|dtype| dtype.bytes_for(cols).is_some()).unwrap_or(DType::F16)
}

#[cfg(test)]
mod tests {
    use wharf_model::Model;
    use wharf_testkit::TinyModel;

    use super::*;

    fn config(layers: usize, tied: bool) -> ModelConfig {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        TinyModel::default().write(&path).unwrap();
        let mut config = Model::open(&path).unwrap().config;
        config.layers = vec![config.layers[0]; layers];
        config.tied_embeddings = tied;
        config
    }

    fn matrix(layer: usize, role: Role, cols: usize) -> Option<DType> {
        let roles = [role];
        let tensor = Use { layer: Some(layer), roles: &roles, cols, vector: false };
        dtype(GgufScheme::Q4KM, &config(32, true), tensor)
    }

    #[test]
    fn values_and_down_projections_of_favoured_layers_get_six_bits() {
        for (layer, favoured) in
            [(0, true), (3, true), (4, false), (6, true), (7, false), (9, true), (28, true)]
        {
            let wanted = if favoured { DType::Q6K } else { DType::Q4K };
            assert_eq!(matrix(layer, Role::V, 512), Some(wanted), "layer {layer}");
            assert_eq!(matrix(layer, Role::Down, 512), Some(wanted), "layer {layer}");
            assert_eq!(matrix(layer, Role::Q, 512), Some(DType::Q4K));
        }
    }

    #[test]
    fn rows_that_do_not_fill_a_super_block_get_a_type_of_more_bits() {
        assert_eq!(matrix(4, Role::Q, 576), Some(DType::Q5_0));
        assert_eq!(matrix(0, Role::V, 576), Some(DType::Q8_0));
        assert_eq!(matrix(4, Role::Q, 30), Some(DType::F16));
    }

    #[test]
    fn the_output_projection_is_the_embedding_only_when_tied() {
        let roles = [Role::TokenEmbedding];
        let embedding = Use { layer: None, roles: &roles, cols: 256, vector: false };
        assert_eq!(dtype(GgufScheme::Q4_0, &config(4, true), embedding), Some(DType::Q6K));
        assert_eq!(dtype(GgufScheme::Q4_0, &config(4, false), embedding), Some(DType::Q4_0));
    }

    #[test]
    fn vectors_stay_floats_and_what_is_no_weight_stays_as_it_is() {
        let roles = [Role::AttnNorm];
        let norm = Use { layer: Some(0), roles: &roles, cols: 256, vector: true };
        assert_eq!(dtype(GgufScheme::Q8_0, &config(4, true), norm), Some(DType::F32));
        let other = Use { roles: &[], ..norm };
        assert_eq!(dtype(GgufScheme::Q8_0, &config(4, true), other), None);
    }
}
