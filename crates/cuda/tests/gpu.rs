//! The program that checks and measures a GPU, on one that is not there: what it finds of small models, and what it says where it can find nothing.
#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use wharf_fake_cuda::{FakeCuda, FakeGpu, Machine};

fn gpu(libraries: &Path, arguments: &[&str]) -> Output {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples/gpu");
    // Without a PATH there is no Python.
    Command::new(program).args(arguments).env("LD_LIBRARY_PATH", libraries).env("PATH", "").output().unwrap()
}

fn told(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).unwrap()
}

/// Runs it on a machine with one GPU; what it wrote, and how it ended.
fn on(machine: &Machine, arguments: &[&str]) -> (Output, Value) {
    let folder = tempfile::tempdir().unwrap();
    FakeCuda::install(folder.path(), machine).unwrap();
    let out = folder.path().join("found.json");
    let output = gpu(folder.path(), &[arguments, &["--out", out.to_str().unwrap()]].concat());
    let found = std::fs::read_to_string(&out)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", told(&output.stdout), told(&output.stderr)));
    (output, serde_json::from_str(&found).unwrap())
}

fn few() -> Machine {
    Machine { gpus: vec![FakeGpu { multiprocessors: 4, ..FakeGpu::default() }], ..Machine::default() }
}

#[test]
fn small_models_are_checked_and_timed_and_all_of_it_is_written() {
    let (output, found) = on(&few(), &["--smallest", "--peers"]);
    let (stdout, stderr) = (told(&output.stdout), told(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    assert_eq!(found["device"], "NVIDIA H100 80GB HBM3");
    assert_eq!((&found["capability"], &found["cuda"]), (&Value::from("9.0"), &Value::from("12.9")));
    let checks = found["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 3, "{found:#}");
    for check in checks {
        assert_eq!(check["passed"], true, "{check}");
        assert!(check["found"]["kl"].as_f64().unwrap() < check["bar"]["kl"].as_f64().unwrap(), "{check}");
        // A comparison of something with itself finds no difference at all.
        assert!(check["found"]["largest"].as_f64().unwrap() > 0.0, "{check}");
    }
    assert!(found["limits"]["copy_bytes_per_s"].as_f64().unwrap() > 0.0, "{found:#}");
    let rows = found["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["row"].as_str().unwrap()).collect();
    let expected = ["decode 1 at 20", "prefill 40", "first token of 5", "start to first token of 3"];
    assert_eq!(names, expected, "{stdout}");
    assert!(rows.iter().all(|row| row["median_ms"].as_f64().unwrap() > 0.0), "{found:#}");
    assert!(rows[..3].iter().all(|row| row["runs"].as_u64().unwrap() >= 5), "{found:#}");
    assert!(rows[..3].iter().all(|row| row["share"].as_f64().unwrap() > 0.0), "{found:#}");
    let absent = found["peers"]["absent"].as_str().unwrap();
    assert!(absent.starts_with("python3 cannot be started"), "{absent}");
    assert_eq!((&found["dropped"], &found["failed"]), (&Value::Array(vec![]), &Value::Array(vec![])));
}

#[test]
fn rows_that_the_budget_has_no_time_for_are_dropped_and_named() {
    let (output, found) = on(&few(), &["--smallest", "--budget-s", "0"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output.stderr));
    assert_eq!(found["rows"], Value::Array(vec![]));
    assert_eq!(found["dropped"][0]["row"], "small Q4_0", "{found:#}");
    assert!(found["dropped"][0]["why"].as_str().unwrap().contains("budget"), "{found:#}");
    assert_eq!(found["checks"].as_array().unwrap().len(), 3, "checks are not dropped");
}

#[test]
fn a_gpu_that_fails_its_checks_ends_it_with_1() {
    let gpu = FakeGpu { lost_after: Some(60), multiprocessors: 4, ..FakeGpu::default() };
    let (output, found) = on(&Machine { gpus: vec![gpu], ..Machine::default() }, &["--smallest", "--checks"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(found["passed"], false);
    let why = found["checks"][0]["found"]["error"].as_str().unwrap();
    assert!(why.contains("lost"), "{why}");
    assert!(told(&output.stdout).contains("FAILED"), "{}", told(&output.stdout));
}

#[test]
fn without_a_driver_it_says_so_and_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    FakeCuda::hide(folder.path()).unwrap();
    let output = gpu(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = told(&output.stderr);
    assert!(stderr.starts_with("error: there is no CUDA driver: libcuda.so.1 was not found"), "{stderr}");
}

#[test]
fn arguments_that_are_not_understood_are_named() {
    let output = gpu(Path::new(""), &["--chekcs"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(told(&output.stderr).starts_with("error: \"--chekcs\" is not understood\nusage: gpu "));
}
