//! `wharf distill` as a user meets it, on a model that trains in a second.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use wharf_testkit::TinyModel;

use crate::wharf::{self, Finished};

/// A teacher of a million parameters and a text.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let model = TinyModel { hidden_size: 128, ffn_size: 384, n_layers: 4, ..TinyModel::default() };
        model.write(&folder.path().join("teacher.gguf")).unwrap();
        let mut text = String::new();
        for i in 0..4000 {
            writeln!(text, "line {} of a text in which {} follows {}", i, (i * 7) % 13, (i * 5) % 11)
                .unwrap();
        }
        std::fs::write(folder.path().join("text.txt"), text).unwrap();
        Place { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command that trains `steps` steps into `out`.
    fn command(&self, out: &str, steps: usize, more: &[&str]) -> Command {
        let mut command =
            wharf::command(&["distill", "--layers", "2", "--output", "json", "--device", "cpu"]);
        command.arg("--teacher").arg(self.path("teacher.gguf")).arg("--data").arg(self.path("text.txt"));
        command.arg("-o").arg(self.path(out));
        command.args(["--steps", &steps.to_string(), "--batch", "4", "--micro-batch", "2", "--window", "32"]);
        command.args([
            "--checkpoint-every",
            "5",
            "--validation-windows",
            "4",
            "--warmup",
            "2",
            "--lr",
            "0.001",
        ]);
        command.args(["--threads", "2"]).args(more);
        command
    }

    fn train(&self, out: &str, steps: usize, more: &[&str]) -> Value {
        let ran = Finished::from(self.command(out, steps, more).output().unwrap());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        serde_json::from_str(&ran.out).unwrap()
    }

    fn losses(&self, out: &str) -> Vec<f64> {
        losses(&self.path(out).join("metrics.jsonl"))
    }

    fn weights(&self, out: &str) -> Vec<u8> {
        std::fs::read(self.path(out).join("model.safetensors")).unwrap()
    }

    /// Waits until a run under way has written so many steps.
    fn wait_for_steps(&self, out: &str, steps: usize) {
        let metrics = self.path(&format!("{out}.distilling/metrics.jsonl"));
        let began = Instant::now();
        while losses(&metrics).len() < steps {
            assert!(began.elapsed() < Duration::from_secs(120), "the run does not come to step {steps}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Losses of all whole lines.
fn losses(metrics: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(metrics).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_weights() {
    let place = Place::new();
    place.train("whole", 14, &[]);
    let mut child =
        place.command("killed", 14, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    place.wait_for_steps("killed", 7);
    // SIGKILL: nothing of ours runs any more.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!place.path("killed").exists(), "nothing half-written has the name of a result");
    let report = place.train("killed", 14, &["--resume"]);
    assert_eq!(report["steps"], 14);
    assert_eq!(place.losses("killed"), place.losses("whole"));
    assert_eq!(place.weights("killed"), place.weights("whole"));
}

/// No file may be larger than a megabyte, as if no more were free.
#[test]
fn a_full_disk_is_told_and_gone_on_from() {
    let place = Place::new();
    let command = place.command("out", 7, &[]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\""]).arg(command.get_program());
    wharf::without_gpus(&mut limited);
    let full = Finished::from(limited.args(command.get_args()).output().unwrap());
    assert_eq!(full.code, Some(1), "{}", full.err);
    assert!(full.err.contains("step-00000005.partial; make room"), "{}", full.err);
    assert!(!place.path("out.distilling/step-00000005.partial").exists(), "it would take room");
    assert!(!place.path("out").exists());
    assert_eq!(place.train("out", 7, &["--resume"])["steps"], 7);
}

#[test]
fn a_job_that_is_started_again_goes_on_and_then_finds_its_work_done() {
    let place = Place::new();
    let mut child =
        place.command("out", 14, &["--retry"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    place.wait_for_steps("out", 7);
    child.kill().unwrap();
    child.wait().unwrap();
    let report = place.train("out", 14, &["--retry"]);
    assert_eq!(report["steps"], 14);
    let before = place.weights("out");
    let again = Finished::from(place.command("out", 14, &["--retry"]).output().unwrap());
    assert_eq!((again.code, again.err.contains("is there already")), (Some(0), true), "{again:?}");
    assert_eq!(place.weights("out"), before);
}

#[test]
fn two_processes_train_what_one_does() {
    let place = Place::new();
    let one = place.train("one", 8, &[]);
    let two = place.train("two", 8, &["--data-parallel", "2"]);
    let (one_losses, two_losses) = (place.losses("one"), place.losses("two"));
    assert_eq!((one_losses.len(), two_losses.len()), (8, 8));
    for (one, two) in one_losses.iter().zip(&two_losses) {
        assert!((one - two).abs() < 1e-3 * one, "{one} {two}");
    }
    let kl = |report: &Value| report["after"]["kl_to_teacher"].as_f64().unwrap();
    assert!((kl(&one) - kl(&two)).abs() < 0.02 * kl(&one), "{one} {two}");
}

#[test]
fn an_interrupt_keeps_a_checkpoint_and_ends_with_130() {
    let place = Place::new();
    let child =
        place.command("out", 5000, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    place.wait_for_steps("out", 3);
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let ran = Finished::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert!(ran.err.contains("go on with --resume"), "{ran:?}");
    assert!(!place.path("out").exists());
}

#[test]
fn a_student_can_be_served_and_distilled_again() {
    let place = Place::new();
    let report = place.train("out", 6, &["--width", "ffn=256", "--loss", "reverse-kl"]);
    let inspected = wharf::run(&["inspect", &place.path("out").display().to_string()]);
    assert_eq!(inspected.code, Some(0), "{inspected:?}");
    assert!(report["engine_kl"].as_f64().unwrap() < 1e-6, "{report}");
}

#[test]
fn of_conversations_answers_alone_count_when_asked() {
    let place = Place::new();
    let chats = place.path("chats.jsonl").display().to_string();
    let line = "{\"messages\": [{\"role\": \"user\", \"content\": \"what follows a line of a text\"}, \
        {\"role\": \"assistant\", \"content\": \"another\"}]}\n";
    std::fs::write(&chats, line.repeat(8000)).unwrap();
    let positions = |out: &str, more: &[&str]| {
        let report = place.train(out, 2, &[&["--data", chats.as_str()][..], more].concat());
        report["after"]["positions"].as_u64().unwrap()
    };
    let (all, answers) = (positions("all", &[]), positions("answers", &["--assistant-only"]));
    assert_eq!(all, 4 * 32);
    assert!(answers > 0 && answers < all, "{answers} of {all}");
}

#[test]
fn bad_input_ends_with_2_and_says_what_to_do() {
    let place = Place::new();
    std::fs::write(place.path("bad.jsonl"), "{\"text\": \"fine\"}\n{\"txt\": 1}\n").unwrap();
    std::fs::create_dir(place.path("taken")).unwrap();
    let data = place.path("bad.jsonl").display().to_string();
    for (out, more, complaint) in [
        ("taken", vec![], "exists already"),
        ("a", vec!["--data", data.as_str()], "bad.jsonl:2: it has neither"),
        ("b", vec!["--resume"], "no run to resume"),
        ("c", vec!["--width", "depth=3"], "depth=3"),
        ("d", vec!["--alpha", "2"], "--alpha must be between 0 and 1"),
        ("e", vec!["--precision", "bf16"], "bf16 needs"),
        ("f", vec!["--validation", "2"], "--validation must be between 0 and 1"),
    ] {
        let ran = Finished::from(place.command(out, 5, &more).output().unwrap());
        assert_eq!(ran.code, Some(2), "{out}: {ran:?}");
        assert!(ran.err.contains(complaint), "{out}: {ran:?}");
        assert!(!place.path(&format!("{out}.distilling")).exists(), "{out}");
    }
}
