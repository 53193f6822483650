//! Decides what is done to the matrices of a layer before and while they are rounded, from what a text sends into them.

use half::{bf16, f16};
use wharf_kernels::DType;
use wharf_model::export::Exported;
use wharf_model::{Model, Role};

use super::gptq::Factor;
use super::inputs::Inputs;
use super::layers::{LayerInputs, READERS, reader};
use super::smoothing::{self, Activations, Family, Matrices, SEARCH_ROWS};
use crate::quantize::plan::{Encoding, Job};
use crate::quantize::run::RunError;
use crate::quantize::scheme::{CompressedScheme, GgufScheme, Scheme};
use crate::quantize::worker::read;

/// What calibration does for a scheme. All make errors count by the mean squares of inputs where scales are searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::quantize) struct Method {
    /// Before anything is rounded, inputs are divided and columns multiplied.
    scaling: Option<Family>,
    /// Weights make up for the errors of those before them.
    makes_up: bool,
    activations: Activations,
}

impl Method {
    /// What is done for `scheme`; `None` where text changes nothing.
    pub(in crate::quantize) fn of(scheme: Scheme) -> Option<Method> {
        let method = |scaling, makes_up, activations| Some(Method { scaling, makes_up, activations });
        match scheme {
            Scheme::Gguf(GgufScheme::Q8_0 | GgufScheme::Q6K) | Scheme::Compressed(CompressedScheme::Fp8) => {
                None
            }
            Scheme::Gguf(_) | Scheme::Compressed(CompressedScheme::Int4) => {
                method(None, false, Activations::Floats)
            }
            Scheme::Compressed(kind) => match kind {
                CompressedScheme::Int8 => method(Some(Family::Extremes), true, Activations::Rows),
                CompressedScheme::Int8Static => method(Some(Family::Extremes), true, Activations::Fixed),
                CompressedScheme::Int4Awq => method(Some(Family::Means), false, Activations::Floats),
                _ => method(None, true, Activations::Floats),
            },
        }
    }

    /// Whether it changes a vector of the model: the norms that can take over what inputs are divided by.
    pub(in crate::quantize) fn changes(self, tensor: &Exported) -> bool {
        self.scaling.is_some() && matches!(tensor.roles[..], [Role::AttnNorm | Role::FfnNorm])
    }

    /// Whether it looks at products of every two inputs.
    pub(in crate::quantize) fn needs_products(self) -> bool {
        self.makes_up
    }
}

/// What is decided about the matrices that read the same.
#[derive(Clone, Debug, Default)]
struct Decided {
    /// How much each input matters; empty if nothing is known.
    importance: Vec<f32>,
    /// What inputs are divided by and columns multiplied; empty for nothing.
    scaling: Vec<f32>,
    /// What the rows of the matrix that makes the inputs are divided by; empty if a norm makes them.
    given: Vec<f32>,
    factor: Option<Factor>,
    /// The one scale of all activations.
    fixed: Option<f32>,
}

/// What is decided about a layer; nothing by default.
#[derive(Clone, Debug, Default)]
pub(in crate::quantize) struct Treatment {
    readers: [Decided; 4],
    norm_offset: f32,
}

impl Treatment {
    /// Decides about the layer whose tensors `jobs` write.
    ///
    /// # Errors
    /// When a weight is not finite.
    pub(in crate::quantize) fn decide(
        model: &Model,
        jobs: &[&Job],
        method: Method,
        LayerInputs(mut inputs): LayerInputs,
    ) -> Result<Treatment, RunError> {
        let norm_offset = model.config.norm_offset;
        let mut readers: [Decided; 4] = Default::default();
        for (index, (decided, inputs)) in readers.iter_mut().zip(&mut inputs).enumerate() {
            let matrices: Vec<&Job> = jobs.iter().copied().filter(|job| reads(job, index)).collect();
            if !matrices.is_empty() {
                let giver = Giver::of(model, jobs, index)?;
                *decided = decide(model, &matrices, method, inputs, giver)?;
            }
        }
        Ok(Treatment { readers, norm_offset })
    }

    fn of(&self, tensor: &Exported) -> Option<&Decided> {
        Some(&self.readers[reader(*tensor.roles.first()?)?])
    }

    /// How much each input of a matrix matters; `None` if nothing is known.
    pub(in crate::quantize) fn importance(&self, tensor: &Exported) -> Option<&[f32]> {
        Some(&self.of(tensor)?.importance[..]).filter(|importance| !importance.is_empty())
    }

    /// How weights make up for each other's errors.
    pub(in crate::quantize) fn factor(&self, tensor: &Exported) -> Option<&Factor> {
        self.of(tensor)?.factor.as_ref()
    }

    /// The one scale of the activations that a matrix reads.
    pub(in crate::quantize) fn fixed_scale(&self, tensor: &Exported) -> Option<f32> {
        self.of(tensor)?.fixed
    }

    /// Row `row` of a tensor as it is to be rounded.
    pub(in crate::quantize) fn apply(&self, tensor: &Exported, row: usize, x: &mut [f32]) {
        let [attention, output, gate_up, down] = &self.readers;
        let given = |by: &Decided, x: &mut [f32]| {
            if let Some(divisor) = by.given.get(row) {
                x.iter_mut().for_each(|x| *x /= divisor);
            }
        };
        match tensor.roles[..] {
            [Role::AttnNorm] => self.divide_norm(&attention.scaling, x),
            [Role::FfnNorm] => self.divide_norm(&gate_up.scaling, x),
            [Role::V] => given(output, x),
            [Role::Up] => given(down, x),
            _ => {}
        }
        if let Some(decided) = self.of(tensor) {
            x.iter_mut().zip(&decided.scaling).for_each(|(x, scale)| *x *= scale);
        }
    }

    fn divide_norm(&self, scaling: &[f32], x: &mut [f32]) {
        let offset = self.norm_offset;
        x.iter_mut().zip(scaling).for_each(|(x, scale)| *x = (*x + offset) / scale - offset);
    }
}

fn reads(job: &Job, reader: usize) -> bool {
    !matches!(job.encoding, Encoding::Copy)
        && job.tensor.roles.iter().any(|role| READERS[reader].contains(role))
}

/// Who divides the inputs of matrices.
enum Giver {
    /// A norm, whose weights have a type.
    Norm { weights: Vec<f32>, dtype: DType },
    /// The rows of a matrix, which may be divided by anything: for each input the row that makes it.
    Rows(Vec<usize>),
    /// Nobody can.
    Nobody,
}

impl Giver {
    fn of(model: &Model, jobs: &[&Job], reader: usize) -> Result<Giver, RunError> {
        let config = &model.config;
        let role = [Role::AttnNorm, Role::V, Role::FfnNorm, Role::Up][reader];
        let find = |role: Role| jobs.iter().find(|job| job.tensor.roles[..] == [role]);
        if role == Role::V && find(Role::VBias).is_some() {
            // The bias would have to be divided too, and is stored with few bits.
            return Ok(Giver::Nobody);
        }
        match find(role).map(|job| (job, job.encoding)) {
            Some((_, Encoding::Codes(_))) if role == Role::V => {
                // Attention leaves for each head a mean of the values of its group.
                let (size, group) = (config.head_dim, config.n_heads / config.n_kv_heads);
                let row = |input: usize| input / size / group * size + input % size;
                Ok(Giver::Rows((0..config.n_heads * size).map(row).collect()))
            }
            Some((_, Encoding::Codes(_))) => Ok(Giver::Rows((0..config.ffn_size).collect())),
            Some((job, Encoding::Blocks(dtype))) => {
                let mut weights = Vec::new();
                row(model, &job.tensor, 0, &mut weights)?;
                weights.iter_mut().for_each(|weight| *weight += model.config.norm_offset);
                Ok(Giver::Norm { weights, dtype })
            }
            Some((_, Encoding::Copy)) | None => Ok(Giver::Nobody),
        }
    }

    /// Inputs with one number are divided by the same.
    fn ties(&self, inputs: usize) -> Vec<usize> {
        match self {
            Giver::Rows(rows) => rows.clone(),
            Giver::Norm { .. } | Giver::Nobody => (0..inputs).collect(),
        }
    }

    /// What each row of the giver is divided by.
    fn rows(&self, scaling: &[f32]) -> Vec<f32> {
        let Giver::Rows(rows) = self else { return Vec::new() };
        let mut divisors = vec![1.0; rows.iter().max().map_or(0, |last| last + 1)];
        rows.iter().zip(scaling).for_each(|(row, scale)| divisors[*row] = *scale);
        divisors
    }

    /// The scaling nearest to `wanted` that the giver's own numbers can say without rounding: columns then undo exactly what inputs
    /// are divided by.
    fn exactly(&self, wanted: Vec<f32>, offset: f32) -> Vec<f32> {
        let Giver::Norm { weights, dtype } = self else { return wanted };
        let exact = |(weight, wanted): (&f32, f32)| {
            let said = weight / (near(*dtype, weight / wanted - offset) + offset);
            if said.is_normal() && said > 0.0 { said } else { 1.0 }
        };
        weights.iter().zip(wanted).map(exact).collect()
    }
}

fn near(dtype: DType, x: f32) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(x).to_f32(),
        DType::BF16 => bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

fn decide(
    model: &Model,
    matrices: &[&Job],
    method: Method,
    inputs: &mut Inputs,
    giver: Giver,
) -> Result<Decided, RunError> {
    // Where no scale is stored for all, each row has its own.
    let activations = match method.activations {
        Activations::Fixed if matrices[0].input_scale.is_none() => Activations::Rows,
        other => other,
    };
    let mut decided = Decided { importance: inputs.mean_squares(), ..Decided::default() };
    if let Encoding::Codes(codes) = matrices[0].encoding
        && (method.scaling.is_some() || activations == Activations::Fixed)
    {
        let seen = look(model, matrices)?;
        let scaled = method.scaling.filter(|_| !matches!(giver, Giver::Nobody));
        let scaling = match scaled {
            Some(family) => {
                let round = |row: &mut [f32]| codes.round(row, &codes.scales(row, None));
                let ties = giver.ties(inputs.width());
                let best = smoothing::search(family, &ties, inputs, &seen, activations, &round);
                giver.exactly(best, model.config.norm_offset)
            }
            None => vec![1.0; inputs.width()],
        };
        if activations == Activations::Fixed {
            decided.fixed = Some(smoothing::fixed_scale(inputs, &seen, &scaling));
        }
        decided.importance.iter_mut().zip(&scaling).for_each(|(x, scale)| *x /= scale * scale);
        if scaled.is_some() {
            decided.given = giver.rows(&scaling);
            decided.scaling = scaling;
        }
    }
    if method.makes_up {
        let (mut products, n) = (inputs.take_products(), inputs.width());
        if !decided.scaling.is_empty() {
            for (row, scale) in products.chunks_exact_mut(n).zip(&decided.scaling) {
                row.iter_mut().zip(&decided.scaling).for_each(|(x, other)| *x /= scale * other);
            }
        }
        decided.factor = Some(Factor::new(&products, n));
    }
    Ok(decided)
}

/// Reads all rows of matrices once, and keeps some.
fn look(model: &Model, matrices: &[&Job]) -> Result<Matrices, RunError> {
    let width = matrices[0].tensor.cols();
    let mut seen = Matrices { rows: Vec::new(), most: vec![0.0; width] };
    let mut x = Vec::new();
    for job in matrices {
        let stride = (job.tensor.rows() / SEARCH_ROWS).max(1);
        for index in 0..job.tensor.rows() {
            row(model, &job.tensor, index, &mut x)?;
            seen.most.iter_mut().zip(&x).for_each(|(most, x)| *most = most.max(x.abs()));
            if index.is_multiple_of(stride) {
                seen.rows.extend_from_slice(&x);
            }
        }
    }
    Ok(seen)
}

fn row(model: &Model, tensor: &Exported, row: usize, x: &mut Vec<f32>) -> Result<(), RunError> {
    let bytes = model.weights.bytes(&tensor.source);
    let row_bytes = bytes.len() / tensor.rows();
    read(tensor, row, &bytes[tensor.row(row) * row_bytes..][..row_bytes], x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_undo_exactly_what_a_rounded_norm_divides_by() {
        for offset in [0.0, 1.0] {
            let weights = vec![0.37, -1.2, 0.0, 2.5];
            let giver = Giver::Norm { weights: weights.clone(), dtype: DType::BF16 };
            let scaling = giver.exactly(vec![1.7, 0.3, 2.0, 1.0], offset);
            let treatment = Treatment { norm_offset: offset, ..Treatment::default() };
            let mut norm: Vec<f32> = weights.iter().map(|weight| weight - offset).collect();
            treatment.divide_norm(&scaling, &mut norm);
            for ((stored, scale), weight) in norm.iter().zip(&scaling).zip(&weights) {
                let product = (bf16::from_f32(*stored).to_f32() + offset) * scale;
                assert!((product - weight).abs() <= 1e-6 * weight.abs(), "{product} for {weight}");
            }
            assert!((1.6..1.8).contains(&scaling[0]), "{scaling:?}");
        }
    }
}
