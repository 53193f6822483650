//! Decides what a text tells of a model's matrices: each layer is loaded alone, reads what the layer before it left, and is shown
//! to whoever gathers statistics.
//!
//! Memory is that of one layer and of a row of activations for each token of the text, however large the model is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wharf_engine::cpu::{CpuOptions, CpuStage, Entering, LoadError, Matrix, Observed, Share};
use wharf_engine::{BLOCK_TOKENS, BackendError, BlockId, Chunk, Logits, LogitsFor};
use wharf_model::{Model, Role};

use crate::eval::Windows;
use crate::quantize::Importance;

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

/// What a calibration reads, and on how many threads.
#[derive(Clone, Copy)]
pub struct Calibration<'a> {
    /// The text.
    pub windows: &'a Windows,
    /// Threads that compute.
    pub threads: usize,
    /// Set by others to stop.
    pub stop: &'a AtomicBool,
}

/// Sums of squares of one matrix's inputs.
#[derive(Default)]
struct Squares {
    sums: Vec<f64>,
    rows: usize,
}

impl Squares {
    fn add(&mut self, rows: &[f32], width: usize) {
        self.sums.resize(width, 0.0);
        for row in rows.chunks_exact(width) {
            self.sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
        }
        self.rows += rows.len() / width;
    }

    fn means(&self) -> Vec<f32> {
        self.sums.iter().map(|sum| (sum / self.rows as f64) as f32).collect()
    }
}

/// How much each input of each matrix of the layers matters. `progress(done, total)` hears of every layer.
///
/// # Errors
/// When a layer cannot be loaded or computed, its inputs are not finite, or somebody stopped it.
pub fn importance(
    model: &Model,
    calibration: Calibration<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Importance, CalibrationError> {
    let mut importance = Importance::default();
    let squares: Arc<Mutex<[Squares; 4]>> = Arc::default();
    let total = model.config.layers.len();
    let gathered = Arc::clone(&squares);
    each_layer(
        model,
        calibration,
        &mut |layer, stage| {
            let gathered = Arc::clone(&gathered);
            stage.observe(Box::new(move |Observed { matrix, rows, width, .. }| {
                if let Some(index) = index(matrix) {
                    gathered.lock().unwrap_or_else(PoisonError::into_inner)[index].add(rows, width);
                }
            }));
            if layer > 0 {
                progress(layer, total);
            }
        },
        &mut |layer| {
            let all = std::mem::take(&mut *squares.lock().unwrap_or_else(PoisonError::into_inner));
            for (squares, roles) in all.iter().zip(ROLES) {
                let means = squares.means();
                if !means.iter().all(|mean| mean.is_finite()) {
                    return Err(CalibrationError::NotFinite { layer });
                }
                for role in roles {
                    importance.insert(Some(layer), *role, means.clone());
                }
            }
            Ok(())
        },
    )?;
    progress(total, total);
    Ok(importance)
}

/// Matrices that read the same, in the order in which their sums are kept.
const ROLES: [&[Role]; 4] =
    [&[Role::Q, Role::K, Role::V], &[Role::O], &[Role::Gate, Role::Up], &[Role::Down]];

fn index(matrix: Matrix) -> Option<usize> {
    match matrix {
        Matrix::Qkv => Some(0),
        Matrix::O => Some(1),
        Matrix::GateUp => Some(2),
        Matrix::Down => Some(3),
        Matrix::Output => None,
    }
}

/// Sends all windows through one layer after the other: `before` gets each before it computes, `after` is told when it has.
fn each_layer(
    model: &Model,
    Calibration { windows, threads, stop }: Calibration<'_>,
    before: &mut dyn FnMut(usize, &mut CpuStage),
    after: &mut dyn FnMut(usize) -> Result<(), CalibrationError>,
) -> Result<(), CalibrationError> {
    let options = CpuOptions {
        threads,
        kv_tokens: windows.size(),
        max_batch_tokens: windows.size(),
        ..CpuOptions::default()
    };
    let blocks: Vec<BlockId> = (0..windows.size().div_ceil(BLOCK_TOKENS) as u32).map(BlockId).collect();
    let mut hidden: Vec<Vec<f32>> = vec![Vec::new(); windows.iter().len()];
    let mut logits = Logits::default();
    for layer in 0..model.config.layers.len() {
        let share = Share { layers: layer..layer + 1, embeds: layer == 0, predicts: false };
        let mut stage = CpuStage::load(model, share, &options, &mut |_, _| {})
            .map_err(|source| CalibrationError::Load { layer, source })?;
        before(layer, &mut stage);
        for (tokens, hidden) in windows.iter().zip(&mut hidden) {
            if stop.load(Ordering::Relaxed) {
                return Err(CalibrationError::Stopped);
            }
            let chunk = Chunk { tokens, start: 0, blocks: &blocks, logits: LogitsFor::None };
            let entering = if layer == 0 { Entering::Tokens } else { Entering::Hidden(hidden) };
            stage
                .forward(&[chunk], entering, &mut logits)
                .map_err(|source| CalibrationError::Backend { layer, source })?;
            *hidden = stage.leaving().to_vec();
        }
        after(layer)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use wharf_testkit::TinyModel;

    use super::*;

    #[test]
    fn every_matrix_of_every_layer_is_seen_and_stopping_stops() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        TinyModel { n_layers: 3, ..TinyModel::default() }.write(&path).unwrap();
        let model = Model::open(&path).unwrap();
        let windows = Windows::cut((0..64).map(|i| i % 250).collect(), 32, None, None).unwrap();
        let stop = AtomicBool::new(false);
        let calibration = Calibration { windows: &windows, threads: 1, stop: &stop };
        let mut layers = Vec::new();
        let found = importance(&model, calibration, &mut |done, _| layers.push(done)).unwrap();
        assert_eq!(layers, [1, 2, 3]);
        for layer in 0..3 {
            for (role, width) in
                [(Role::Q, 64), (Role::V, 64), (Role::O, 64), (Role::Up, 64), (Role::Down, 128)]
            {
                let numbers = found.get(Some(layer), role).unwrap();
                assert_eq!(numbers.len(), width, "{role}");
                assert!(numbers.iter().all(|x| *x > 0.0));
            }
        }
        // What a norm of ones makes has a mean square of one.
        let mean = |role| {
            let numbers = found.get(Some(0), role).unwrap();
            numbers.iter().sum::<f32>() / numbers.len() as f32
        };
        assert!((0.5..2.0).contains(&mean(Role::Q)), "{}", mean(Role::Q));
        stop.store(true, Ordering::Relaxed);
        let stopped = importance(&model, calibration, &mut |_, _| {});
        assert!(matches!(stopped, Err(CalibrationError::Stopped)));
    }
}
