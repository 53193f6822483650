//! What a person is told who has no GPU that can be used: each time a process of its own, with another machine.
#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

use std::path::Path;
use std::process::Command;

use wharf_fake_cuda::{FakeCuda, FakeGpu, Machine};

/// What the example `gpus` prints on a machine.
fn told(folder: &Path) -> String {
    let test = std::env::current_exe().unwrap();
    let example = test.ancestors().nth(2).unwrap().join("examples/gpus");
    let output = Command::new(&example).env("LD_LIBRARY_PATH", folder).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn told_on(machine: &Machine) -> String {
    let folder = tempfile::tempdir().unwrap();
    FakeCuda::install(folder.path(), machine).unwrap();
    told(folder.path())
}

#[test]
fn every_gpu_of_a_machine_is_opened() {
    let mut machine = Machine::of(3);
    (machine.gpus[1].name, machine.gpus[1].compute) = ("NVIDIA A100-SXM4-40GB".to_owned(), (8, 0));
    (machine.gpus[2].name, machine.gpus[2].compute) = ("NVIDIA B200".to_owned(), (10, 0));
    machine.gpus[2].used = 1 << 30;
    assert_eq!(
        told_on(&machine),
        "GPU 0: NVIDIA H100 80GB HBM3, compute capability 9.0, 132 multiprocessors, 81920 of 81920 MiB free\n\
         GPU 1: NVIDIA A100-SXM4-40GB, compute capability 8.0, 132 multiprocessors, 81920 of 81920 MiB free\n\
         GPU 2: NVIDIA B200, compute capability 10.0, 132 multiprocessors, 80896 of 81920 MiB free\n"
    );
}

#[test]
fn without_a_driver_it_says_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    FakeCuda::hide(folder.path()).unwrap();
    let told = told(folder.path());
    assert!(
        told.starts_with("error: there is no CUDA driver: libcuda.so.1 was not found; install"),
        "{told}"
    );
}

#[test]
fn a_library_that_lacks_a_function_is_named() {
    let folder = tempfile::tempdir().unwrap();
    FakeCuda::install_without(folder.path(), &Machine::of(1), &["cuGraphLaunch"]).unwrap();
    let told = told(folder.path());
    assert!(told.starts_with("error: the libcuda that was found has no cuGraphLaunch"), "{told}");
}

#[test]
fn a_stub_of_the_toolkit_is_no_driver() {
    let told = told_on(&Machine { errors: [("cuDriverGetVersion".to_owned(), 34)].into(), ..Machine::of(1) });
    assert!(told.starts_with("error: the libcuda.so that was found is the stub of CUDA's toolkit"), "{told}");
}

#[test]
fn an_old_driver_is_told_apart() {
    let told = told_on(&Machine { cuda: 11_080, ..Machine::of(1) });
    let expected = "error: the NVIDIA driver is too old: it knows CUDA 11.8, and 12.0 or later is needed; update the driver\n";
    assert_eq!(told, expected);
}

#[test]
fn the_oldest_driver_is_enough_for_gpus_with_machine_code() {
    let told = told_on(&Machine { cuda: 12_000, ..Machine::of(1) });
    assert!(told.starts_with("GPU 0: NVIDIA H100"), "{told}");
}

#[test]
fn a_gpu_that_needs_ptx_needs_a_driver_that_reads_it() {
    let gpu = FakeGpu { compute: (10, 0), ..FakeGpu::default() };
    let told = told_on(&Machine { cuda: 12_080, gpus: vec![gpu], ..Machine::default() });
    assert!(told.contains("it knows CUDA 12.8, and 12.9 or later is needed"), "{told}");
}

#[test]
fn a_driver_without_gpus_is_told_apart() {
    for machine in [Machine::of(0), Machine { errors: [("cuInit".to_owned(), 100)].into(), ..Machine::of(1) }]
    {
        let told = told_on(&machine);
        assert!(told.starts_with("error: the NVIDIA driver sees no GPU"), "{told}");
    }
}

#[test]
fn what_the_driver_refuses_is_told_in_its_words() {
    let told = told_on(&Machine { errors: [("cuInit".to_owned(), 803)].into(), ..Machine::of(1) });
    assert_eq!(
        told,
        "error: failed to initialise the CUDA driver\n  because the driver answered CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803): \
         library and kernel module are of different versions\n"
    );
}
