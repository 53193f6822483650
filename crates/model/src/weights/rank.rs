//! Decides which bytes of a rank's file are its part of which weight.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use wharf_kernels::{DType, Rounding};

use super::{Slot, StoredTensor, Weights, WeightsError};
use crate::config::ModelConfig;
use crate::mmap::MappedFile;
use crate::role::Role;
use crate::shard::{Cut, RankShare};

/// One weight in a rank's file, as the manifest describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankTensor {
    /// Name of the whole tensor in the model that was cut.
    pub name: String,
    /// For roles that every layer has.
    pub layer: Option<usize>,
    /// What it is for.
    pub role: Role,
    /// Type, as llama.cpp calls it.
    pub dtype: String,
    /// Rows of the part.
    pub rows: usize,
    /// Elements per row of the part.
    pub cols: usize,
    /// First byte in the file.
    pub offset: usize,
    /// How what is multiplied with it is rounded, if it is.
    #[serde(default, with = "RoundingText")]
    pub rounding: Rounding,
}

/// A rule of rounding as the manifest writes it.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Rounding", rename_all = "snake_case")]
enum RoundingText {
    Blocks,
    Rows,
    Fixed(f32),
}

impl RankShare {
    /// Rows and columns of this rank's part of a weight.
    fn shape(&self, role: Role, config: &ModelConfig) -> (usize, usize) {
        let (rows, cols) = role.shape(config);
        match self.cut(role) {
            Cut::Whole => (rows, cols),
            Cut::Rows(range) => (range.len(), cols),
            Cut::Columns(range) => (rows, range.len()),
        }
    }
}

impl Weights {
    /// One rank's part of a model, from its file.
    pub(crate) fn of_rank(
        file: MappedFile,
        tensors: Vec<RankTensor>,
        config: &ModelConfig,
        rank: &RankShare,
    ) -> Result<Weights, WeightsError> {
        let mut slots = HashMap::new();
        let mut stored = Vec::with_capacity(tensors.len());
        for (index, tensor) in tensors.into_iter().enumerate() {
            let RankTensor { name, layer, role, dtype, rows, cols, offset, rounding } = tensor;
            let shape = rank.shape(role, config);
            let known = layer.is_none_or(|layer| layer < config.layers.len());
            if (rows, cols) != shape || layer.is_some() != role.is_per_layer() || !known {
                let expected = vec![shape.0, shape.1];
                return Err(WeightsError::Shape { name, found: vec![rows, cols], expected });
            }
            let dtype = DType::ALL.into_iter().find(|known| known.name() == dtype);
            let bytes = dtype.and_then(|dtype| dtype.bytes_for(cols)?.checked_mul(rows));
            let end = bytes.and_then(|bytes| offset.checked_add(bytes));
            let (Some(dtype), Some(len)) =
                (dtype, bytes.filter(|_| end.is_some_and(|end| end <= file.len())))
            else {
                return Err(WeightsError::Absent { role, layer });
            };
            slots.insert((layer, role), Slot { tensor: index, first_row: 0, rows, cols });
            stored.push(StoredTensor {
                name,
                dtype,
                shape: vec![rows, cols],
                file: 0,
                offset,
                len,
                compressed: None,
                rounding,
            });
        }
        if config.tied_embeddings
            && let Some(embedding) = slots.get(&(None, Role::TokenEmbedding)).copied()
        {
            slots.insert((None, Role::Output), embedding);
        }
        Ok(Weights { files: vec![file], tensors: stored, slots, held: Some(rank.clone()) })
    }
}
