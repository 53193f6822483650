//! Memory, copies, launches, time, threads.

use wharf_fake_cuda::FakeGpu;

use super::{fill, gpu, gpu_like};
use crate::driver::{Arg, Grid, Memory};

#[test]
fn a_gpu_says_what_it_is() {
    let gpu = gpu_like(FakeGpu {
        name: "NVIDIA A10".to_owned(),
        compute: (8, 6),
        memory: 24 << 30,
        used: 1 << 30,
        multiprocessors: 72,
        shared_limit: 99 << 10,
        ..FakeGpu::default()
    });
    assert_eq!((gpu.name(), gpu.capability(), gpu.multiprocessors()), ("NVIDIA A10", (8, 6), 72));
    assert_eq!(gpu.shared_limit(), 99 << 10);
    assert_eq!(gpu.memory(), Ok(Memory { free: 23 << 30, total: 24 << 30 }));
}

#[test]
fn fresh_memory_is_zero() {
    let gpu = gpu();
    let buffer = gpu.alloc(100).unwrap();
    let mut bytes = [1; 100];
    gpu.download(&buffer, 0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 100]);
}

#[test]
fn bytes_come_back_from_where_they_went() {
    let gpu = gpu();
    let buffer = gpu.alloc(10).unwrap();
    gpu.upload(&buffer, 3, b"wharf").unwrap();
    let mut bytes = [0; 7];
    gpu.download(&buffer, 2, &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0wharf\0");
}

#[test]
fn what_is_uploaded_is_there_before_the_host_goes_on() {
    let gpu = gpu();
    let buffer = gpu.alloc(4).unwrap();
    let mut source = *b"abcd";
    gpu.upload(&buffer, 0, &source).unwrap();
    std::hint::black_box(&mut source).fill(0);
    let mut bytes = [0; 4];
    gpu.download(&buffer, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"abcd");
}

#[test]
fn dropped_memory_is_free_again() {
    let gpu = gpu();
    let free = gpu.memory().unwrap().free;
    let buffer = gpu.alloc(1 << 20).unwrap();
    assert_eq!(gpu.memory().unwrap().free, free - (1 << 20));
    drop(buffer);
    assert_eq!(gpu.memory().unwrap().free, free);
}

#[test]
fn an_empty_buffer_takes_part_in_nothing() {
    let gpu = gpu();
    let (buffer, staging) = (gpu.alloc(0).unwrap(), gpu.staging(0).unwrap());
    assert!(buffer.is_empty() && staging.is_empty());
    gpu.upload(&buffer, 0, &[]).unwrap();
    gpu.download(&buffer, 0, &mut []).unwrap();
    gpu.send(&staging, 0..0, &buffer, 0).unwrap();
    gpu.fetch(&buffer, 0, &staging, 0..0).unwrap();
    let _ = buffer.at(0);
}

#[test]
fn kernels_run_in_order_with_copies() {
    let gpu = gpu();
    let buffer = gpu.alloc(16).unwrap();
    fill(&gpu, buffer.at(0), 4, 7).unwrap();
    gpu.upload(&buffer, 4, &[1, 0, 0, 0]).unwrap();
    fill(&gpu, buffer.at(8), 1, -1).unwrap();
    let mut bytes = [0; 16];
    gpu.download(&buffer, 0, &mut bytes).unwrap();
    assert_eq!(bytes, [7, 0, 0, 0, 1, 0, 0, 0, 255, 255, 255, 255, 7, 0, 0, 0]);
}

#[test]
fn floats_are_given_as_their_bits() {
    let gpu = gpu();
    let buffer = gpu.alloc(4).unwrap();
    let grid = Grid { blocks: [1, 1, 1], threads: 32, shared: 0 };
    let arguments = [Arg::Address(buffer.at(0)), Arg::I32(1), Arg::F32(1.5)];
    gpu.launch(&gpu.kernel("wharf_fill").unwrap(), grid, &arguments).unwrap();
    let mut bytes = [0; 4];
    gpu.download(&buffer, 0, &mut bytes).unwrap();
    assert_eq!(f32::from_le_bytes(bytes), 1.5);
}

#[test]
fn staging_is_written_again_only_when_it_was_sent() {
    let gpu = gpu();
    let buffer = gpu.alloc(8).unwrap();
    let mut staging = gpu.staging(4).unwrap();
    staging.write(0, b"abcd").unwrap();
    gpu.send(&staging, 0..4, &buffer, 0).unwrap();
    staging.write(0, b"efgh").unwrap();
    gpu.send(&staging, 1..3, &buffer, 4).unwrap();
    let mut bytes = [0; 8];
    gpu.download(&buffer, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"abcdfg\0\0");
}

#[test]
fn staging_is_read_only_when_it_was_fetched() {
    let gpu = gpu();
    let buffer = gpu.alloc(8).unwrap();
    let staging = gpu.staging(12).unwrap();
    fill(&gpu, buffer.at(0), 2, 0x0101_0101).unwrap();
    gpu.fetch(&buffer, 2, &staging, 4..8).unwrap();
    let mut bytes = [9; 12];
    staging.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]);
}

#[test]
fn staging_that_is_dropped_is_sent_before() {
    let gpu = gpu();
    let buffer = gpu.alloc(4).unwrap();
    let mut staging = gpu.staging(4).unwrap();
    staging.write(0, b"abcd").unwrap();
    gpu.send(&staging, 0..4, &buffer, 0).unwrap();
    drop(staging);
    let mut bytes = [0; 4];
    gpu.download(&buffer, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"abcd");
}

#[test]
fn a_gpu_and_its_buffers_move_between_threads() {
    let gpu = gpu();
    let buffer = gpu.alloc(4).unwrap();
    let moved = std::thread::spawn(move || {
        fill(&gpu, buffer.at(0), 1, 5).unwrap();
        gpu.synchronize().unwrap();
        (gpu, buffer)
    });
    let (gpu, buffer) = moved.join().unwrap();
    let mut bytes = [0; 4];
    gpu.download(&buffer, 0, &mut bytes).unwrap();
    assert_eq!(bytes, [5, 0, 0, 0]);
    let free = gpu.memory().unwrap().free;
    std::thread::spawn(move || drop(buffer)).join().unwrap();
    assert_eq!(gpu.memory().unwrap().free, free + 512);
}

#[test]
fn two_gpus_take_turns_on_one_thread() {
    let (first, second) = (gpu(), gpu());
    let (a, b) = (first.alloc(4).unwrap(), second.alloc(4).unwrap());
    fill(&first, a.at(0), 1, 1).unwrap();
    fill(&second, b.at(0), 1, 2).unwrap();
    let mut bytes = [[0; 4]; 2];
    first.download(&a, 0, &mut bytes[0]).unwrap();
    second.download(&b, 0, &mut bytes[1]).unwrap();
    assert_eq!(bytes, [[1, 0, 0, 0], [2, 0, 0, 0]]);
}

#[test]
fn buffers_outlive_their_gpu() {
    let gpu = gpu();
    let buffer = gpu.alloc(1000).unwrap();
    drop(gpu);
    assert_eq!(buffer.len(), 1000);
}

#[test]
fn time_on_the_gpu_grows() {
    let gpu = gpu();
    let buffer = gpu.alloc(4 << 20).unwrap();
    let timer = gpu.timer().unwrap();
    fill(&gpu, buffer.at(0), 1 << 20, 1).unwrap();
    let first = timer.elapsed().unwrap();
    assert!(first > 0.0);
    fill(&gpu, buffer.at(0), 1 << 20, 2).unwrap();
    assert!(timer.elapsed().unwrap() > first);
}

#[test]
fn a_block_may_have_all_the_shared_memory_there_is() {
    let gpu = gpu();
    let buffer = gpu.alloc(4).unwrap();
    let kernel = gpu.kernel("wharf_fill").unwrap();
    assert_eq!(kernel.name(), "wharf_fill");
    let arguments = [Arg::Address(buffer.at(0)), Arg::I32(1), Arg::I32(1)];
    let launch = |shared: u32| {
        let grid = Grid { blocks: [1, 1, 1], threads: 32, shared };
        // Recorded only: this kernel has no use for it.
        gpu.capture(|| gpu.launch(&kernel, grid, &arguments)).map(|_| ())
    };
    launch(gpu.shared_limit()).unwrap();
    assert!(launch(gpu.shared_limit() + 1).is_err());
}

#[test]
#[should_panic(expected = "byte 11 does not lie in a buffer of 10")]
fn an_address_beyond_the_end_is_refused() {
    let _ = gpu().alloc(10).unwrap().at(11);
}

#[test]
#[should_panic(expected = "5 bytes from byte 6 do not lie in a buffer of 10")]
fn a_copy_beyond_the_end_is_refused() {
    let gpu = gpu();
    let _ = gpu.upload(&gpu.alloc(10).unwrap(), 6, &[0; 5]);
}

#[test]
#[should_panic(expected = "a buffer is used with the GPU that it is on")]
fn a_buffer_of_another_gpu_is_refused() {
    let _ = gpu().upload(&gpu().alloc(10).unwrap(), 0, &[0; 5]);
}
