//! Decides what is checked: models of random weights, written on the spot, whose logits the CPU backend gives too.
//!
//! Together they launch every kernel: all formats of weights, for few tokens and many, heads of every size, windows, split attention and whole, and
//! each pass of single tokens launched, recorded and replayed.

use std::error::Error;
use std::path::Path;

use wharf_cuda::driver::Gpu;
use wharf_cuda::{CudaBackend, CudaOptions};
use wharf_engine::cpu::{CpuBackend, CpuOptions, KvType};
use wharf_engine::{Backend, BackendError};
use wharf_kernels::DType;
use wharf_model::Model;
use wharf_testkit::TinyModel;

use crate::compare::{conversation, crowd, divergence, largest, long, same};
use crate::report::{Check, because};

const KV_TOKENS: usize = 4096;
const MAX_BATCH_TOKENS: usize = 160;

/// A model, and what it is asked beside a conversation of two.
struct Case {
    name: String,
    model: TinyModel,
    /// Sequences that decode together.
    crowds: &'static [u32],
    /// Tokens of a long prompt; 0 for none.
    long: usize,
}

/// How far logits may be from those of the CPU backend with keys and values of single precision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bar {
    /// Mean KL divergence.
    pub(crate) kl: f64,
    /// Largest difference, of the largest logit.
    pub(crate) largest: f64,
}

/// Weights in half precision are what the CPU multiplies with too. bfloat16 has three bits less, in activations too. Where weights are integers the CPU rounds
/// activations to integers, and is further from the truth than the GPU.
pub(crate) fn bar(dtype: DType) -> Bar {
    match dtype {
        DType::F32 | DType::F16 => Bar { kl: 1e-5, largest: 0.02 },
        DType::BF16 => Bar { kl: 1e-3, largest: 0.1 },
        _ => Bar { kl: 3e-3, largest: 0.2 },
    }
}

/// What the fake can do in seconds: a type of each kind, two sizes of heads.
fn smallest() -> Vec<Case> {
    let tiny = |dtype| TinyModel { dtype, embedding_dtype: dtype, n_layers: 1, ..TinyModel::default() };
    let wide = TinyModel { n_heads: 1, n_kv_heads: 1, window: Some(33), ..tiny(DType::BF16) };
    let models = [tiny(DType::F16), wide, tiny(DType::Q4_0)];
    models.into_iter().map(|model| Case { name: name(&model), model, crowds: &[3], long: 0 }).collect()
}

fn all() -> Vec<Case> {
    const CROWDS: &[u32] = &[1, 3, 9, 20, 40];
    let mut models = Vec::new();
    let base = TinyModel { noise: true, hidden_size: 256, ffn_size: 512, ..TinyModel::default() };
    for dtype in DType::ALL {
        models.push(TinyModel { dtype, embedding_dtype: dtype, ..base.clone() });
    }
    // Every size of heads that attention is compiled for, and two that are filled up to the next.
    for head in [32, 64, 80, 96, 112, 128, 192, 256] {
        let hidden_size = 4 * head;
        models.push(TinyModel {
            dtype: DType::F16,
            embedding_dtype: DType::F16,
            hidden_size,
            ..base.clone()
        });
    }
    // Groups of 16 query heads, more than fit a tile, and one.
    for (n_heads, n_kv_heads) in [(16, 1), (32, 1), (4, 4)] {
        let hidden_size = 64 * n_heads;
        models.push(TinyModel { dtype: DType::F16, hidden_size, n_heads, n_kv_heads, ..base.clone() });
    }
    for window in [17, 100] {
        models.push(TinyModel { dtype: DType::F16, window: Some(window), ..base.clone() });
    }
    let mut cases: Vec<Case> =
        models.into_iter().map(|model| Case { name: name(&model), model, crowds: CROWDS, long: 0 }).collect();
    // Heads and widths as large models have them, and contexts that attention is split for.
    for dtype in [DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0] {
        let model = TinyModel {
            dtype,
            embedding_dtype: dtype,
            hidden_size: 2048,
            ffn_size: 4096,
            n_heads: 16,
            n_kv_heads: 8,
            context_length: 4096,
            vocab_size: 4096,
            tied: false,
            ..base.clone()
        };
        cases.push(Case { name: format!("{}, wide", name(&model)), model, crowds: CROWDS, long: 2000 });
    }
    cases
}

fn name(model: &TinyModel) -> String {
    let window = model.window.map(|window| format!(", window {window}")).unwrap_or_default();
    format!(
        "{}, {} heads of {} on {}{window}",
        model.dtype,
        model.n_heads,
        model.hidden_size / model.n_heads,
        model.n_kv_heads
    )
}

/// Checks one after the other; `say` hears of each. A lost GPU ends them.
pub(crate) fn run(index: usize, small: bool, folder: &Path, say: &mut dyn FnMut(&Check)) -> Vec<Check> {
    let cases = if small { smallest() } else { all() };
    let mut checks = Vec::new();
    for case in cases {
        let bar = bar(case.model.dtype);
        let check = match check(index, &case, folder) {
            Ok(found) => Check::of(&case.name, found, bar),
            Err(error) => Check::failed(&case.name, bar, because(&*error)),
        };
        say(&check);
        checks.push(check);
    }
    checks
}

/// What was found of one model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) kl: f64,
    /// Largest difference, of the largest logit.
    pub(crate) largest: f64,
    /// Whether all was the same to the bit the second time.
    pub(crate) again: bool,
    /// Whether a recorded pass gave the bits of a launched one.
    pub(crate) replayed: bool,
}

fn check(index: usize, case: &Case, folder: &Path) -> Result<Found, Box<dyn Error>> {
    let path = folder.join("check.gguf");
    case.model.write(&path)?;
    let options = CpuOptions {
        kv_tokens: KV_TOKENS,
        kv_type: KvType::F32,
        max_batch_tokens: MAX_BATCH_TOKENS,
        ..CpuOptions::default()
    };
    let mut cpu = CpuBackend::load(Model::open(&path)?, &options, &mut |_, _| {})?;
    let options =
        CudaOptions { kv_tokens: KV_TOKENS, max_batch_tokens: MAX_BATCH_TOKENS, threads: options.threads };
    let mut cuda = CudaBackend::load(Gpu::open(index)?, Model::open(&path)?, &options, &mut |_, _| {})?;
    let expected = case.ask(&mut cpu)?;
    let found = case.ask(&mut cuda)?;
    let again = same_bits(&case.ask(&mut cuda)?, &found);
    let [launched, recorded, replayed] = same(&mut cuda)?;
    let replayed = cuda.graphs() > 0 && same_bits(&launched, &recorded) && same_bits(&launched, &replayed);
    let most = expected.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
    let largest = f64::from(largest(&expected, &found) / most);
    Ok(Found { kl: divergence(&expected, &found, cuda.vocab_size()), largest, again, replayed })
}

impl Case {
    fn ask(&self, backend: &mut dyn Backend) -> Result<Vec<f32>, BackendError> {
        let mut all = Vec::new();
        for count in self.crowds {
            all.extend(crowd(backend, *count, 3)?);
        }
        if self.long > 0 {
            all.extend(long(backend, self.long, 4)?);
        }
        // Last, so that what `same` reads is there.
        all.extend(conversation(backend)?);
        Ok(all)
    }
}

/// Not equality: what is no number is the same bits too, and zeros of both signs are not.
fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}
