//! Decides what is written: every tensor with its type and place, before any number is read.

use serde_json::{Map, Value};
use wharf_kernels::DType;
use wharf_model::export::{self, ExportError, Exported, HfExport};
use wharf_model::gguf::write as gguf;
use wharf_model::safetensors::write as safetensors;
use wharf_model::{Model, Role, Source};

use super::calibrated::Method;
use super::codes::Codes;
use super::mix::{self, Use};
use super::scheme::{CompressedScheme, GgufScheme, Kind, Scheme};

/// One tensor to be written.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) tensor: Exported,
    pub(super) encoding: Encoding,
    /// Which file it goes into.
    pub(super) file: usize,
    /// Where it goes; codes come before their scales.
    pub(super) parts: Vec<Part>,
    /// Where the one scale of the activations goes that are multiplied with it, a number in single precision.
    pub(super) input_scale: Option<u64>,
}

impl Job {
    /// Bytes in the new file.
    pub(super) fn bytes(&self) -> u64 {
        let rows = self.tensor.rows() as u64;
        self.parts.iter().map(|part| rows * part.row_bytes).sum()
    }
}

/// Rows that follow each other in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// First byte in the file.
    pub(super) at: u64,
    pub(super) row_bytes: u64,
}

/// How a tensor is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Its bytes as they are.
    Copy,
    /// Row by row as blocks of a type.
    Blocks(DType),
    /// Row by row as codes, and their scales apart.
    Codes(Codes),
}

/// Everything that is written, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(super) scheme: Scheme,
    pub(super) jobs: Vec<Job>,
    pub(super) files: Vec<Weights>,
    /// Other files of a folder; `None` when the only file with weights is all.
    pub(super) beside: Option<Vec<(String, Vec<u8>)>>,
}

/// A file with weights.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    /// Its name in the folder; `None` when there is none.
    pub(super) name: Option<String>,
    /// What it begins with.
    pub(super) header: Vec<u8>,
    /// Bytes that do not depend on weights, by their place.
    pub(super) fixed: Vec<(u64, Vec<u8>)>,
    /// Its bytes.
    pub(super) len: u64,
}

/// A tensor and what it becomes in a folder.
struct Draft {
    tensor: Exported,
    encoding: Encoding,
    new: Vec<safetensors::NewTensor>,
}

impl Draft {
    fn bytes(&self) -> u64 {
        self.new.iter().map(|new| new.bytes).sum()
    }
}

impl Plan {
    /// What `scheme` makes of `model`.
    ///
    /// # Errors
    /// When the model cannot be written in the scheme's format.
    pub fn new(model: &Model, scheme: Scheme) -> Result<Plan, ExportError> {
        Plan::in_files(model, scheme, safetensors::MOST_BYTES)
    }

    /// As [`Plan::new`]; in a folder another file begins after `most` bytes.
    pub(super) fn in_files(model: &Model, scheme: Scheme, most: u64) -> Result<Plan, ExportError> {
        match scheme {
            Scheme::Gguf(mix) => Plan::gguf(model, mix),
            Scheme::Compressed(kind) => Plan::compressed(model, kind, most),
        }
    }

    fn gguf(model: &Model, scheme: GgufScheme) -> Result<Plan, ExportError> {
        let mut export = export::to_gguf(model)?;
        gguf::set(&mut export.entries, "general.file_type", scheme.file_type());
        gguf::set(&mut export.entries, "general.quantization_version", 2u32);
        let new: Vec<(Encoding, gguf::NewTensor)> = export
            .tensors
            .iter()
            .map(|tensor| {
                let (encoding, dtype) = blocks(tensor, mix_type(tensor, scheme, model));
                let shape = tensor.source.shape.clone();
                (encoding, gguf::NewTensor { name: tensor.name.clone(), dtype, shape })
            })
            .collect();
        let (encodings, tensors): (Vec<_>, Vec<_>) = new.into_iter().unzip();
        let gguf::Layout { header, offsets, len } = gguf::layout(&export.entries, &tensors);
        let places = offsets.into_iter().zip(&tensors);
        let jobs = export
            .tensors
            .into_iter()
            .zip(encodings)
            .zip(places)
            .map(|((tensor, encoding), (at, new))| {
                let parts = vec![Part { at, row_bytes: (new.bytes() / tensor.rows()) as u64 }];
                Job { tensor, encoding, file: 0, parts, input_scale: None }
            })
            .collect();
        let file = Weights { name: None, header, fixed: Vec::new(), len };
        Ok(Plan { scheme: Scheme::Gguf(scheme), jobs, files: vec![file], beside: None })
    }

    fn compressed(model: &Model, kind: CompressedScheme, most: u64) -> Result<Plan, ExportError> {
        let HfExport { mut config, files: mut beside, tensors } = export::to_hf(model)?;
        let group = group(&tensors, kind);
        let from_gguf = matches!(model.source, Source::Gguf(_));
        let mut drafts: Vec<Draft> = Vec::new();
        for tensor in tensors {
            let encoding = match is_linear(&tensor) {
                true => Encoding::Codes(Codes { kind, group: group.unwrap_or(tensor.cols()) }),
                // Calibration may change what activations are divided by.
                false
                    if Method::of(Scheme::Compressed(kind)).is_some_and(|method| method.changes(&tensor)) =>
                {
                    let dtype = if from_gguf { DType::BF16 } else { tensor.source.dtype };
                    Encoding::Blocks(dtype)
                }
                // A GGUF file keeps norms in single precision, where this format has one type for all that is not quantised.
                false if from_gguf => blocks(&tensor, Some(DType::BF16)).0,
                false => Encoding::Copy,
            };
            let new = new_tensors(&tensor, encoding);
            drafts.push(Draft { tensor, encoding, new });
        }
        let shared = safetensors::shared(&drafts.iter().map(Draft::bytes).collect::<Vec<_>>(), most);
        let names = safetensors::file_names(shared.len());
        if shared.len() > 1 {
            let places = shared.iter().zip(&names).flat_map(|(shared, name)| {
                drafts[shared.clone()]
                    .iter()
                    .flat_map(|draft| &draft.new)
                    .map(move |new| (name.as_str(), new))
            });
            beside.push((safetensors::INDEX.into(), safetensors::index(places)));
        }
        let (mut files, mut jobs) = (Vec::new(), Vec::new());
        for (shared, name) in shared.into_iter().zip(names) {
            let new: Vec<_> = drafts[shared.clone()].iter().flat_map(|draft| draft.new.clone()).collect();
            let safetensors::Layout { header, offsets, len } = safetensors::layout(&new);
            let (mut offsets, mut fixed) = (offsets.as_slice(), Vec::new());
            for draft in &drafts[shared] {
                let (own, rest) = offsets.split_at(draft.new.len());
                jobs.push(job(draft, files.len(), own, &mut fixed));
                offsets = rest;
            }
            files.push(Weights { name: Some(name), header, fixed, len });
        }
        config.insert("quantization_config".into(), description(kind, group));
        beside.push(("config.json".into(), pretty(config)));
        Ok(Plan { scheme: Scheme::Compressed(kind), jobs, files, beside: Some(beside) })
    }
}

/// What is to do for a draft whose tensors are at `offsets` of a file; what does not depend on weights goes to `fixed`.
fn job(draft: &Draft, file: usize, offsets: &[u64], fixed: &mut Vec<(u64, Vec<u8>)>) -> Job {
    let Draft { tensor, encoding, new } = draft;
    let (rows, cols) = (tensor.rows() as u64, tensor.cols());
    let mut input_scale = None;
    let parts = match encoding {
        Encoding::Codes(codes) => {
            input_scale = has_input_scale(tensor, *codes).then(|| offsets[2]);
            if codes.kind.is_packed() {
                let shape = [rows, cols as u64].map(u64::to_le_bytes);
                fixed.push((offsets[2], shape.concat()));
            }
            vec![
                Part { at: offsets[0], row_bytes: codes.code_bytes(cols) as u64 },
                Part { at: offsets[1], row_bytes: codes.scale_bytes(cols) as u64 },
            ]
        }
        _ => vec![Part { at: offsets[0], row_bytes: new[0].bytes / rows }],
    };
    Job { tensor: tensor.clone(), encoding: *encoding, file, parts, input_scale }
}

fn pretty(object: Map<String, Value>) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(&Value::Object(object)).expect("JSON values can be written");
    text.push(b'\n');
    text
}

fn mix_type(tensor: &Exported, scheme: GgufScheme, model: &Model) -> Option<DType> {
    let usage =
        Use { layer: tensor.layer, roles: &tensor.roles, cols: tensor.cols(), vector: tensor.is_vector() };
    mix::dtype(scheme, &model.config, usage)
}

/// Blocks of a type, or a copy where it has that type: rounding to it again would only add errors.
fn blocks(tensor: &Exported, dtype: Option<DType>) -> (Encoding, DType) {
    match dtype {
        Some(dtype) if dtype != tensor.source.dtype => (Encoding::Blocks(dtype), dtype),
        _ => (Encoding::Copy, tensor.source.dtype),
    }
}

/// Whether a tensor is a matrix of a layer: what Transformers calls a linear layer, without the output projection.
fn is_linear(tensor: &Exported) -> bool {
    const LINEAR: [Role; 7] = [Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down];
    !tensor.roles.is_empty() && tensor.roles.iter().all(|role| LINEAR.contains(role))
}

/// Inputs that share a scale in every matrix; `None` for a scale for each output. 128 unless a matrix has rows of another length.
fn group(tensors: &[Exported], kind: CompressedScheme) -> Option<usize> {
    if kind.codes() != Kind::Int4 {
        return None;
    }
    let divides_all = |group: &usize| {
        tensors.iter().filter(|tensor| is_linear(tensor)).all(|tensor| tensor.cols().is_multiple_of(*group))
    };
    [128, 64, 32].into_iter().find(divides_all)
}

/// Whether one scale is stored for all activations that a matrix reads. What goes into the down projection is scaled for each token
/// even where all else is static: the first tokens of a text are a thousand times as large there as the others, in some layers
/// ("massive activations", Sun et al. 2024, arXiv:2402.17762), and one scale would leave the others nothing.
fn has_input_scale(tensor: &Exported, codes: Codes) -> bool {
    codes.kind == CompressedScheme::Int8Static && !tensor.roles.contains(&Role::Down)
}

/// The tensors of the file that stand for one of the model.
fn new_tensors(tensor: &Exported, encoding: Encoding) -> Vec<safetensors::NewTensor> {
    let new = |name: String, dtype, shape: Vec<usize>, bytes: usize| safetensors::NewTensor {
        name,
        dtype,
        shape,
        bytes: bytes as u64,
    };
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let codes = match encoding {
        Encoding::Codes(codes) => codes,
        Encoding::Copy | Encoding::Blocks(_) => {
            let dtype = match encoding {
                Encoding::Blocks(dtype) => dtype,
                _ => tensor.source.dtype,
            };
            let bytes = rows * dtype.bytes_for(cols).expect("floats fill rows of any length");
            return vec![new(tensor.name.clone(), float_name(dtype), tensor.source.shape.clone(), bytes)];
        }
    };
    let module = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
    let (part, dtype, width) = match (codes.kind.is_packed(), codes.kind.codes()) {
        (true, _) => ("weight_packed", "I32", codes.code_bytes(cols) / 4),
        (false, Kind::Fp8) => ("weight", "F8_E4M3", cols),
        (false, Kind::Int8 | Kind::Int4) => ("weight", "I8", cols),
    };
    let mut all = vec![
        new(format!("{module}.{part}"), dtype, vec![rows, width], rows * codes.code_bytes(cols)),
        new(
            format!("{module}.weight_scale"),
            "BF16",
            vec![rows, cols / codes.group],
            rows * codes.scale_bytes(cols),
        ),
    ];
    if codes.kind.is_packed() {
        all.push(new(format!("{module}.weight_shape"), "I64", vec![2], 16));
    }
    if has_input_scale(tensor, codes) {
        all.push(new(format!("{module}.input_scale"), "F32", vec![1], 4));
    }
    all
}

fn float_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        other => unreachable!("{other} is no type of floats"),
    }
}

/// `quantization_config` of config.json.
fn description(kind: CompressedScheme, group: Option<usize>) -> Value {
    use serde_json::json;
    let (bits, number) = match kind.codes() {
        Kind::Int8 => (8, "int"),
        Kind::Int4 => (4, "int"),
        Kind::Fp8 => (8, "float"),
    };
    let format = if kind.is_packed() { "pack-quantized".into() } else { format!("{number}-quantized") };
    let activations = |strategy: &str, dynamic: bool| json!({"num_bits": 8, "type": number, "symmetric": true, "strategy": strategy, "dynamic": dynamic});
    let weights = json!({
        "num_bits": bits, "type": number, "symmetric": true, "dynamic": false,
        "strategy": if group.is_some() { "group" } else { "channel" }, "group_size": group,
    });
    let group = |targets: &[&str], activations: Value| {
        json!({
            "targets": targets,
            "weights": weights,
            "input_activations": activations,
            "output_activations": null,
        })
    };
    let groups = match kind {
        CompressedScheme::Int8 | CompressedScheme::Fp8 => {
            json!({"group_0": group(&["Linear"], activations("token", true))})
        }
        // See `has_input_scale`.
        CompressedScheme::Int8Static => json!({
            "group_0": group(&["re:.*self_attn.*", "re:.*(gate|up)_proj$"], activations("tensor", false)),
            "group_1": group(&["re:.*down_proj$"], activations("token", true)),
        }),
        _ => json!({"group_0": group(&["Linear"], Value::Null)}),
    };
    json!({
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": format,
        "ignore": ["lm_head"],
        "kv_cache_scheme": null,
        "config_groups": groups,
    })
}
