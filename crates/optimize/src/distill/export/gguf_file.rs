//! Writes a student that is a folder already as one GGUF file: names, rows and metadata as llama.cpp wants them, numbers in F32.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write};
use std::path::Path;

use wharf_model::export::{Exported, GgufExport, to_gguf_with};
use wharf_model::gguf::write::{Entry, Layout, NewTensor, layout, set};

use crate::distill::error::DistillError;
use crate::distill::student;

/// Every tensor is F32 (`llama_ftype`).
const ALL_F32: u32 = 0;
/// Bytes of a number.
const NUMBER: usize = 4;

/// The folder `from` as the file `to`, which calls the model `name` and has `text` for its text side.
pub(super) fn write(from: &Path, to: &Path, name: &str, text: Vec<Entry>) -> Result<(), DistillError> {
    let model = student::open(from, "student")?;
    let GgufExport { mut entries, tensors } =
        to_gguf_with(&model, text).map_err(|source| DistillError::Export { source })?;
    set(&mut entries, "general.name", name);
    set(&mut entries, "general.file_type", ALL_F32);
    let new: Vec<NewTensor> = tensors
        .iter()
        .map(|tensor| NewTensor {
            name: tensor.name.clone(),
            dtype: tensor.source.dtype,
            shape: tensor.source.shape.clone(),
        })
        .collect();
    let Layout { header, offsets, len } = layout(&entries, &new);
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create(to)?);
        file.get_ref().set_len(len)?;
        file.write_all(&header)?;
        for (tensor, offset) in tensors.iter().zip(offsets) {
            file.seek(SeekFrom::Start(offset))?;
            rows(tensor, model.weights.bytes(&tensor.source), &mut file)?;
        }
        file.flush()
    };
    write().map_err(DistillError::write(to))
}

/// The rows of a tensor where they go; of a vector, its numbers.
fn rows(tensor: &Exported, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
    let (rows, width) = match tensor.is_vector() {
        true => (tensor.cols(), NUMBER),
        false => (tensor.rows(), tensor.cols() * NUMBER),
    };
    (0..rows).try_for_each(|row| out.write_all(&bytes[tensor.row(row) * width..][..width]))
}
