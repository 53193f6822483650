//! Loads models for an evaluation and shows how far it is.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use wharf_engine::cpu::{CpuBackend, CpuOptions};
use wharf_model::Model;
use wharf_model::tokenizer::EncodeOptions;
use wharf_optimize::eval::{self, EvalError, Judge, Judged, Windows};

use crate::exit::{BadInput as _, Failure};
use crate::meter::Meter;
use crate::model::text::TextSide;

/// The text that models are judged on, when none is given.
const BUILT_IN: &str = wharf_optimize::TEXT;

/// What is judged on, and how.
pub(crate) struct Bench<'a> {
    pub(crate) windows: Windows,
    pub(crate) threads: usize,
    pub(crate) stop: &'a AtomicBool,
}

/// A text for evaluation or calibration with a name for reports.
pub(crate) struct Text {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Text {
    /// The file at `path`, or the text that is built in.
    pub(crate) fn read(path: Option<&Path>) -> Result<Text, Failure> {
        let Some(path) = path else {
            return Ok(Text { name: "the built-in text".into(), text: BUILT_IN.into() });
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("failed to read the text {}", path.display()))
            .bad_input()?;
        Ok(Text { name: path.display().to_string(), text })
    }

    /// Its tokens in windows, as `model` reads it.
    pub(crate) fn windows(
        &self,
        model: &Model,
        size: usize,
        most: Option<usize>,
    ) -> Result<Windows, Failure> {
        let tokenizer = TextSide::read(&model.source)?.tokenizer;
        let encode = |text: &str, add_special| {
            tokenizer.encode(text, EncodeOptions { add_special, parse_special: false })
        };
        let tokens = encode(&self.text, false);
        // What an empty text is framed with is what every sequence begins with.
        let first = encode("", true).first().copied();
        Windows::cut(tokens, size, first, most)
            .with_context(|| format!("failed to cut {} into windows", self.name))
            .bad_input()
    }
}

/// Opens the model at `path`.
pub(crate) fn open(path: &Path) -> Result<Model, Failure> {
    Model::open(path).with_context(|| format!("failed to open the model {}", path.display())).bad_input()
}

impl Bench<'_> {
    /// Loads a model for passes over windows.
    pub(crate) fn load(&self, model: Model) -> Result<CpuBackend, Failure> {
        let name = model.info.name.clone();
        let options = CpuOptions {
            threads: self.threads,
            kv_tokens: self.windows.size(),
            max_batch_tokens: self.windows.size().min(512),
            ..CpuOptions::default()
        };
        let mut meter = Meter::new("loading");
        CpuBackend::load(model, &options, &mut |done, total| {
            meter.set(done as u64, total as u64, String::new)
        })
        .with_context(|| format!("failed to load {name}"))
        .bad_input()
    }

    /// Judges `model`, called `name` and with files of `bytes`.
    pub(crate) fn judge(
        &self,
        name: &str,
        bytes: u64,
        model: &mut CpuBackend,
        reference: Option<&mut CpuBackend>,
    ) -> Result<Judged, Failure> {
        let judge = Judge { windows: &self.windows, threads: self.threads, stop: self.stop };
        let started = Instant::now();
        let mut meter = Meter::new("judging");
        let reference = reference.map(|reference| reference as &mut dyn wharf_engine::Backend);
        let metrics = eval::evaluate(model, reference, judge, &mut |progress| {
            let eval::Progress { done, total, perplexity } = progress;
            meter.set(done as u64, total as u64, || format!("perplexity {perplexity:.3}"));
        });
        drop(meter);
        let metrics = match metrics {
            Ok(metrics) => metrics,
            Err(EvalError::Stopped) => return Err(Failure::Interrupted),
            Err(error @ EvalError::Vocabulary { .. }) => return Err(error).bad_input(),
            Err(error) => {
                return Err(anyhow::Error::from(error).context(format!("failed to judge {name}")).into());
            }
        };
        let tokens = self.windows.iter().len() * self.windows.size();
        Ok(Judged {
            model: name.to_owned(),
            bytes,
            tokens_per_second: tokens as f64 / started.elapsed().as_secs_f64(),
            metrics,
        })
    }
}
