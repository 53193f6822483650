//! Decides what one thread does with a slab: read its rows, round them, write them where the plan says.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use half::bf16;
use wharf_kernels::block;
use wharf_model::Model;
use wharf_model::export::{Exported, RowOrder};

use super::blocks::{self, Row};
use super::calibrated::Treatment;
use super::codes::Codes;
use super::disk::Disk;
use super::plan::{Encoding, Plan};
use super::run::{RunError, RunOptions};

/// Elements that a thread takes at once, as whole rows.
const SLAB_ELEMENTS: usize = 1 << 17;

/// Rows of one tensor.
pub(super) struct Slab {
    pub(super) job: usize,
    rows: Range<usize>,
}

impl Slab {
    pub(super) fn elements(&self, plan: &Plan) -> u64 {
        (self.rows.len() * plan.jobs[self.job].tensor.cols()) as u64
    }

    /// What is written of it.
    pub(super) fn bytes(&self, plan: &Plan) -> u64 {
        plan.jobs[self.job].parts.iter().map(|part| part.row_bytes * self.rows.len() as u64).sum()
    }
}

/// All slabs of some jobs, in their order.
pub(super) fn slabs(plan: &Plan, jobs: &[usize]) -> Vec<Slab> {
    let mut slabs = Vec::new();
    for index in jobs.iter().copied() {
        let job = &plan.jobs[index];
        let rows = job.tensor.rows();
        let step = (SLAB_ELEMENTS / job.tensor.cols()).max(1);
        slabs.extend(
            (0..rows).step_by(step).map(|first| Slab { job: index, rows: first..rows.min(first + step) }),
        );
    }
    slabs
}

/// Sums of squares over rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Errors {
    of_errors: f64,
    of_weights: f64,
}

impl Errors {
    pub(super) fn add(&mut self, other: Errors) {
        self.of_errors += other.of_errors;
        self.of_weights += other.of_weights;
    }

    /// Root of the mean square error, divided by the root of the mean square of the weights.
    pub(super) fn relative(self) -> f64 {
        if self.of_weights > 0.0 { (self.of_errors / self.of_weights).sqrt() } else { 0.0 }
    }
}

pub(super) struct Worker<'a> {
    pub(super) model: &'a Model,
    pub(super) plan: &'a Plan,
    pub(super) disk: &'a Disk,
    pub(super) options: RunOptions<'a>,
    /// What calibration has decided about the layer.
    pub(super) treatment: &'a Treatment,
    /// Set when another worker has failed.
    pub(super) halt: &'a AtomicBool,
}

/// Memory of a worker, kept from slab to slab.
#[derive(Default)]
struct Scratch {
    x: Vec<f32>,
    back: Vec<f32>,
    /// Rows of a slab before and after rounding, where rounding looks at several at once.
    rows: [Vec<f32>; 2],
    /// Bytes for each part of the job.
    out: [Vec<u8>; 2],
}

impl Worker<'_> {
    pub(super) fn run(
        &self,
        next: &AtomicUsize,
        slabs: &[Slab],
        results: &Sender<(usize, Result<Errors, RunError>)>,
    ) {
        let mut scratch = Scratch::default();
        while !self.halt.load(Ordering::Relaxed) && !self.options.stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(slab) = slabs.get(index) else { return };
            let outcome = self.slab(slab, &mut scratch);
            // Nobody listens only when the run is over.
            if results.send((index, outcome)).is_err() {
                return;
            }
        }
    }

    fn slab(&self, slab: &Slab, scratch: &mut Scratch) -> Result<Errors, RunError> {
        let job = &self.plan.jobs[slab.job];
        let tensor = &job.tensor;
        let Scratch { x, back, rows, out } = scratch;
        out.iter_mut().for_each(Vec::clear);
        back.resize(tensor.cols(), 0.0);
        rows[0].clear();
        let importance = self.treatment.importance(tensor);
        let bytes = self.model.weights.bytes(&tensor.source);
        let row_bytes = bytes.len() / tensor.rows();
        let mut errors = Errors::default();
        for row in slab.rows.clone() {
            let from = &bytes[tensor.row(row) * row_bytes..][..row_bytes];
            match job.encoding {
                Encoding::Copy => {
                    if tensor.source.dtype.block_len() == 1 {
                        read(tensor, row, from, x)?;
                    }
                    copy(tensor, from, &mut out[0]);
                }
                Encoding::Blocks(dtype) => {
                    read(tensor, row, from, x)?;
                    self.treatment.apply(tensor, row, x);
                    let len = job.parts[0].row_bytes as usize;
                    let start = out[0].len();
                    out[0].resize(start + len, 0);
                    let new = &mut out[0][start..];
                    blocks::encode(dtype, Row { x, importance }, new);
                    block::dequantize(dtype, new, back).expect("a row of the new type");
                    errors.add(compare(x, back));
                }
                Encoding::Codes(codes) => {
                    read(tensor, row, from, x)?;
                    self.treatment.apply(tensor, row, x);
                    if self.treatment.factor(tensor).is_some() {
                        rows[0].extend_from_slice(x);
                        continue;
                    }
                    let scales = codes.scales(x, importance);
                    back.copy_from_slice(x);
                    codes.round(back, &scales);
                    put(codes, back, &scales, out);
                    errors.add(compare(x, back));
                }
            }
        }
        if let (Encoding::Codes(codes), Some(factor)) = (job.encoding, self.treatment.factor(tensor)) {
            let [before, after] = rows;
            after.clone_from(before);
            let cols = tensor.cols();
            let scales: Vec<Vec<bf16>> =
                before.chunks_exact(cols).map(|row| codes.scales(row, importance)).collect();
            factor.round(after, |row, col, target| {
                codes.nearest(target, scales[row][col / codes.group].to_f32())
            });
            for ((before, after), scales) in before.chunks(cols).zip(after.chunks(cols)).zip(&scales) {
                put(codes, after, scales, out);
                errors.add(compare(before, after));
            }
        }
        for (part, bytes) in job.parts.iter().zip(out.iter()) {
            let at = part.at + slab.rows.start as u64 * part.row_bytes;
            self.disk.write(job.file, bytes, at)?;
        }
        Ok(errors)
    }
}

/// Appends the codes and the scales of a row.
fn put(codes: Codes, rounded: &[f32], scales: &[bf16], [out, out_scales]: &mut [Vec<u8>; 2]) {
    codes.put(rounded, scales, out);
    scales.iter().for_each(|scale| out_scales.extend(scale.to_le_bytes()));
}

/// A row as it is; of a vector in another order, each element where it goes.
fn copy(tensor: &Exported, from: &[u8], to: &mut Vec<u8>) {
    match tensor.order {
        order if tensor.is_vector() && order != RowOrder::Same => {
            let size = tensor.source.dtype.block_bytes();
            (0..tensor.cols()).for_each(|i| to.extend_from_slice(&from[order.source(i) * size..][..size]));
        }
        _ => to.extend_from_slice(from),
    }
}

/// Reads row `row` of what is written from the bytes of its source.
pub(super) fn read(tensor: &Exported, row: usize, from: &[u8], x: &mut Vec<f32>) -> Result<(), RunError> {
    x.resize(tensor.cols(), 0.0);
    block::dequantize(tensor.source.dtype, from, x).expect("a row has the bytes of its elements");
    // What is no number has the largest exponent there is. Without a way out in the middle the loop becomes vectors.
    let most = x.iter().fold(0, |most: i32, x| most.max(x.abs().to_bits() as i32));
    if most >= f32::INFINITY.to_bits() as i32 {
        let col = x.iter().position(|x| !x.is_finite()).expect("something is no number");
        let (tensor, row) = (tensor.source.name.clone(), tensor.row(row));
        return Err(RunError::NotFinite { tensor, row, col, value: x[col] });
    }
    if tensor.is_vector() && tensor.order != RowOrder::Same {
        let old = x.clone();
        x.iter_mut().enumerate().for_each(|(i, x)| *x = old[tensor.order.source(i)]);
    }
    Ok(())
}

fn compare(x: &[f32], back: &[f32]) -> Errors {
    pulp::Arch::new().dispatch(Compare { x, back })
}

struct Compare<'a> {
    x: &'a [f32],
    back: &'a [f32],
}

impl pulp::NullaryFnOnce for Compare<'_> {
    type Output = Errors;

    #[inline(always)]
    fn call(self) -> Errors {
        let (mut of_errors, mut of_weights) = ([0.0f32; 16], [0.0f32; 16]);
        let (xs, rest) = self.x.as_chunks::<16>();
        let (backs, rest_back) = self.back.as_chunks::<16>();
        let mut add = |i: usize, x: f32, back: f32| {
            of_errors[i] += (x - back) * (x - back);
            of_weights[i] += x * x;
        };
        for (x, back) in xs.iter().zip(backs) {
            for i in 0..16 {
                add(i, x[i], back[i]);
            }
        }
        rest.iter().zip(rest_back).enumerate().for_each(|(i, (x, back))| add(i, *x, *back));
        let sum = |lanes: [f32; 16]| lanes.iter().map(|x| f64::from(*x)).sum();
        Errors { of_errors: sum(of_errors), of_weights: sum(of_weights) }
    }
}
