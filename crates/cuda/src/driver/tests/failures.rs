//! What a GPU answers when something is wrong with it.

use std::process::Command;

use wharf_fake_cuda::{FakeCuda, FakeGpu};

use super::{fill, gpu, gpu_like};
use crate::driver::{Arg, DeviceError, Gpu, Grid, OpenError};

#[test]
fn there_are_only_as_many_gpus() {
    FakeCuda::of_this_process();
    let opened = Gpu::open(1_000_000).map(|_| ());
    assert!(matches!(opened, Err(OpenError::NoSuchDevice { index: 1_000_000, count: 1.. })), "{opened:?}");
}

#[test]
fn a_gpu_before_ampere_is_too_old() {
    let turing = FakeGpu { name: "Tesla T4".to_owned(), compute: (7, 5), ..FakeGpu::default() };
    let index = FakeCuda::of_this_process().add(turing).unwrap();
    let error = Gpu::open(index).map(|_| ()).unwrap_err();
    assert_eq!(error, OpenError::DeviceTooOld { index, name: "Tesla T4".to_owned(), capability: (7, 5) });
    assert_eq!(
        error.to_string(),
        format!(
            "GPU {index} (Tesla T4) is too old: it has compute capability 7.5, and 8.0 or later is needed"
        )
    );
}

#[test]
fn what_fails_while_opening_is_named_and_undone() {
    for (function, doing) in [
        ("cuDevicePrimaryCtxRetain", "take"),
        ("cuStreamCreate", "open a stream on"),
        ("cuModuleLoadData", "load the kernels into"),
    ] {
        let gpu = FakeGpu { errors: [(function.to_owned(), 2)].into(), ..FakeGpu::default() };
        let index = FakeCuda::of_this_process().add(gpu).unwrap();
        let error = Gpu::open(index).map(|_| ()).unwrap_err();
        let OpenError::Driver { doing: said, source } = &error else { panic!("{error:?}") };
        assert_eq!(*said, format!("{doing} GPU {index} (NVIDIA H100 80GB HBM3)"));
        assert_eq!((source.number, source.name.as_str()), (2, "CUDA_ERROR_OUT_OF_MEMORY"));
        FakeCuda::of_this_process().change(|machine| machine.gpus[index].errors.clear()).unwrap();
        assert!(Gpu::open(index).is_ok());
    }
}

#[test]
fn an_allocation_without_room_says_how_much_is_free() {
    let gpu = gpu_like(FakeGpu { memory: 1 << 20, used: 1 << 19, ..FakeGpu::default() });
    let kept = gpu.alloc(1 << 18).unwrap();
    let error = gpu.alloc((1 << 18) + 1).map(|_| ()).unwrap_err();
    assert_eq!(error, DeviceError::OutOfMemory { asked: (1 << 18) + 1, free: 1 << 18 });
    assert_eq!(error.to_string(), "the GPU has no room for 262145 bytes: 262144 are free");
    drop(kept);
    assert!(gpu.alloc((1 << 18) + 1).is_ok(), "the GPU goes on");
}

#[test]
fn a_gpu_that_is_lost_stays_lost() {
    let gpu = gpu_like(FakeGpu { lost_after: Some(2), ..FakeGpu::default() });
    let buffer = gpu.alloc(4).unwrap();
    fill(&gpu, buffer.at(0), 1, 1).unwrap();
    fill(&gpu, buffer.at(0), 1, 2).unwrap();
    gpu.synchronize().unwrap();
    fill(&gpu, buffer.at(0), 1, 3).unwrap();
    let lost = gpu.synchronize().unwrap_err();
    let DeviceError::Lost { doing, source } = &lost else { panic!("{lost:?}") };
    assert_eq!((doing.as_str(), source.name.as_str()), ("wait for the GPU", "CUDA_ERROR_ILLEGAL_ADDRESS"));
    assert_eq!(gpu.download(&buffer, 0, &mut [0; 4]), Err(lost.clone()));
    assert_eq!(gpu.alloc(4).map(|_| ()), Err(lost.clone()));
    assert_eq!(gpu.memory(), Err(lost));
}

#[test]
fn every_error_that_ends_a_context_loses_the_gpu() {
    for code in [46, 214, 220, 700, 702, 710, 714, 715, 716, 718, 719, 999] {
        let gpu = gpu_like(FakeGpu { lost_after: Some(0), lost_with: code, ..FakeGpu::default() });
        let buffer = gpu.alloc(4).unwrap();
        fill(&gpu, buffer.at(0), 1, 1).unwrap();
        let error = gpu.synchronize().unwrap_err();
        assert!(matches!(&error, DeviceError::Lost { source, .. } if source.number == code), "{error:?}");
    }
}

#[test]
fn a_call_that_fails_leaves_the_gpu_as_it_was() {
    let gpu = gpu();
    let error = gpu.kernel("wharf_of_another_program").map(|_| ()).unwrap_err();
    let DeviceError::Call { doing, source } = &error else { panic!("{error:?}") };
    assert_eq!((doing.as_str(), source.number), ("find the kernel wharf_of_another_program", 500));
    assert!(gpu.kernel("wharf\0fill").is_err());
    gpu.synchronize().unwrap();
}

#[test]
fn a_launch_that_cannot_be_is_told_with_its_grid() {
    let gpu = gpu();
    let buffer = gpu.alloc(4).unwrap();
    let kernel = gpu.kernel("wharf_fill").unwrap();
    let grid = Grid { blocks: [1, 2, 70_000], threads: 1025, shared: 0 };
    let arguments = [Arg::Address(buffer.at(0)), Arg::I32(1), Arg::I32(1)];
    let error = gpu.launch(&kernel, grid, &arguments).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to launch wharf_fill in 1x2x70000 blocks of 1025 threads with 0 bytes of shared memory"
    );
}

#[test]
fn memory_of_the_host_can_run_out_too() {
    let gpu = gpu_like(FakeGpu { errors: [("cuMemHostAlloc".to_owned(), 2)].into(), ..FakeGpu::default() });
    let error = gpu.staging(64).map(|_| ()).unwrap_err();
    assert!(matches!(&error, DeviceError::Call { source, .. } if source.number == 2), "{error:?}");
}

/// What this test program says on standard error when one of its tests ends it.
fn last_words(test: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let test = format!("driver::tests::failures::{test}");
    // What a process that ends like this leaves behind goes with the folder.
    let folder = tempfile::tempdir().unwrap();
    let mut program = Command::new(program);
    program.args(["--ignored", "--exact", &test]).env("TMPDIR", folder.path());
    let output = program.output().unwrap();
    assert_eq!(output.status.code(), None, "ended by a signal");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
#[ignore = "ends its process, which another test looks at"]
fn fills_too_much() {
    let gpu = gpu();
    let buffer = gpu.alloc(4).unwrap();
    fill(&gpu, buffer.at(0), 5, 1).unwrap();
    gpu.synchronize().unwrap();
}

#[test]
fn a_kernel_that_runs_over_its_memory_is_named() {
    let words = last_words("fills_too_much");
    assert!(words.contains("kernel wharf_fill touched 0x"), "{words}");
    assert!(words.contains(", 12 bytes behind the end of 4 bytes at 0x"), "{words}");
}

#[test]
#[ignore = "ends its process, which another test looks at"]
fn fills_a_little_too_much() {
    let gpu = gpu();
    let buffer = gpu.alloc(4).unwrap();
    fill(&gpu, buffer.at(0), 2, 1).unwrap();
    gpu.synchronize().unwrap();
    drop(buffer);
}

#[test]
fn memory_that_a_kernel_ran_over_is_noticed_when_it_is_freed() {
    let words = last_words("fills_a_little_too_much");
    assert!(words.contains("something was written beside the 4 bytes at 0x"), "{words}");
}
