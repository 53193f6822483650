//! Where training computes: CPU cores, or a GPU whose driver is opened only after it was found.
//!
//! The rest of the trainer sees slices of F32; only this file and the network know the framework.

mod cuda;

use burn_autodiff::Autodiff;
use burn_flex::Flex;
use burn_tensor::backend::{AutodiffBackend, Backend};
use burn_tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::data::Window;
use super::error::DistillError;
use super::loss::{LossSums, Objective, Targets, TeacherRow};
use super::network::{Batch, Hidden, Network};
use super::optimizer::Gradients;
use super::parameters::{Key, Parameters};
use wharf_model::{ModelConfig, Role};

/// What to train on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// CPU cores, in F32.
    Cpu,
    /// An NVIDIA GPU, in F32.
    Cuda,
    /// An NVIDIA GPU that computes in BF16; weights and moments stay F32.
    CudaBf16,
}

/// Sequences of one pass, with the token that follows each position.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Micro {
    /// Windows that the sequences are, for caches; none for generated ones.
    pub(super) windows: Vec<u32>,
    pub(super) tokens: Vec<u32>,
    pub(super) targets: Vec<u32>,
    /// Which of the targets count.
    pub(super) learned: Vec<bool>,
    pub(super) length: usize,
}

impl Micro {
    /// From windows that hold one token more than their length.
    pub(super) fn new(windows: &[(u32, Window)]) -> Micro {
        let length = windows[0].1.tokens.len() - 1;
        let mut micro = Micro { length, ..Micro::default() };
        for (window, Window { tokens, learned }) in windows {
            micro.windows.push(*window);
            micro.tokens.extend_from_slice(&tokens[..length]);
            micro.targets.extend_from_slice(&tokens[1..]);
            micro.learned.extend_from_slice(&learned[1..]);
        }
        micro
    }

    fn batch(&self) -> Batch<'_> {
        Batch { tokens: &self.tokens, length: self.length }
    }
}

/// What the teacher says about the positions of a [`Micro`].
pub(super) struct Told {
    pub(super) logits: Lessons,
    /// The residual stream after some layers, `(tokens, hidden)` each.
    pub(super) features: Vec<Vec<f32>>,
}

/// A distribution for each position.
pub(super) enum Lessons {
    Absent,
    /// `(tokens, vocab)`.
    Full(Vec<f32>),
    /// `(tokens, k)` each, at the objective's temperature.
    Top {
        k: usize,
        ids: Vec<u32>,
        log_probs: Vec<f32>,
    },
}

impl Lessons {
    fn row(&self, row: usize, vocab: usize) -> TeacherRow<'_> {
        match self {
            Lessons::Absent => TeacherRow::Absent,
            Lessons::Full(logits) => TeacherRow::Full(&logits[row * vocab..(row + 1) * vocab]),
            Lessons::Top { k, ids, log_probs } => {
                let row = row * k..(row + 1) * k;
                TeacherRow::Top { ids: &ids[row.clone()], log_probs: &log_probs[row] }
            }
        }
    }
}

/// How a step is computed.
pub(super) struct Step<'a> {
    pub(super) objective: Objective,
    /// The part of every target that counts is multiplied by it: one by those of the whole step.
    pub(super) scale: f32,
    pub(super) threads: usize,
    /// Layers of the student whose output is compared with what the teacher told, and the weight of that.
    pub(super) features: &'a [usize],
    pub(super) feature_weight: f32,
}

/// Sums over the targets of a step that count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct StepSums {
    pub(super) loss: LossSums,
    /// Of the mean squared difference of features.
    pub(super) features: f64,
}

/// Hears the logits of consecutive rows.
pub(super) type RowsFn<'a> = dyn FnMut(&[f32]) -> Result<(), DistillError> + 'a;

/// A device that computes passes over weights that are given with each call.
pub(super) trait Compute {
    /// Adds the gradient of a step's sequences to `gradients`, of which empty ones are zeros. `teacher` is asked for one batch after the other.
    fn step(
        &self,
        parameters: &Parameters,
        step: &Step<'_>,
        batches: &[Micro],
        teacher: &mut dyn FnMut(&Micro) -> Result<Told, DistillError>,
        gradients: &mut Gradients,
    ) -> Result<StepSums, DistillError>;

    /// Hands the logits of all positions to `rows`, some rows at a time.
    fn logits(
        &self,
        parameters: &Parameters,
        batch: &Micro,
        rows: &mut RowsFn<'_>,
    ) -> Result<(), DistillError>;

    /// The residual stream after `layers`.
    fn features(&self, parameters: &Parameters, batch: &Micro, layers: &[usize]) -> Vec<Vec<f32>>;
}

/// Opens a device.
pub(super) fn open(device: Device) -> Result<Box<dyn Compute>, DistillError> {
    match device {
        Device::Cpu => Ok(Box::new(On::<Flex> { device: Default::default() })),
        Device::Cuda => cuda::open_f32(),
        Device::CudaBf16 => cuda::open_bf16(),
    }
}

/// The devices that this machine has, for `auto`.
pub fn best_device() -> Device {
    if cuda::missing().is_none() { Device::CudaBf16 } else { Device::Cpu }
}

/// Rows whose logits are in memory at a time.
const ROWS: usize = 512;

/// A device of one of the framework's backends.
struct On<B: Backend> {
    device: B::Device,
}

impl<B: Backend> Compute for On<B> {
    fn step(
        &self,
        parameters: &Parameters,
        step: &Step<'_>,
        batches: &[Micro],
        teacher: &mut dyn FnMut(&Micro) -> Result<Told, DistillError>,
        gradients: &mut Gradients,
    ) -> Result<StepSums, DistillError> {
        let network = Network::<Autodiff<B>>::new(parameters, &self.device, Tensor::require_grad);
        let mut sums = StepSums::default();
        for batch in batches {
            let told = teacher(batch)?;
            let Hidden { last, after } = network.forward(batch.batch(), step.features);
            let head =
                self.head(&parameters.config, &network, last.clone().inner(), step, batch, &told.logits);
            sums.loss.divergence += head.sums.divergence;
            sums.loss.ce += head.sums.ce;
            // A product with the known derivative has that derivative, and is all that the framework must see.
            let mut surrogate = (last * Tensor::from_inner(head.d_hidden)).sum();
            for (student, teacher) in after.into_iter().zip(&told.features) {
                let target = self.upload::<Autodiff<B>>(teacher.clone(), student.dims());
                let mut distances = (student - target).powi_scalar(2).mean_dim(1);
                if !batch.learned.iter().all(|learned| *learned) {
                    let counts = batch.learned.iter().map(|learned| f32::from(*learned)).collect();
                    distances = distances * self.upload::<Autodiff<B>>(counts, [batch.learned.len(), 1]);
                }
                let distance = distances.sum();
                sums.features += f64::from(
                    distance
                        .clone()
                        .inner()
                        .into_data()
                        .convert::<f32>()
                        .as_slice::<f32>()
                        .expect("converted above")[0],
                );
                surrogate = surrogate + distance.mul_scalar(step.feature_weight * step.scale);
            }
            let mut derivatives = surrogate.backward();
            let mut d_output = Some(head.d_output);
            for (parameter, gradient) in parameters.list.iter().zip(&mut *gradients) {
                if let Some(derivative) = network.weights[&parameter.key].grad_remove(&mut derivatives) {
                    add(gradient, derivative);
                }
                if let Some(d_output) = d_output.take_if(|_| parameter.key == output_key(&parameters.config))
                {
                    add(gradient, d_output);
                }
            }
        }
        Ok(sums)
    }

    fn logits(
        &self,
        parameters: &Parameters,
        batch: &Micro,
        rows: &mut RowsFn<'_>,
    ) -> Result<(), DistillError> {
        let network = Network::<B>::new(parameters, &self.device, |weight| weight);
        let hidden = network.forward(batch.batch(), &[]).last;
        let output = network.output().transpose();
        for first in (0..batch.tokens.len()).step_by(ROWS) {
            let count = ROWS.min(batch.tokens.len() - first);
            let mut logits = numbers(hidden.clone().narrow(0, first, count).matmul(output.clone()));
            finish(&parameters.config, &mut logits);
            rows(&logits)?;
        }
        Ok(())
    }

    fn features(&self, parameters: &Parameters, batch: &Micro, layers: &[usize]) -> Vec<Vec<f32>> {
        let network = Network::<B>::new(parameters, &self.device, |weight| weight);
        network.forward(batch.batch(), layers).after.into_iter().map(numbers).collect()
    }
}

/// Gradient of the output projection and of its input.
struct Head<B: Backend> {
    sums: LossSums,
    d_hidden: Tensor<B, 2>,
    d_output: Tensor<B, 2>,
}

impl<B: Backend> On<B> {
    fn upload<A: Backend<Device = B::Device>>(&self, data: Vec<f32>, shape: [usize; 2]) -> Tensor<A, 2> {
        Tensor::from_data(TensorData::new(data, shape).convert::<A::FloatElem>(), &self.device)
    }

    fn head<A: AutodiffBackend<InnerBackend = B>>(
        &self,
        config: &ModelConfig,
        network: &Network<'_, A>,
        hidden: Tensor<B, 2>,
        step: &Step<'_>,
        batch: &Micro,
        lessons: &Lessons,
    ) -> Head<B> {
        let output = network.output().inner();
        let mut sums = LossSums::default();
        let mut d_hidden = Vec::new();
        let mut d_output: Option<Tensor<B, 2>> = None;
        for first in (0..batch.targets.len()).step_by(ROWS) {
            let count = ROWS.min(batch.targets.len() - first);
            let input = hidden.clone().narrow(0, first, count);
            let mut logits = numbers(input.clone().matmul(output.clone().transpose()));
            finish(config, &mut logits);
            let capped = config.logit_softcap.map(|_| logits.clone());
            let targets = Targets {
                tokens: &batch.targets[first..first + count],
                learned: &batch.learned[first..first + count],
            };
            let teacher = |row: usize| lessons.row(first + row, config.vocab_size);
            let part = step.objective.differentiate(&mut logits, targets, &teacher, step.scale, step.threads);
            sums.divergence += part.divergence;
            sums.ce += part.ce;
            unfinish(config, &mut logits, capped.as_deref());
            let derivative = self.upload::<B>(logits, [count, config.vocab_size]);
            d_hidden.push(derivative.clone().matmul(output.clone()));
            let part = derivative.transpose().matmul(input);
            d_output = Some(match d_output {
                Some(sum) => sum + part,
                None => part,
            });
        }
        let d_output = d_output.expect("a batch has at least one token");
        Head { sums, d_hidden: Tensor::cat(d_hidden, 0), d_output }
    }
}

/// Scales and caps logits as the architecture wants.
fn finish(config: &ModelConfig, logits: &mut [f32]) {
    if config.logit_scale != 1.0 {
        logits.iter_mut().for_each(|z| *z *= config.logit_scale);
    }
    if let Some(cap) = config.logit_softcap {
        logits.iter_mut().for_each(|z| *z = cap * (*z / cap).tanh());
    }
}

/// Turns the derivative by finished logits into that by raw ones.
fn unfinish(config: &ModelConfig, derivative: &mut [f32], capped: Option<&[f32]>) {
    if let (Some(cap), Some(capped)) = (config.logit_softcap, capped) {
        derivative.iter_mut().zip(capped).for_each(|(d, y)| *d *= 1.0 - (y / cap) * (y / cap));
    }
    if config.logit_scale != 1.0 {
        derivative.iter_mut().for_each(|d| *d *= config.logit_scale);
    }
}

/// The weight that is the output projection.
fn output_key(config: &ModelConfig) -> Key {
    Key { layer: None, role: if config.tied_embeddings { Role::TokenEmbedding } else { Role::Output } }
}

fn numbers<B: Backend>(tensor: Tensor<B, 2>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().into_vec().expect("converted to this type")
}

/// Adds `part` to `sum`, which is nothing yet when it is empty.
fn add<B: Backend>(sum: &mut Vec<f32>, part: Tensor<B, 2>) {
    let part = numbers(part);
    if sum.is_empty() {
        *sum = part;
    } else {
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
}
