//! Decides in which order a text runs through a model: each layer is loaded alone, reads what the layer before it left, and is shown
//! to whoever gathers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wharf_engine::cpu::{CpuOptions, CpuStage, Entering, LoadError, Matrix, Observed, Share};
use wharf_engine::{BLOCK_TOKENS, BackendError, BlockId, Chunk, Logits, LogitsFor};
use wharf_model::{Model, Role};

use super::inputs::Inputs;
use crate::eval::Windows;

/// Why a calibration did not end.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// A layer cannot be loaded.
    #[error("failed to load layer {layer}")]
    Load {
        /// The layer.
        layer: usize,
        /// Why.
        source: LoadError,
    },
    /// A pass failed.
    #[error("failed to compute layer {layer}")]
    Backend {
        /// The layer.
        layer: usize,
        /// Why.
        source: BackendError,
    },
    /// What goes into a matrix is not finite.
    #[error("layer {layer} reads numbers that are not finite: its weights or those before it are damaged")]
    NotFinite {
        /// The layer.
        layer: usize,
    },
    /// Somebody asked to stop.
    #[error("stopped")]
    Stopped,
}

/// What runs through the layers, and on how many threads.
#[derive(Clone, Copy)]
pub(in crate::quantize) struct Gather<'a> {
    pub(in crate::quantize) windows: &'a Windows,
    pub(in crate::quantize) threads: usize,
    /// Whether sums of products are wanted.
    pub(in crate::quantize) products: bool,
    /// Set by others to stop.
    pub(in crate::quantize) stop: &'a AtomicBool,
}

/// What the matrices of a layer read.
pub(in crate::quantize) struct LayerInputs(pub(super) [Inputs; 4]);

/// Matrices that read the same, in the order of [`LayerInputs`].
pub(super) const READERS: [&[Role]; 4] =
    [&[Role::Q, Role::K, Role::V], &[Role::O], &[Role::Gate, Role::Up], &[Role::Down]];

/// Which of [`READERS`] the matrix of a role belongs to.
pub(super) fn reader(role: Role) -> Option<usize> {
    READERS.iter().position(|roles| roles.contains(&role))
}

fn place(matrix: Matrix) -> Option<usize> {
    match matrix {
        Matrix::Qkv => Some(0),
        Matrix::O => Some(1),
        Matrix::GateUp => Some(2),
        Matrix::Down => Some(3),
        Matrix::Output => None,
    }
}

/// How far the text is.
pub(in crate::quantize) enum Step {
    /// `done` of all windows are through a layer.
    Window { layer: usize, done: usize },
    /// All windows are through a layer that was wanted, whose matrices have read this.
    Layer { layer: usize, inputs: Box<LayerInputs> },
}

/// Sends all windows through the layers up to the last one in `wanted`, and tells `step` what each of those has read.
pub(in crate::quantize) fn each_layer<E: From<CalibrationError>>(
    model: &Model,
    gather: Gather<'_>,
    wanted: &[usize],
    step: &mut dyn FnMut(Step) -> Result<(), E>,
) -> Result<(), E> {
    let Gather { windows, threads, products, stop } = gather;
    let options = CpuOptions {
        threads,
        kv_tokens: windows.size(),
        max_batch_tokens: windows.size(),
        ..CpuOptions::default()
    };
    let tokens = windows.iter().len() * windows.size();
    let blocks: Vec<BlockId> = (0..windows.size().div_ceil(BLOCK_TOKENS) as u32).map(BlockId).collect();
    let mut hidden: Vec<Vec<f32>> = vec![Vec::new(); windows.iter().len()];
    let mut logits = Logits::default();
    for layer in 0..wanted.iter().max().map_or(0, |last| last + 1) {
        let share = Share { layers: layer..layer + 1, embeds: layer == 0, predicts: false };
        let mut stage = CpuStage::load(model, share, &options, &mut |_, _| {})
            .map_err(|source| CalibrationError::Load { layer, source })?;
        let inputs = Arc::new(Mutex::new(std::array::from_fn(|_| Inputs::new(tokens, products))));
        if wanted.contains(&layer) {
            let gathered: Arc<Mutex<[Inputs; 4]>> = Arc::clone(&inputs);
            stage.observe(Box::new(move |Observed { matrix, rows, width, .. }| {
                if let Some(place) = place(matrix) {
                    gathered.lock().unwrap_or_else(PoisonError::into_inner)[place].add(rows, width);
                }
            }));
        }
        for (done, (tokens, hidden)) in windows.iter().zip(&mut hidden).enumerate() {
            if stop.load(Ordering::Relaxed) {
                return Err(CalibrationError::Stopped.into());
            }
            let chunk = Chunk { tokens, start: 0, blocks: &blocks, logits: LogitsFor::None };
            let entering = if layer == 0 { Entering::Tokens } else { Entering::Hidden(hidden) };
            stage
                .forward(&[chunk], entering, &mut logits)
                .map_err(|source| CalibrationError::Backend { layer, source })?;
            *hidden = stage.leaving().to_vec();
            step(Step::Window { layer, done: done + 1 })?;
        }
        // The observer goes with its stage.
        drop(stage);
        if wanted.contains(&layer) {
            let mut inputs = Arc::into_inner(inputs)
                .expect("the stage was its other owner")
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner);
            inputs.iter_mut().for_each(Inputs::finish);
            if !inputs.iter().all(Inputs::is_finite) {
                return Err(CalibrationError::NotFinite { layer }.into());
            }
            step(Step::Layer { layer, inputs: Box::new(LayerInputs(inputs)) })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use wharf_testkit::TinyModel;

    use super::*;

    #[test]
    fn every_matrix_of_the_wanted_layers_is_seen_and_stopping_stops() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        TinyModel { n_layers: 3, ..TinyModel::default() }.write(&path).unwrap();
        let model = Model::open(&path).unwrap();
        let windows = Windows::cut((0..64).map(|i| i % 250).collect(), 32, None, None).unwrap();
        let stop = AtomicBool::new(false);
        let gather = Gather { windows: &windows, threads: 1, products: false, stop: &stop };
        let mut seen = Vec::new();
        each_layer::<CalibrationError>(&model, gather, &[0, 2], &mut |step| {
            let Step::Layer { layer, inputs } = step else { return Ok(()) };
            let LayerInputs(inputs) = *inputs;
            assert_eq!(inputs.each_ref().map(Inputs::width), [64, 64, 64, 128]);
            assert!(inputs.iter().all(|inputs| inputs.mean_squares().iter().all(|x| *x > 0.0)));
            // What a norm of ones makes has a mean square of one.
            let squares = inputs[0].mean_squares();
            let mean = squares.iter().sum::<f32>() / squares.len() as f32;
            assert!((0.5..2.0).contains(&mean), "{mean}");
            seen.push(layer);
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [0, 2]);
        stop.store(true, Ordering::Relaxed);
        let stopped = each_layer::<CalibrationError>(&model, gather, &[0], &mut |_| Ok(()));
        assert!(matches!(stopped, Err(CalibrationError::Stopped)));
    }
}
