//! Recording and replaying.

use std::panic::{AssertUnwindSafe, catch_unwind};

use wharf_fake_cuda::FakeGpu;

use super::{fill, gpu, gpu_like};
use crate::driver::{Buffer, DeviceError, Gpu};

fn words(gpu: &Gpu, buffer: &Buffer) -> Vec<u32> {
    let mut bytes = vec![0; buffer.len()];
    gpu.download(buffer, 0, &mut bytes).unwrap();
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

#[test]
fn what_is_recorded_is_not_done() {
    let gpu = gpu();
    let buffer = gpu.alloc(8).unwrap();
    let _graph = gpu.capture(|| fill(&gpu, buffer.at(0), 2, 9)).unwrap();
    assert_eq!(words(&gpu, &buffer), [0, 0]);
}

#[test]
fn a_graph_is_replayed_as_often_as_it_is_asked_for() {
    let gpu = gpu();
    let buffer = gpu.alloc(12).unwrap();
    let graph = gpu
        .capture(|| {
            fill(&gpu, buffer.at(0), 3, 9)?;
            fill(&gpu, buffer.at(4), 1, 8)
        })
        .unwrap();
    for _ in 0..3 {
        gpu.upload(&buffer, 0, &[1; 12]).unwrap();
        gpu.replay(&graph).unwrap();
        assert_eq!(words(&gpu, &buffer), [9, 8, 9]);
    }
}

#[test]
fn a_pass_is_one_write_one_replay_and_one_read() {
    let gpu = gpu();
    let buffer = gpu.alloc(8).unwrap();
    let (mut input, output) = (gpu.staging(4).unwrap(), gpu.staging(8).unwrap());
    let graph = gpu
        .capture(|| {
            gpu.send(&input, 0..4, &buffer, 0)?;
            fill(&gpu, buffer.at(4), 1, 7)?;
            gpu.fetch(&buffer, 0, &output, 0..8)
        })
        .unwrap();
    for number in 1..4 {
        input.write(0, &[number; 4]).unwrap();
        gpu.replay(&graph).unwrap();
        let mut bytes = [0; 8];
        output.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, [number, number, number, number, 7, 0, 0, 0]);
    }
}

#[test]
fn a_graph_keeps_its_staging_buffers() {
    let gpu = gpu();
    let buffer = gpu.alloc(4).unwrap();
    let mut staging = gpu.staging(4).unwrap();
    staging.write(0, b"abcd").unwrap();
    let graph = gpu.capture(|| gpu.send(&staging, 0..4, &buffer, 0)).unwrap();
    drop(staging);
    gpu.replay(&graph).unwrap();
    assert_eq!(words(&gpu, &buffer), [u32::from_le_bytes(*b"abcd")]);
}

#[test]
fn a_graph_that_is_dropped_ends_before() {
    let gpu = gpu();
    let buffer = gpu.alloc(4).unwrap();
    let graph = gpu.capture(|| fill(&gpu, buffer.at(0), 1, 3)).unwrap();
    gpu.replay(&graph).unwrap();
    drop(graph);
    assert_eq!(words(&gpu, &buffer), [3]);
}

#[test]
fn graphs_are_part_of_graphs() {
    let gpu = gpu();
    let buffer = gpu.alloc(8).unwrap();
    let inner = gpu.capture(|| fill(&gpu, buffer.at(0), 1, 3)).unwrap();
    let outer = gpu
        .capture(|| {
            gpu.replay(&inner)?;
            fill(&gpu, buffer.at(4), 1, 4)
        })
        .unwrap();
    drop(inner);
    gpu.replay(&outer).unwrap();
    assert_eq!(words(&gpu, &buffer), [3, 4]);
}

#[test]
fn a_recording_that_fails_gives_its_error_and_leaves_the_gpu_as_it_was() {
    let gpu = gpu();
    let buffer = gpu.alloc(4).unwrap();
    let own = DeviceError::OutOfMemory { asked: 1, free: 0 };
    let failed = gpu.capture(|| {
        fill(&gpu, buffer.at(0), 1, 3)?;
        Err(own.clone())
    });
    assert_eq!(failed.map(|_| ()), Err(own));
    fill(&gpu, buffer.at(0), 1, 4).unwrap();
    assert_eq!(words(&gpu, &buffer), [4]);
    assert!(gpu.capture(|| Ok(())).is_ok());
}

#[test]
fn a_recording_that_panics_ends() {
    let gpu = gpu();
    let buffer = gpu.alloc(4).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| gpu.capture(|| panic!("on purpose")).map(|_| ())));
    assert!(panicked.is_err());
    fill(&gpu, buffer.at(0), 1, 4).unwrap();
    assert_eq!(words(&gpu, &buffer), [4]);
}

#[test]
fn what_cannot_be_recorded_fails_the_recording() {
    let gpu = gpu();
    let buffer = gpu.alloc(4).unwrap();
    let mut staging = gpu.staging(4).unwrap();
    let fails: [&mut dyn FnMut() -> Result<(), DeviceError>; 6] = [
        &mut || gpu.alloc(4).map(|_| ()),
        &mut || gpu.staging(4).map(|_| ()),
        &mut || gpu.upload(&buffer, 0, &[1; 4]),
        &mut || gpu.download(&buffer, 0, &mut [0; 4]),
        &mut || gpu.synchronize(),
        &mut || staging.write(0, &[1; 4]),
    ];
    for (index, work) in fails.into_iter().enumerate() {
        let failed = gpu.capture(&mut *work).map(|_| ()).unwrap_err();
        assert!(matches!(failed, DeviceError::Call { .. }), "{index}: {failed:?}");
        // Whoever swallows the error gets no graph either.
        let failed = gpu.capture(|| {
            let _ = work();
            Ok(())
        });
        assert!(failed.is_err(), "{index}");
        fill(&gpu, buffer.at(0), 1, 4).unwrap();
        assert_eq!(words(&gpu, &buffer), [4], "{index}");
    }
}

#[test]
fn others_allocate_while_a_graph_is_recorded() {
    let recording = gpu();
    let other = gpu();
    let graph = recording.capture(|| std::thread::spawn(move || other.alloc(4).map(|_| ())).join().unwrap());
    assert!(graph.is_ok());
}

#[test]
fn a_gpu_lost_within_a_graph_is_noticed() {
    let gpu = gpu_like(FakeGpu { lost_after: Some(1), lost_with: 719, ..FakeGpu::default() });
    let buffer = gpu.alloc(4).unwrap();
    let output = gpu.staging(4).unwrap();
    let graph = gpu
        .capture(|| {
            fill(&gpu, buffer.at(0), 1, 3)?;
            gpu.fetch(&buffer, 0, &output, 0..4)
        })
        .unwrap();
    gpu.replay(&graph).unwrap();
    output.read(0, &mut [0; 4]).unwrap();
    gpu.replay(&graph).unwrap();
    let lost = output.read(0, &mut [0; 4]).unwrap_err();
    assert!(matches!(&lost, DeviceError::Lost { doing, .. } if doing == "wait for a copy"), "{lost:?}");
    assert_eq!(gpu.replay(&graph), Err(lost));
}
