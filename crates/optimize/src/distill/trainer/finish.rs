//! The end of a run: judge, write, look at what was written, give it its name.

use super::*;
use crate::distill::loss::log_softmax;
use crate::distill::plot;
use crate::distill::validation::divergence;

/// A student that the engine reads differently was written wrongly. BF16 training differs by its own rounding.
const MOST_KL: f64 = 1e-2;

impl Trainer<'_> {
    pub(super) fn finish(
        &mut self,
        work: &WorkFolder,
        source: &Source,
        described: &Described,
        teacher: (usize, usize),
        before: Validation,
        hear: &mut dyn FnMut(Event),
    ) -> Result<Report, DistillError> {
        let recipe = self.recipe;
        let mut metrics = Metrics::open(&work.metrics(), recipe.steps)?;
        let after = match crate::distill::report::last_validation(&work.metrics())? {
            Some(found) if found.step == recipe.steps => found,
            _ => self.judge(&mut metrics, hear)?,
        };
        let result = work.result();
        if result.exists() {
            std::fs::remove_dir_all(&result).map_err(DistillError::write(&result))?;
        }
        let notes = export::folder(&result, &self.parameters, described)?;
        let engine_kl = self.compare_with_engine(&result)?;
        let lines = crate::distill::report::read(&work.metrics())?;
        let tokens = (recipe.steps * recipe.batch * recipe.window) as u64;
        let trained = self.seconds_of(&lines);
        let names = [recipe.format.weights(), "metrics.jsonl", "training.svg", "report.json"];
        let files = names.iter().map(|name| recipe.out.join(name)).collect();
        let metrics_copy = result.join("metrics.jsonl");
        std::fs::copy(work.metrics(), &metrics_copy).map_err(DistillError::write(&metrics_copy))?;
        plot::draw(&lines, &result.join("training.svg"))?;
        let report = Report {
            teacher: name_of(source, recipe),
            teacher_parameters: teacher.0,
            student_parameters: self.parameters.elements(),
            layers: [teacher.1, self.parameters.config.layers.len()],
            steps: recipe.steps,
            tokens,
            seconds: trained,
            tokens_per_second: tokens as f64 / trained,
            flops_per_second: 6.0 * multiplied(&self.parameters) as f64 * tokens as f64 / trained,
            before,
            after,
            engine_kl,
            files,
            notes,
        };
        let path = result.join("report.json");
        let text = serde_json::to_string_pretty(&report).expect("a report is plain data") + "\n";
        std::fs::write(&path, text).map_err(DistillError::write(&path))?;
        export::publish(&result, &recipe.out)?;
        std::fs::remove_dir_all(&work.root).map_err(DistillError::write(&work.root))?;
        Ok(report)
    }

    /// Time of all steps, those before an interruption too.
    fn seconds_of(&self, lines: &[Line]) -> f64 {
        let tokens = (self.recipe.batch * self.recipe.window) as f64;
        let seconds = lines.iter().filter_map(|line| match line {
            Line::Step(line) => Some(tokens / line.tokens_per_second),
            Line::Validation(_) => None,
        });
        seconds.sum()
    }

    /// Mean KL between the trainer's and the engine's distributions over one validation window.
    fn compare_with_engine(&self, folder: &std::path::Path) -> Result<f64, DistillError> {
        let window = self.corpus.validation[0];
        let batch = Micro::new(&[(window, self.corpus.window(window)?)]);
        let vocab = self.parameters.config.vocab_size;
        let model = student::open(folder, "student")?;
        let mut engine = Scorer::load(model, "student", 1, batch.length, self.threads)?;
        let mut of_engine = Vec::new();
        engine.score(&batch, &mut |rows| {
            of_engine.extend_from_slice(rows);
            Ok(())
        })?;
        let (mut p, mut q) = (vec![0.0; vocab], vec![0.0; vocab]);
        let (mut sum, mut row) = (0.0, 0);
        self.compute.logits(&self.parameters, &batch, &mut |rows| {
            for logits in rows.chunks(vocab) {
                log_softmax(logits, 1.0, &mut p);
                log_softmax(&of_engine[row * vocab..(row + 1) * vocab], 1.0, &mut q);
                sum += divergence(&p, &q);
                row += 1;
            }
            Ok(())
        })?;
        let kl = (sum / row as f64).max(0.0);
        if kl < MOST_KL {
            return Ok(kl);
        }
        Err(DistillError::Mismatch { kl })
    }
}

/// Elements that every token is multiplied by.
fn multiplied(parameters: &Parameters) -> usize {
    let tied = parameters.config.tied_embeddings;
    let counts = |role: Role| tied || role != Role::TokenEmbedding;
    let matrices = parameters.list.iter().filter(|weight| weight.rows > 1 && counts(weight.key.role));
    matrices.map(|weight| weight.data.len()).sum()
}

fn name_of(source: &Source, recipe: &Recipe) -> String {
    let of_metadata = match source {
        Source::Gguf(metadata) => metadata.str("general.name").map(str::to_owned),
        Source::Folder(_) => None,
    };
    of_metadata.unwrap_or_else(|| {
        let name = recipe.teacher.file_name().unwrap_or(recipe.teacher.as_os_str());
        name.to_string_lossy().into_owned()
    })
}
