//! A GPU as a user meets it: asked for, at hand, missing, too old, full, lost. Kernels run on the CPU, behind a libcuda of ours.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use wharf_fake_cuda::{FakeCuda, FakeGpu, Machine};
use wharf_kernels::DType;
use wharf_testkit::TinyModel;

use crate::wharf::{self, Finished};

struct Place {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("tiny.gguf");
        TinyModel { dtype: DType::F16, embedding_dtype: DType::F16, ..TinyModel::default() }
            .write(&model)
            .unwrap();
        Place { folder, model }
    }

    /// A machine with a driver.
    fn with(machine: &Machine) -> Place {
        let place = Place::new();
        FakeCuda::install(place.folder.path(), machine).unwrap();
        place
    }

    fn with_gpu(gpu: FakeGpu) -> Place {
        Place::with(&Machine { gpus: vec![gpu], ..Machine::default() })
    }

    /// A machine without one, whatever this machine has.
    fn without() -> Place {
        let place = Place::new();
        FakeCuda::hide(place.folder.path()).unwrap();
        place
    }

    fn command(&self, command: &str, more: &[&str]) -> Command {
        let mut command = wharf::command(&[command]);
        command.env("LD_LIBRARY_PATH", self.folder.path()).arg("--model").arg(&self.model).args(more);
        command
    }

    fn chat(&self, device: &str) -> Finished {
        let more = ["--prompt", "once", "--max-tokens", "8", "--temperature", "0", "--device", device];
        Finished::from(self.command("chat", &more).output().unwrap())
    }

    fn serve(&self, device: &str) -> Finished {
        let ports = ["--host", "127.0.0.1", "--port", "0", "--metrics-port", "0", "--device", device];
        Finished::from(self.command("serve", &ports).stdin(Stdio::null()).output().unwrap())
    }
}

#[test]
fn without_a_driver_cuda_says_what_is_missing_and_exits_with_2() {
    let place = Place::without();
    for finished in [place.serve("cuda"), place.chat("cuda")] {
        assert_eq!(finished.code, Some(2), "{finished:?}");
        let said = finished.err;
        assert!(said.contains("the device cuda cannot be used"), "{said}");
        assert!(said.contains("libcuda.so.1") && said.contains("driver"), "{said}");
    }
}

#[test]
fn what_is_wrong_with_a_gpu_is_said() {
    let old = FakeGpu { name: "Tesla V100".into(), compute: (7, 0), ..FakeGpu::default() };
    let full = FakeGpu { used: 80 << 30, ..FakeGpu::default() };
    for (place, device, expected) in [
        (
            Place::with(&Machine { cuda: 11_080, ..Machine::of(1) }),
            "cuda",
            "driver is too old: it knows CUDA 11.8",
        ),
        (Place::with(&Machine::of(0)), "cuda", "sees no GPU"),
        (Place::with(&Machine::of(2)), "cuda:2", "there is no GPU 2"),
        (Place::with_gpu(old), "cuda", "(Tesla V100) is too old"),
        (Place::with_gpu(full), "cuda", "the GPU lacks"),
    ] {
        let finished = place.serve(device);
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.err.contains(expected), "{expected}: {}", finished.err);
    }
}

#[test]
fn a_gpu_answers_as_the_cpu_does() {
    let place = Place::with(&Machine::of(1));
    let cpu = place.chat("cpu");
    assert_eq!(cpu.code, Some(0), "{}", cpu.err);
    for device in ["cuda", "cuda:0", "auto"] {
        let gpu = place.chat(device);
        assert_eq!((gpu.code, &gpu.out), (Some(0), &cpu.out), "{device}: {}", gpu.err);
        assert!(!gpu.err.contains("WARN"), "{device}: {}", gpu.err);
    }
}

#[test]
fn auto_leaves_a_gpu_alone_that_does_not_do_and_says_why() {
    let old = FakeGpu { compute: (7, 5), ..FakeGpu::default() };
    let full = FakeGpu { used: 80 << 30, ..FakeGpu::default() };
    let cpu = Place::without().chat("cpu").out;
    for (place, expected) in [(Place::with_gpu(old), "too old"), (Place::with_gpu(full), "lacks")] {
        let finished = place.chat("auto");
        assert_eq!((finished.code, &finished.out), (Some(0), &cpu), "{}", finished.err);
        let said = finished.err;
        assert!(said.contains("the GPU is not used, the CPU computes") && said.contains(expected), "{said}");
    }
}

#[test]
fn other_tests_find_no_gpu_whatever_the_machine_has() {
    let place = Place::with(&Machine::of(1));
    let mut command = place.command("chat", &["--prompt", "once", "--max-tokens", "1", "--device", "cuda"]);
    wharf::without_gpus(&mut command);
    let finished = Finished::from(command.output().unwrap());
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.err.contains("there is no CUDA driver"), "{}", finished.err);
}

#[test]
fn auto_says_nothing_where_nobody_expects_a_gpu() {
    let finished = Place::without().chat("auto");
    assert_eq!((finished.code, finished.err.contains("WARN")), (Some(0), false), "{}", finished.err);
}

#[test]
fn a_gpu_that_is_lost_ends_the_answer_with_its_reason() {
    let place = Place::with_gpu(FakeGpu { lost_after: Some(60), ..FakeGpu::default() });
    let finished = place.chat("cuda");
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.err.contains("lost") && finished.err.contains("CUDA_ERROR"), "{}", finished.err);
}

#[test]
fn what_only_cpus_do_is_refused_on_a_gpu() {
    let place = Place::with(&Machine::of(1));
    for more in [["--kv-cache-dtype", "int8"], ["--tensor-parallel", "2"]] {
        let finished =
            Finished::from(place.command("serve", &["--device", "cuda", more[0], more[1]]).output().unwrap());
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.err.contains("cuda"), "{}", finished.err);
    }
}
