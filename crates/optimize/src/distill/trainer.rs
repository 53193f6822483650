//! The loop: take windows, ask the teacher, sum gradients, move weights, tell how it goes, survive being stopped.

mod batches;
mod events;
mod finish;
mod kept;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use wharf_model::{Role, Source};

use super::checkpoint;
use super::compute::{self, Compute, Lessons, Micro, Step, StepSums, Told};
use super::data::{self, Corpus, Order, Split, TextSide};
use super::error::DistillError;
use super::export::{self, Described};
use super::loss::Objective;
use super::optimizer::{self, Moments, Move};
use super::own_text::OwnText;
use super::parameters::Parameters;
use super::ranks::Ranks;
use super::recipe::{Recipe, WorkFolder};
use super::report::{Line, Metrics, Report, StepLine, Validation};
use super::student::{self, Student};
use super::teacher::{Scorer, Teacher};
use super::validation;
pub use events::{Event, Outcome};

/// How a run is carried out; its result does not depend on it, but for the last bits when threads or processes differ.
pub struct Run<'a> {
    /// Threads of this process.
    pub threads: usize,
    /// This process and others.
    pub processes: Processes,
    /// Go on with an interrupted run.
    pub resume: bool,
    /// Set from outside to stop after the current step.
    pub stop: &'a AtomicBool,
}

/// Which processes train together.
pub enum Processes {
    /// This one.
    Alone,
    /// This one and those that these commands start, each with its rank told (from 1).
    Lead(Vec<Command>),
    /// This one was started by the first.
    Follow {
        /// From 1.
        rank: usize,
    },
}

/// Trains to the end, or until `run.stop` is set.
pub fn run(
    recipe: &Recipe,
    text: &TextSide,
    run: Run<'_>,
    hear: &mut dyn FnMut(Event),
) -> Result<Outcome, DistillError> {
    recipe.check()?;
    let work = WorkFolder::beside(&recipe.out);
    let following = matches!(run.processes, Processes::Follow { .. });
    // The first call in a process decides; later ones, in tests, find the pool made.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(run.threads).build_global();
    let compute = compute::open(recipe.device)?;
    let teacher_model = student::open(&recipe.teacher, "teacher")?;
    let teacher_weights = Parameters::from_model(&teacher_model, "teacher")?;
    // Which layers are kept may depend on the data, the shape does not.
    let any = kept::any(&recipe.student);
    let shape = student::start(&recipe.student, &teacher_weights, &any, recipe.seed)?.parameters;
    check_lengths(recipe, &teacher_weights, &shape)?;
    let source = teacher_model.source.clone();
    let described = Described::read(&teacher_model, &recipe.student, recipe.format, &recipe.out)?;
    if !following {
        work.prepare(&recipe.out, recipe, run.resume)?;
        if let Err(error) = export::rehearse(&work.result(), &shape, &described) {
            // Nothing was computed yet: leave nothing behind.
            return Err(if run.resume { error } else { give_up(&work, error) });
        }
        if !work.tokens().exists() {
            let mut packing = |tokens| hear(Event::Packing { tokens });
            let packed = data::pack(&recipe.data, text, recipe.assistant_only, &work.tokens(), &mut packing);
            packed.map_err(|error| if error.is_bad_input() { give_up(&work, error) } else { error })?;
        }
    }
    let split =
        Split { length: recipe.window, validation: recipe.validation, most: recipe.validation_windows };
    let corpus = Corpus::open(&work.tokens(), split)
        .map_err(|error| if following || run.resume { error } else { give_up(&work, error) })?;
    drop(shape);
    let kept = kept::choose(recipe, &work, &teacher_weights, &corpus, following)?;
    if let Student::Pruned { .. } = &recipe.student {
        hear(Event::Layers { kept: kept.clone() });
    }
    let start = student::start(&recipe.student, &teacher_weights, &kept, recipe.seed)?;
    let ranks = match run.processes {
        Processes::Alone => Ranks::Alone,
        Processes::Lead(commands) => Ranks::lead(commands)?,
        Processes::Follow { rank } => Ranks::follow(rank, recipe.processes)?,
    };

    let pairs = if recipe.features > 0.0 { start.pairs } else { Vec::new() };
    let scorer = Scorer::load(teacher_model, "teacher", recipe.micro_batch, recipe.window, run.threads)?;
    let mut teacher = Teacher::new(scorer, recipe.objective.temperature);
    if let Some(k) = recipe.teacher_cache {
        let windows = corpus.windows();
        teacher = teacher.cached(&work.teacher_cache(ranks.rank()), k, windows)?;
    }
    let teacher_elements = (teacher_weights.elements(), teacher_weights.config.layers.len());
    match pairs.is_empty() {
        false => {
            let layers = pairs.iter().map(|(_, teacher)| *teacher).collect();
            teacher = teacher.with_features(teacher_weights, layers);
        }
        // Steps take the memory again.
        true => drop(teacher_weights),
    }
    let mut parameters = start.parameters;
    let mut moments = Moments::zero(&parameters);
    let step = checkpoint::load_latest(&work.root, &mut parameters, &mut moments)?;
    let own_text = OwnText {
        folder: work.own_text(ranks.rank()),
        described: &described,
        seed: recipe.seed,
        threads: run.threads,
    };
    let mut trainer = Trainer {
        recipe,
        threads: run.threads,
        ranks,
        compute,
        order: Order::new(&corpus, recipe.seed),
        corpus,
        teacher,
        own_text,
        student_layers: pairs.iter().map(|(student, _)| *student).collect(),
        parameters,
        moments,
        step,
        seconds: 0.0,
    };
    trainer.ranks.meet(step)?;
    hear(Event::Start {
        step,
        windows: trainer.corpus.train_windows(),
        parameters: trainer.parameters.elements(),
    });
    if following {
        while trainer.step < recipe.steps && trainer.advance(true)?.1 {}
        return Ok(Outcome::Followed);
    }
    let before = trainer.lead(&work, run.stop, hear)?;
    match before {
        None => Ok(Outcome::Interrupted { step: trainer.step }),
        Some(before) => {
            hear(Event::Export);
            let report = trainer.finish(&work, &source, &described, teacher_elements, before, hear)?;
            Ok(Outcome::Finished(Box::new(report)))
        }
    }
}

/// Removes what a run that never began has written.
fn give_up(work: &WorkFolder, error: DistillError) -> DistillError {
    // The first error is the one to tell.
    let _ = std::fs::remove_dir_all(&work.root);
    error
}

fn check_lengths(recipe: &Recipe, teacher: &Parameters, student: &Parameters) -> Result<(), DistillError> {
    for (what, config) in [("teacher", &teacher.config), ("student", &student.config)] {
        if recipe.window > config.context_length {
            return Err(DistillError::Input(format!(
                "--window {} is longer than the {what}'s context of {} tokens",
                recipe.window, config.context_length
            )));
        }
    }
    if recipe.features > 0.0 && teacher.config.hidden_size != student.config.hidden_size {
        return Err(DistillError::Input(format!(
            "--features compares layers of one width; the teacher's have {}, the student's {}",
            teacher.config.hidden_size, student.config.hidden_size
        )));
    }
    Ok(())
}

/// A run under way.
struct Trainer<'a> {
    recipe: &'a Recipe,
    threads: usize,
    ranks: Ranks,
    compute: Box<dyn Compute>,
    corpus: Corpus,
    order: Order,
    teacher: Teacher,
    own_text: OwnText<'a>,
    student_layers: Vec<usize>,
    parameters: Parameters,
    moments: Moments,
    /// Steps done.
    step: usize,
    /// Time in steps.
    seconds: f64,
}

impl Trainer<'_> {
    /// Steps to the end with metrics, validations and checkpoints. Gives the validation before the first step, or nothing
    /// when it was stopped.
    fn lead(
        &mut self,
        work: &WorkFolder,
        stop: &AtomicBool,
        hear: &mut dyn FnMut(Event),
    ) -> Result<Option<Validation>, DistillError> {
        let recipe = self.recipe;
        let earlier = super::report::first_validation(&work.metrics())?;
        let mut metrics = Metrics::open(&work.metrics(), self.step)?;
        let before = match earlier {
            Some(before) => before,
            None => self.judge(&mut metrics, hear)?,
        };
        while self.step < recipe.steps {
            let stopped = stop.load(Ordering::Relaxed);
            if stopped && self.ranks.size() == 1 {
                checkpoint::save(&work.root, self.step, &self.parameters, &self.moments)?;
                return Ok(None);
            }
            // Other processes have begun their part of the next step and hear of the stop at its end.
            let (line, go_on) = self.advance(!stopped)?;
            metrics.write(&Line::Step(line.clone()))?;
            hear(Event::Step(line));
            let last = self.step == recipe.steps;
            if self.step.is_multiple_of(recipe.checkpoint_every) || last || !go_on {
                checkpoint::save(&work.root, self.step, &self.parameters, &self.moments)?;
                hear(Event::Checkpoint { step: self.step });
            }
            if !go_on && !last {
                return Ok(None);
            }
            if self.step.is_multiple_of(recipe.validate_every) && !last {
                self.judge(&mut metrics, hear)?;
            }
        }
        Ok(Some(before))
    }

    fn judge(
        &mut self,
        metrics: &mut Metrics,
        hear: &mut dyn FnMut(Event),
    ) -> Result<Validation, DistillError> {
        let found = validation::validate(
            self.step,
            &self.parameters,
            &*self.compute,
            self.teacher.scorer(),
            &self.corpus,
            self.recipe.micro_batch,
        )?;
        metrics.write(&Line::Validation(found))?;
        hear(Event::Validation(found));
        Ok(found)
    }

    /// One step. Whether to go on is the leader's `go_on`.
    fn advance(&mut self, go_on: bool) -> Result<(StepLine, bool), DistillError> {
        let began = Instant::now();
        let recipe = self.recipe;
        let batches = self.batches()?;
        // A step may fall on questions alone; its losses are nothing divided by one.
        let learned = batches.learned.max(1) as f64;
        let mut gradients = optimizer::none(&self.parameters);
        let mut sums = StepSums::default();
        for (batches, objective) in
            [(&batches.given, recipe.objective), (&batches.own, batches::of_own_text(recipe.objective))]
        {
            let step = Step {
                objective,
                scale: (1.0 / learned) as f32,
                threads: self.threads,
                features: &self.student_layers,
                feature_weight: recipe.features,
            };
            let (compute, teacher) = (&*self.compute, &mut self.teacher);
            let asks = objective.alpha > 0.0 || !self.student_layers.is_empty();
            let mut tell = |batch: &Micro| match asks {
                true => teacher.tell(batch, compute),
                false => Ok(Told { logits: Lessons::Absent, features: Vec::new() }),
            };
            let part = compute.step(&self.parameters, &step, batches, &mut tell, &mut gradients)?;
            sums.loss.divergence += part.loss.divergence;
            sums.loss.ce += part.loss.ce;
            sums.features += part.features;
        }
        optimizer::complete(&mut gradients, &self.parameters);
        let go_on = self.ranks.all_reduce(&mut gradients, &mut sums, go_on)?;
        let loss =
            recipe.objective.value(sums.loss, learned) + f64::from(recipe.features) * sums.features / learned;
        let diverged = |what| DistillError::Diverged { what, step: self.step + 1 };
        if !loss.is_finite() {
            return Err(diverged("loss"));
        }
        let (grad_norm, shorten) = optimizer::clip(&gradients, recipe.optimizer.clip);
        if !grad_norm.is_finite() {
            return Err(diverged("gradient"));
        }
        let rate = recipe.optimizer.rate(self.step, recipe.steps);
        let to = Move { step: self.step, rate, weight_decay: recipe.optimizer.weight_decay, shorten };
        self.moments.update(&mut self.parameters, &gradients, to, self.threads);
        self.step += 1;
        let seconds = began.elapsed().as_secs_f64();
        self.seconds += seconds;
        let line = StepLine {
            step: self.step,
            tokens: (self.step * recipe.batch * recipe.window) as u64,
            loss,
            kl: sums.loss.divergence / learned,
            ce: sums.loss.ce / learned,
            features: (!self.student_layers.is_empty()).then_some(sums.features / learned),
            lr: rate,
            grad_norm,
            tokens_per_second: (recipe.batch * recipe.window) as f64 / seconds,
        };
        Ok((line, go_on))
    }
}
