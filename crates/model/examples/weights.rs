//! Writes every weight of a model as the engine reads it, for comparison with other readers of the same files.
//!
//! `weights MODEL OUT`: OUT becomes a safetensors file of single precision floats under the names of the model's own files.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use wharf_kernels::block;
use wharf_model::safetensors::write::{NewTensor, layout};
use wharf_model::{Model, StoredTensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, out] = arguments.as_slice() else { return Err("usage: weights MODEL OUT".into()) };
    let weights = Model::open(Path::new(model))?.weights;
    let new = |tensor: &StoredTensor| NewTensor {
        name: tensor.name.clone(),
        dtype: "F32",
        shape: tensor.shape.clone(),
        bytes: 4 * tensor.elements() as u64,
    };
    let mut out = BufWriter::new(File::create(out)?);
    out.write_all(&layout(&weights.tensors().map(new).collect::<Vec<_>>()).header)?;
    let mut values = Vec::new();
    for tensor in weights.tensors() {
        values.resize(tensor.elements(), 0.0);
        block::dequantize(tensor.dtype, weights.bytes(tensor), &mut values)?;
        for value in &values {
            out.write_all(&value.to_le_bytes())?;
        }
    }
    Ok(out.flush()?)
}
