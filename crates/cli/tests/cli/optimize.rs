//! Quantising and judging as a user meets them: files, reports, gates, exit codes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use wharf_testkit::TinyModel;

use crate::wharf::{self, Finished};

struct Case {
    folder: TempDir,
    model: PathBuf,
    text: PathBuf,
}

impl Case {
    fn new() -> Case {
        let folder = tempfile::tempdir().unwrap();
        let (model, text) = (folder.path().join("model.gguf"), folder.path().join("text.txt"));
        TinyModel { hidden_size: 256, ffn_size: 256, ..TinyModel::default() }.write(&model).unwrap();
        fs::write(&text, "the quick brown fox jumps over the lazy dog and runs away. ".repeat(20)).unwrap();
        Case { folder, model, text }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, command: &str, args: &[&str]) -> Finished {
        let fixed =
            [command, text(&self.model), "--window", "32", "--threads", "2", "--text", text(&self.text)];
        wharf::run(&[&fixed, args].concat())
    }

    fn quantize(&self, out: &Path, args: &[&str]) -> Finished {
        self.run("quantize", &[&["-o", text(out)], args].concat())
    }

    /// Names in the folder, without those of the case itself.
    fn left(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.retain(|name| !["model.gguf", "text.txt"].contains(&name.as_str()));
        names
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_quantised_model_answers_and_its_report_says_what_it_lost() {
    let case = Case::new();
    let out = case.path("q8.gguf");
    let finished = case.quantize(&out, &["--scheme", "q8_0", "--output", "json", "--gate-kl", "0.05"]);
    assert_eq!(finished.code, Some(0), "{}", finished.err);
    let report: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!(report["scheme"], "q8_0");
    let before = fs::metadata(&case.model).unwrap().len();
    assert!(report["bytes_after"].as_u64().unwrap() < before / 3);
    let model = &report["evaluation"]["models"][0];
    assert!(model["comparison"]["kl_mean"]["value"].as_f64().unwrap() < 0.05, "{model}");
    assert!(model["perplexity"]["error"].as_f64().unwrap() > 0.0);
    let answer = wharf::run(&[
        "chat",
        "--model",
        text(&out),
        "--prompt",
        "once",
        "--max-tokens",
        "4",
        "--temperature",
        "0",
    ]);
    assert_eq!(answer.code, Some(0), "{}", answer.err);
    assert_eq!(case.left(), ["q8.gguf"]);
}

#[test]
fn a_model_that_misses_its_gate_is_not_kept() {
    let case = Case::new();
    for (gate, said) in
        [(["--gate-kl", "0"], "KL divergence is"), (["--gate-ppl", "0%"], "perplexity rises by")]
    {
        let finished = case.quantize(&case.path("q4.gguf"), &[&["--scheme", "q4_0"], &gate[..]].concat());
        if gate[0] == "--gate-ppl" && finished.code == Some(0) {
            // Perplexity of noise may fall by chance; divergence cannot be below zero.
            fs::remove_file(case.path("q4.gguf")).unwrap();
            continue;
        }
        assert_eq!(finished.code, Some(1), "{}", finished.err);
        assert!(finished.err.contains("was not kept") && finished.err.contains(said), "{}", finished.err);
        assert_eq!(case.left(), [""; 0]);
    }
}

#[test]
fn bad_input_is_told_before_anything_is_written() {
    let case = Case::new();
    let out = case.path("q.gguf");
    let short = case.path("short.txt");
    fs::write(&short, "two words").unwrap();
    let finished = wharf::run(&[
        "quantize",
        text(&case.model),
        "-o",
        text(&out),
        "--scheme",
        "q8_0",
        "--text",
        text(&short),
    ]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.err.contains("a window takes 512"), "{}", finished.err);
    let calibrated = ["--scheme", "int4-gptq", "--calibrate", text(&short)];
    let finished =
        wharf::run(&[&["quantize", text(&case.model), "-o", text(&out)], &calibrated[..]].concat());
    assert_eq!(finished.code, Some(2));
    assert!(finished.err.contains("a window takes 512"), "{}", finished.err);
    fs::remove_file(short).unwrap();

    let finished = case.quantize(&out, &["--scheme", "q3_k"]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.err.contains("q4_k_m"), "{}", finished.err);

    fs::write(&out, "mine").unwrap();
    let finished = case.quantize(&out, &["--scheme", "q8_0"]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.err.contains("exists"), "{}", finished.err);
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    assert_eq!(case.left(), ["q.gguf"]);
}

#[test]
fn models_are_judged_beside_each_other() {
    let case = Case::new();
    let page = case.path("page.html");
    let args = ["--reference", text(&case.model), "--html", text(&page)];
    let finished = case.run("eval", &args);
    assert_eq!(finished.code, Some(0), "{}", finished.err);
    // A model beside itself.
    assert!(finished.out.contains("KL divergence, mean        0.000000"), "{}", finished.out);
    assert!(finished.out.contains("100.000 ± 0.000 %"), "{}", finished.out);
    assert!(fs::read_to_string(page).unwrap().contains("model.gguf"));
}

#[test]
fn models_of_different_vocabularies_cannot_be_compared() {
    let case = Case::new();
    let other = case.path("other.gguf");
    TinyModel { vocab_size: 300, ..TinyModel::default() }.write(&other).unwrap();
    let finished = case.run("eval", &["--reference", text(&other)]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.err.contains("288") && finished.err.contains("300"), "{}", finished.err);
}

#[test]
fn a_job_that_is_started_again_finds_its_work_done() {
    let case = Case::new();
    let out = case.path("q8.gguf");
    assert_eq!(case.quantize(&out, &["--scheme", "q8_0", "--retry"]).code, Some(0));
    let before = fs::read(&out).unwrap();
    let again = case.quantize(&out, &["--scheme", "q8_0", "--retry"]);
    assert_eq!((again.code, again.err.contains("is there already")), (Some(0), true), "{again:?}");
    assert_eq!(fs::read(&out).unwrap(), before);
    assert_eq!(case.quantize(&out, &["--scheme", "q8_0"]).code, Some(2));
}

/// No file may be larger than some kilobytes, as if no more were free.
#[test]
fn a_full_disk_is_told_and_gone_on_from() {
    let case = Case::new();
    let out = case.path("q8.gguf");
    let limited = "trap '' XFSZ; ulimit -f 32; exec \"$0\" \"$@\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", limited, env!("CARGO_BIN_EXE_wharf"), "quantize", text(&case.model)]);
    shell.args(["-o", text(&out), "--scheme", "q8_0", "--threads", "2"]);
    wharf::without_gpus(&mut shell);
    let full = Finished::from(shell.output().unwrap());
    assert_eq!(full.code, Some(1), "{}", full.err);
    assert!(full.err.contains("q8.gguf.partial; make room and run the same command again"), "{}", full.err);
    assert!(!out.exists());
    assert_eq!(case.quantize(&out, &["--scheme", "q8_0"]).code, Some(0));
    assert_eq!(case.left(), ["q8.gguf"]);
}
