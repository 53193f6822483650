//! Decides what is written: every tensor with its type and place, before any number is read.

use wharf_kernels::DType;
use wharf_model::Model;
use wharf_model::export::{self, ExportError, Exported};
use wharf_model::gguf::write::{self, Layout, NewTensor};

use super::mix::{self, Use};
use super::scheme::{GgufScheme, Scheme};

/// One tensor to be written.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) tensor: Exported,
    pub(super) encoding: Encoding,
    /// First byte in the file.
    pub(super) at: u64,
    /// Bytes.
    pub(super) len: u64,
}

/// How a tensor is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Its bytes as they are.
    Copy,
    /// Row by row as blocks of a type.
    Blocks(DType),
}

/// Everything that is written, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) scheme: Scheme,
    pub(super) header: Vec<u8>,
    pub(super) jobs: Vec<Job>,
    pub(super) len: u64,
}

impl Plan {
    /// What `scheme` makes of `model`.
    ///
    /// # Errors
    /// When the model cannot be written in the scheme's format.
    pub fn new(model: &Model, scheme: Scheme) -> Result<Plan, ExportError> {
        match scheme {
            Scheme::Gguf(mix) => Plan::gguf(model, mix),
        }
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    fn gguf(model: &Model, scheme: GgufScheme) -> Result<Plan, ExportError> {
        let mut export = export::to_gguf(model)?;
        write::set(&mut export.entries, "general.file_type", scheme.file_type());
        write::set(&mut export.entries, "general.quantization_version", 2u32);
        let encodings: Vec<Encoding> =
            export.tensors.iter().map(|tensor| encoding(tensor, scheme, model)).collect();
        let tensors: Vec<NewTensor> = export
            .tensors
            .iter()
            .zip(&encodings)
            .map(|(tensor, encoding)| NewTensor {
                name: tensor.name.clone(),
                dtype: match encoding {
                    Encoding::Copy => tensor.source.dtype,
                    Encoding::Blocks(dtype) => *dtype,
                },
                shape: tensor.source.shape.clone(),
            })
            .collect();
        let Layout { header, offsets, len } = write::layout(&export.entries, &tensors);
        let places = offsets.into_iter().zip(tensors.iter().map(|tensor| tensor.bytes() as u64));
        let jobs = export
            .tensors
            .into_iter()
            .zip(encodings)
            .zip(places)
            .map(|((tensor, encoding), (at, len))| Job { tensor, encoding, at, len })
            .collect();
        Ok(Plan { scheme: Scheme::Gguf(scheme), header, jobs, len })
    }
}

fn encoding(tensor: &Exported, scheme: GgufScheme, model: &Model) -> Encoding {
    let usage =
        Use { layer: tensor.layer, roles: &tensor.roles, cols: tensor.cols(), vector: tensor.is_vector() };
    match mix::dtype(scheme, &model.config, usage) {
        Some(dtype) if dtype != tensor.source.dtype => Encoding::Blocks(dtype),
        // Rounding to a type again would only add errors.
        _ => Encoding::Copy,
    }
}
