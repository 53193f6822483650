//! The trainer as a whole, on models that train in seconds.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use wharf_model::{ChatTemplate, Model, Source, Tokenizer};
use wharf_testkit::TinyModel;

use super::parameters::Parameters;
use super::*;

/// The weights of a Llama with two layers.
pub(super) fn tiny() -> Parameters {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    TinyModel::default().write(&path).unwrap();
    Parameters::from_model(&Model::open(&path).unwrap(), "teacher").unwrap()
}

fn text_of(path: &Path) -> TextSide {
    let Source::Gguf(metadata) = Model::open(path).unwrap().source else { unreachable!("it is a GGUF file") };
    TextSide {
        tokenizer: Tokenizer::from_gguf(&metadata).unwrap(),
        chat_template: ChatTemplate::from_gguf(&metadata).unwrap(),
    }
}

/// A folder with a random teacher of `layers` layers and a text that has something to learn in it.
struct Place {
    folder: tempfile::TempDir,
    teacher: PathBuf,
    data: PathBuf,
}

fn place(layers: usize) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let teacher = folder.path().join("teacher.gguf");
    TinyModel { n_layers: layers, ..TinyModel::default() }.write(&teacher).unwrap();
    let data = folder.path().join("text.txt");
    let mut random = random::Random::new(5, 0);
    let words = ["the", "cat", "sat", "on", "a", "mat", "and", "the", "rain", "in", "spain", "then", "ran"];
    let mut text = String::new();
    for i in 0..3000 {
        text.push_str(words[random.below(words.len() as u64) as usize]);
        text.push(if i % 12 == 11 { '\n' } else { ' ' });
    }
    std::fs::write(&data, text).unwrap();
    Place { folder, teacher, data }
}

impl Place {
    fn recipe(&self, name: &str) -> Recipe {
        Recipe {
            teacher: self.teacher.clone(),
            student: Student::Pruned { layers: Kept::These(vec![0]), width: Width::default() },
            data: vec![self.data.clone()],
            objective: Objective { divergence: Divergence::ForwardKl, alpha: 0.5, temperature: 2.0 },
            features: 0.0,
            on_policy: 0.0,
            assistant_only: false,
            teacher_cache: None,
            optimizer: Optimizer { lr: 3e-3, warmup: 3, weight_decay: 0.01, clip: 1.0 },
            steps: 12,
            batch: 4,
            micro_batch: 2,
            window: 32,
            validation: 0.1,
            validation_windows: 8,
            validate_every: 100,
            checkpoint_every: 5,
            seed: 1,
            device: Device::Cpu,
            processes: 1,
            format: Format::Safetensors,
            out: self.folder.path().join(name),
        }
    }

    fn run(&self, recipe: &Recipe) -> Result<Outcome, DistillError> {
        self.run_until(recipe, false, usize::MAX)
    }

    /// Asks to stop once `until` steps are done.
    fn run_until(&self, recipe: &Recipe, resume: bool, until: usize) -> Result<Outcome, DistillError> {
        let stop = AtomicBool::new(false);
        let run = Run { threads: 2, processes: Processes::Alone, resume, stop: &stop };
        super::run(recipe, &text_of(&self.teacher), run, &mut |event| {
            if matches!(event, Event::Step(line) if line.step >= until) {
                stop.store(true, Ordering::Relaxed);
            }
        })
    }

    fn finished(&self, recipe: &Recipe) -> Report {
        match self.run(recipe).unwrap() {
            Outcome::Finished(report) => *report,
            other => panic!("not finished: {other:?}"),
        }
    }
}

/// Losses of all steps, as they were computed.
fn losses(out: &Path) -> Vec<f64> {
    let lines = report::read(&out.join("metrics.jsonl")).unwrap();
    lines
        .into_iter()
        .filter_map(|line| match line {
            Line::Step(line) => Some(line.loss),
            Line::Validation(_) => None,
        })
        .collect()
}

fn weights(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("model.safetensors")).unwrap()
}

#[test]
fn a_student_comes_nearer_to_its_teacher_and_loads_in_the_engine() {
    let place = place(3);
    // The teacher is random: what it says and what the text says are apart, so only one of them can be followed.
    let mut recipe = Recipe { steps: 60, ..place.recipe("out") };
    recipe.objective.alpha = 1.0;
    let report = place.finished(&recipe);
    assert!(report.after.kl_to_teacher < 0.7 * report.before.kl_to_teacher, "{report}");
    assert!(report.engine_kl < 1e-6, "{report}");
    let losses = losses(&recipe.out);
    assert_eq!(losses.len(), 60);
    assert!(losses[59] < losses[0]);
    let student = Model::open(&recipe.out).unwrap();
    assert_eq!(student.config.layers.len(), 1);
    assert!(std::fs::read_to_string(recipe.out.join("training.svg")).unwrap().ends_with("</svg>\n"));
    assert!(!recipe::WorkFolder::beside(&recipe.out).root.exists());
}

#[test]
fn with_a_teacher_the_same_student_ends_nearer_to_it() {
    let place = place(3);
    let with = Recipe { steps: 40, ..place.recipe("with") };
    let without = Recipe {
        objective: Objective { alpha: 0.0, ..with.objective },
        out: place.folder.path().join("without"),
        ..with.clone()
    };
    let (with, without) = (place.finished(&with), place.finished(&without));
    assert_eq!(with.before, without.before);
    assert!(with.after.kl_to_teacher < without.after.kl_to_teacher, "{with}\n{without}");
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_same_bits() {
    let place = place(2);
    let whole = place.recipe("whole");
    place.finished(&whole);
    let parts = Recipe { out: place.folder.path().join("parts"), ..whole.clone() };
    for (resume, until) in [(false, 3), (true, 7)] {
        let outcome = place.run_until(&parts, resume, until).unwrap();
        assert!(matches!(outcome, Outcome::Interrupted { step } if step == until), "{outcome:?}");
        assert!(!parts.out.exists());
    }
    assert!(matches!(place.run_until(&parts, true, usize::MAX).unwrap(), Outcome::Finished(_)));
    assert_eq!(losses(&parts.out), losses(&whole.out));
    assert_eq!(weights(&parts.out), weights(&whole.out));
}

#[test]
fn the_busiest_layers_are_chosen_once_and_kept_when_the_run_goes_on() {
    let place = place(3);
    let student = Student::Pruned { layers: Kept::Busiest(2), width: Width::default() };
    let recipe = Recipe { student, steps: 6, ..place.recipe("out") };
    place.run_until(&recipe, false, 2).unwrap();
    let chosen = recipe::WorkFolder::beside(&recipe.out).layers();
    let layers: Vec<usize> = serde_json::from_slice(&std::fs::read(&chosen).unwrap()).unwrap();
    assert_eq!(layers.len(), 2);
    // Were they chosen anew, the checkpoint would meet other weights.
    std::fs::write(&chosen, "[0]").unwrap();
    assert!(place.run_until(&recipe, true, usize::MAX).is_err());
    std::fs::write(&chosen, serde_json::to_vec(&layers).unwrap()).unwrap();
    place.run_until(&recipe, true, usize::MAX).unwrap();
    assert_eq!(Model::open(&recipe.out).unwrap().config.layers.len(), 2);
}

#[test]
fn lists_of_everything_train_like_logits_and_come_from_the_file_in_later_epochs() {
    let place = place(2);
    let whole = Recipe { steps: 6, ..place.recipe("logits") };
    let listed = Recipe { teacher_cache: Some(288), out: place.folder.path().join("lists"), ..whole.clone() };
    place.finished(&whole);
    place.finished(&listed);
    for (a, b) in losses(&whole.out).iter().zip(losses(&listed.out)) {
        assert!((a - b).abs() < 1e-4 * a, "{a} {b}");
    }
    let mut short =
        Recipe { teacher_cache: Some(64), steps: 40, out: place.folder.path().join("short"), ..whole };
    short.objective.alpha = 1.0;
    let report = place.finished(&short);
    assert!(report.after.kl_to_teacher < report.before.kl_to_teacher, "{report}");
}

#[test]
fn every_option_of_the_loss_trains() {
    let place = place(2);
    for (name, change) in [
        ("reverse", (|r| r.objective.divergence = Divergence::ReverseKl) as fn(&mut Recipe)),
        ("jsd", |r| r.objective.divergence = Divergence::Jsd { beta: 0.5 }),
        ("features", |r| r.features = 0.1),
        ("own", |r| r.on_policy = 0.5),
        ("narrow", |r| {
            let width = Width { hidden: Some(32), ffn: Some(64), heads: Some(2) };
            r.student = Student::Pruned { layers: Kept::These(vec![0, 1]), width };
        }),
    ] {
        let mut recipe = Recipe { steps: 30, ..place.recipe(name) };
        recipe.objective.alpha = 1.0;
        change(&mut recipe);
        let report = place.finished(&recipe);
        assert!(report.after.kl_to_teacher < report.before.kl_to_teacher, "{name}: {report}");
    }
}

#[test]
fn a_student_of_answers_learns_them_and_not_the_questions() {
    let place = place(2);
    let chats = place.folder.path().join("chats.jsonl");
    let mut lines = String::new();
    for i in 0..400 {
        let words = ["sun", "rain", "snow", "wind", "fog"];
        let (question, answer) = (words[i % 5], words[(i / 5) % 5]);
        lines.push_str(&format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"{question} {question} {question}\"}}, \
             {{\"role\": \"assistant\", \"content\": \"the {answer}\"}}]}}\n"
        ));
    }
    std::fs::write(&chats, lines).unwrap();
    let mut all = Recipe { data: vec![chats], steps: 30, ..place.recipe("all") };
    all.objective.alpha = 0.0;
    let answers = Recipe { assistant_only: true, out: place.folder.path().join("answers"), ..all.clone() };
    let (all, answers) = (place.finished(&all), place.finished(&answers));
    let positions = (answers.after.positions, all.after.positions);
    assert!(positions.0 > 0 && positions.0 < positions.1 / 2, "{positions:?}");
    assert!(answers.after.perplexity < 0.5 * answers.before.perplexity, "{answers}");
}

#[test]
fn what_cannot_work_is_said_before_anything_is_written() {
    let place = place(2);
    let taken = place.recipe("text.txt");
    let long = Recipe { window: 20_000, ..place.recipe("long") };
    let short_text = place.folder.path().join("short.txt");
    std::fs::write(&short_text, "a few words").unwrap();
    let short = Recipe { data: vec![short_text], ..place.recipe("short") };
    let alpha = Recipe { objective: Objective { alpha: 1.5, ..long.objective }, ..place.recipe("alpha") };
    let other = place.folder.path().join("other.gguf");
    TinyModel { vocab_size: 300, ..TinyModel::default() }.write(&other).unwrap();
    let vocabulary = Recipe { student: Student::Model(other), ..place.recipe("vocabulary") };
    let nan = place.folder.path().join("nan.gguf");
    let mut file = TinyModel::default().build();
    file.tensors[3].data[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&nan, file.bytes()).unwrap();
    let nan = Recipe { student: Student::Model(nan), ..place.recipe("nan") };
    let narrow = Width { hidden: Some(32), ..Width::default() };
    let features = Recipe {
        features: 1.0,
        student: Student::Pruned { layers: Kept::These(vec![0]), width: narrow },
        ..place.recipe("features")
    };
    for (recipe, complaint) in [
        (taken, "exists already"),
        (long, "longer than the teacher's context of 512"),
        (short, "too few for a window"),
        (alpha, "--alpha"),
        (vocabulary, "the student has 300 tokens and the teacher 288"),
        (nan, "1 values that are NaN or infinite, the first at index 2"),
        (features, "the teacher's have 64, the student's 32"),
    ] {
        let error = place.run(&recipe).unwrap_err();
        assert!(error.is_bad_input() && error.to_string().contains(complaint), "{error}");
        assert!(!recipe::WorkFolder::beside(&recipe.out).root.exists(), "{complaint}");
    }
}

#[test]
fn a_run_goes_on_only_with_its_own_settings() {
    let place = place(2);
    let recipe = place.recipe("out");
    let error = place.run_until(&recipe, true, 1).unwrap_err();
    assert!(error.is_bad_input() && error.to_string().contains("no run to resume"), "{error}");
    place.run_until(&recipe, false, 1).unwrap();
    let error = place.run(&recipe).unwrap_err();
    assert!(error.is_bad_input() && error.to_string().contains("--resume"), "{error}");
    let other = Recipe { seed: 2, batch: 8, ..recipe };
    let error = place.run_until(&other, true, 1).unwrap_err();
    assert!(error.is_bad_input() && error.to_string().contains("batch, seed"), "{error}");
}
