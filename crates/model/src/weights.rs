//! Decides which bytes of which file are the weight for a role.
//!
//! All lookups happen once, when the model is opened: names are resolved by the architecture's rules, every
//! shape is compared with the configuration, and a tensor that no rule claims is an error, because a
//! forward pass that ignores a weight would answer wrongly without saying so.

mod cut;
mod identity;
mod rank;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::PathBuf;

use thiserror::Error;
use wharf_kernels::{DType, Rounding};

use crate::arch::TensorRule;
use crate::compressed::Compressed;
use crate::config::ModelConfig;
use crate::mmap::MappedFile;
use crate::role::Role;
use crate::shard::{Cut, RankShare};
pub use cut::CutView;
pub use rank::RankTensor;

/// A tensor as its file describes it; `offset..offset + len` lies within the file.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTensor {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents, slowest first.
    pub shape: Vec<usize>,
    /// Index of its file.
    pub file: usize,
    /// First byte within the file.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
    /// How blocks of the type are made where the file has only codes and, elsewhere, scales.
    pub compressed: Option<Compressed>,
    /// How what is multiplied with it is rounded, if it is.
    pub rounding: Rounding,
}

impl StoredTensor {
    /// Elements.
    pub fn elements(&self) -> usize {
        // Cannot overflow: the reader has checked that the product fits the file.
        self.shape.iter().product()
    }
}

/// A weight as the engine sees it: rows of GGML blocks, borrowed from the mapped file.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// Name in the file; several views share it when the file fuses them (Phi-3).
    pub name: &'a str,
    /// Element type.
    pub dtype: DType,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Elements per row.
    pub cols: usize,
    /// `rows` rows, each `dtype.bytes_for(cols)` bytes, not necessarily aligned to the element size.
    pub data: &'a [u8],
    /// How what is multiplied with it is rounded, if it is.
    pub rounding: Rounding,
    file: usize,
    offset: usize,
    /// Bytes of the file behind it.
    stored: usize,
}

/// Why weights do not fit their model.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// A tensor that the architecture needs is absent.
    #[error(
        "tensor {name:?} ({role}) is missing; the checkpoint is incomplete or not a {architecture} model"
    )]
    Missing {
        /// The name expected.
        name: String,
        /// What it is for.
        role: Role,
        /// Architecture of the model.
        architecture: String,
    },
    /// A tensor has another shape than the configuration implies.
    #[error("tensor {name:?} has shape {found:?}, but the configuration implies {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Extents in the file, slowest first.
        found: Vec<usize>,
        /// Extents implied.
        expected: Vec<usize>,
    },
    /// A row does not fill whole blocks.
    #[error("tensor {name:?} has rows of {cols} elements, which do not fill blocks of type {dtype}")]
    Row {
        /// The tensor.
        name: String,
        /// Elements per row.
        cols: usize,
        /// Its type.
        dtype: DType,
    },
    /// A tensor that no rule of the architecture claims.
    #[error("tensor {name:?} has no place in a {architecture} model; ignoring it would change the answers")]
    Unexpected {
        /// The tensor.
        name: String,
        /// Architecture of the model.
        architecture: String,
    },
    /// The engine asked for a role that the model does not have.
    #[error("the model has no {role}{}", layer.map(|n| format!(" in layer {n}")).unwrap_or_default())]
    Absent {
        /// The role asked for.
        role: Role,
        /// The layer asked for.
        layer: Option<usize>,
    },
}

/// Rows of a stored tensor.
#[derive(Clone, Copy, Debug)]
struct Slot {
    tensor: usize,
    first_row: usize,
    rows: usize,
    cols: usize,
}

/// All weights of a model, mapped. Dropping it unmaps the files.
#[derive(Debug)]
pub struct Weights {
    files: Vec<MappedFile>,
    tensors: Vec<StoredTensor>,
    slots: HashMap<(Option<usize>, Role), Slot>,
    /// The rank whose part these are, when they are not all.
    held: Option<RankShare>,
}

/// How the names of a checkpoint are made from the architecture's rules.
pub(crate) trait Naming {
    /// Name of the tensor of `rule` in `layer`.
    fn name(&self, rule: &TensorRule, layer: Option<usize>) -> String;

    /// Whether a tensor that no rule claims may be skipped because it holds no weight of the text model.
    fn may_ignore(&self, name: &str) -> bool;
}

impl Weights {
    /// Binds `tensors` to roles by `rules`; a role that shares its tensor with others gets its rows.
    pub(crate) fn bind(
        files: Vec<MappedFile>,
        tensors: Vec<StoredTensor>,
        config: &ModelConfig,
        rules: &[TensorRule],
        naming: &dyn Naming,
    ) -> Result<Weights, WeightsError> {
        let directory: HashMap<&str, usize> =
            tensors.iter().enumerate().map(|(index, tensor)| (tensor.name.as_str(), index)).collect();
        let mut slots = HashMap::new();
        let mut claimed = HashSet::new();
        let (layered, global): (Vec<&TensorRule>, Vec<&TensorRule>) =
            rules.iter().partition(|rule| rule.role.is_per_layer());
        let scopes =
            std::iter::once((None, &global)).chain((0..config.layers.len()).map(|n| (Some(n), &layered)));
        for (layer, rules) in scopes {
            for (name, group) in by_name(rules, layer, naming) {
                let Some(&index) = directory.get(name.as_str()) else {
                    match group.iter().find(|rule| rule.required_in(config)) {
                        Some(rule) => return Err(missing(&name, rule.role, config)),
                        None => continue,
                    }
                };
                claimed.insert(index);
                bind_group(&tensors[index], index, &group, layer, config, &mut slots)?;
            }
        }
        if config.tied_embeddings {
            let embedding = slots.get(&(None, Role::TokenEmbedding)).copied();
            slots.insert((None, Role::Output), embedding.expect("every architecture requires the embedding"));
        }
        refuse_gaps(&layered, config, naming, &slots)?;
        let stray = tensors
            .iter()
            .enumerate()
            .find(|(index, tensor)| !claimed.contains(index) && !naming.may_ignore(&tensor.name));
        if let Some((_, tensor)) = stray {
            let architecture = config.architecture.clone();
            return Err(WeightsError::Unexpected { name: tensor.name.clone(), architecture });
        }
        Ok(Weights { files, tensors, slots, held: None })
    }

    /// The weight for `role`, in `layer` for roles that every layer has; an error when the model has none.
    pub fn matrix(&self, layer: Option<usize>, role: Role) -> Result<TensorView<'_>, WeightsError> {
        self.optional(layer, role).ok_or(WeightsError::Absent { role, layer })
    }

    /// The weight for `role`, or `None` when the model has none (biases, norms that only some models have).
    pub fn optional(&self, layer: Option<usize>, role: Role) -> Option<TensorView<'_>> {
        let slot = self.slots.get(&(layer, role))?;
        let tensor = &self.tensors[slot.tensor];
        let row_bytes = tensor.dtype.bytes_for(slot.cols).expect("bind checked that rows are whole blocks");
        let (start, len) = (slot.first_row * row_bytes, slot.rows * row_bytes);
        Some(TensorView {
            name: &tensor.name,
            dtype: tensor.dtype,
            rows: slot.rows,
            cols: slot.cols,
            data: &self.bytes(tensor)[start..start + len],
            rounding: tensor.rounding,
            file: tensor.file,
            // Codes of all rows go with any of them.
            offset: if tensor.compressed.is_some() { tensor.offset } else { tensor.offset + start },
            stored: if tensor.compressed.is_some() { tensor.len } else { len },
        })
    }

    /// The part of `view` that a rank holds; all of it without a rank, or where these weights are that rank's part already.
    pub fn part<'a>(&self, view: TensorView<'a>, role: Role, rank: Option<&RankShare>) -> CutView<'a> {
        match rank {
            Some(rank) if self.held.as_ref() != Some(rank) => view.cut(&rank.cut(role)),
            Some(_) | None => view.cut(&Cut::Whole),
        }
    }

    /// The rank whose part these weights are; `None` for those of a whole model.
    pub fn held(&self) -> Option<&RankShare> {
        self.held.as_ref()
    }

    /// Tells the kernel that the bytes of `view` are no longer needed, to keep the resident size low while
    /// weights are packed one after the other. The view stays valid: reading it again costs a page fault.
    pub fn release(&self, view: &TensorView<'_>) -> io::Result<()> {
        self.files[view.file].release(view.offset, view.stored)
    }

    /// The first `stored` layers again and again, until there are `layers`.
    pub(crate) fn repeat(&mut self, stored: usize, layers: usize) {
        let of = |layer: usize| {
            move |((of, role), slot): (&(Option<usize>, Role), &Slot)| {
                (*of == Some(layer % stored)).then_some(((Some(layer), *role), *slot))
            }
        };
        let more: Vec<_> =
            (stored..layers).flat_map(|layer| self.slots.iter().filter_map(of(layer))).collect();
        self.slots.extend(more);
    }

    /// Every tensor in the order of the files, for reports.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &StoredTensor> {
        self.tensors.iter()
    }

    /// The bytes of a tensor of these weights, as blocks of its type.
    pub fn bytes<'a>(&'a self, tensor: &'a StoredTensor) -> &'a [u8] {
        match &tensor.compressed {
            None => &self.files[tensor.file][tensor.offset..tensor.offset + tensor.len],
            Some(compressed) => compressed.blocks(tensor.dtype, &self.files),
        }
    }

    /// What each tensor is for, by its name: the layer, and the roles in the order of its rows. Tensors that are no weights are
    /// not there; an embedding that is the output projection too is called the embedding.
    pub fn uses(&self) -> HashMap<&str, (Option<usize>, Vec<Role>)> {
        let mut slots: Vec<_> = self.slots.iter().collect();
        slots.sort_by_key(|((layer, role), slot)| (slot.tensor, slot.first_row, *layer, *role));
        slots.dedup_by_key(|(_, slot)| (slot.tensor, slot.first_row));
        let mut uses: HashMap<&str, (Option<usize>, Vec<Role>)> = HashMap::new();
        for ((layer, role), slot) in slots {
            let name = self.tensors[slot.tensor].name.as_str();
            uses.entry(name).or_insert_with(|| (*layer, Vec::new())).1.push(*role);
        }
        uses
    }

    /// Tells the kernel that the bytes of a tensor are no longer needed, like [`Weights::release`].
    pub fn release_tensor(&self, tensor: &StoredTensor) -> io::Result<()> {
        self.files[tensor.file].release(tensor.offset, tensor.len)
    }

    /// Paths of the mapped files, in the order that [`StoredTensor::file`] counts.
    pub fn files(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.path().to_owned()).collect()
    }
}

/// Rules grouped by the name that they resolve to, in the order of the list: a group's rows follow each
/// other in one tensor.
fn by_name<'r>(
    rules: &[&'r TensorRule],
    layer: Option<usize>,
    naming: &dyn Naming,
) -> Vec<(String, Vec<&'r TensorRule>)> {
    let mut groups: Vec<(String, Vec<&TensorRule>)> = Vec::new();
    for rule in rules {
        let name = naming.name(rule, layer);
        match groups.iter_mut().find(|(other, _)| *other == name) {
            Some((_, group)) => group.push(rule),
            None => groups.push((name, vec![rule])),
        }
    }
    groups
}

fn bind_group(
    tensor: &StoredTensor,
    index: usize,
    group: &[&TensorRule],
    layer: Option<usize>,
    config: &ModelConfig,
    slots: &mut HashMap<(Option<usize>, Role), Slot>,
) -> Result<(), WeightsError> {
    let shapes: Vec<(usize, usize)> = group.iter().map(|rule| rule.role.shape(config)).collect();
    let cols = shapes[0].1;
    let rows: usize = shapes.iter().map(|(rows, _)| rows).sum();
    // Vectors are stored with one dimension.
    let expected = if rows == 1 { vec![cols] } else { vec![rows, cols] };
    if tensor.shape != expected && tensor.shape != [rows, cols] {
        return Err(WeightsError::Shape { name: tensor.name.clone(), found: tensor.shape.clone(), expected });
    }
    if tensor.dtype.bytes_for(cols).is_none() {
        return Err(WeightsError::Row { name: tensor.name.clone(), cols, dtype: tensor.dtype });
    }
    let mut first_row = 0;
    for (rule, (rows, cols)) in group.iter().zip(shapes) {
        slots.insert((layer, rule.role), Slot { tensor: index, first_row, rows, cols });
        first_row += rows;
    }
    Ok(())
}

/// An optional weight is there in every layer or in none.
fn refuse_gaps(
    layered: &[&TensorRule],
    config: &ModelConfig,
    naming: &dyn Naming,
    slots: &HashMap<(Option<usize>, Role), Slot>,
) -> Result<(), WeightsError> {
    for rule in layered {
        let mut by_presence: BTreeMap<bool, usize> = BTreeMap::new();
        for layer in 0..config.layers.len() {
            by_presence.entry(slots.contains_key(&(Some(layer), rule.role))).or_insert(layer);
        }
        if let (Some(&without), Some(_)) = (by_presence.get(&false), by_presence.get(&true)) {
            return Err(missing(&naming.name(rule, Some(without)), rule.role, config));
        }
    }
    Ok(())
}

fn missing(name: &str, role: Role, config: &ModelConfig) -> WeightsError {
    WeightsError::Missing { name: name.to_owned(), role, architecture: config.architecture.clone() }
}
