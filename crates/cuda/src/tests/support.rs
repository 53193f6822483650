//! A GPU for tests, and numbers for its memory.

use half::{bf16, f16};
use wharf_fake_cuda::{FakeCuda, FakeGpu};

use crate::driver::{Arg, Buffer, Gpu, Grid};
use crate::format::Kind;

/// Orders in which the threads of a block run. What depends on them lacks a barrier.
pub(super) const SCHEDULES: [u64; 3] = [0, 7, 1 << 40];

/// A GPU of its own for a test.
pub(super) fn gpu(schedule: u64, multiprocessors: u32) -> Gpu {
    let gpu = FakeGpu { schedule, multiprocessors, ..FakeGpu::default() };
    Gpu::open(FakeCuda::of_this_process().add(gpu).unwrap()).unwrap()
}

pub(super) fn launch(gpu: &Gpu, name: &str, blocks: [u32; 3], threads: u32, arguments: &[Arg]) {
    gpu.launch(&gpu.kernel(name).unwrap(), Grid { blocks, threads, shared: 0 }, arguments).unwrap();
}

pub(super) fn on_gpu(gpu: &Gpu, bytes: &[u8]) -> Buffer {
    let buffer = gpu.alloc(bytes.len()).unwrap();
    gpu.upload(&buffer, 0, bytes).unwrap();
    buffer
}

pub(super) fn floats_on_gpu(gpu: &Gpu, values: &[f32]) -> Buffer {
    on_gpu(gpu, bytemuck::cast_slice(values))
}

pub(super) fn floats(gpu: &Gpu, buffer: &Buffer) -> Vec<f32> {
    let mut values = vec![0.0; buffer.len() / 4];
    gpu.download(buffer, 0, bytemuck::cast_slice_mut(&mut values)).unwrap();
    values
}

pub(super) fn halves(gpu: &Gpu, buffer: &Buffer) -> Vec<u16> {
    let mut values = vec![0; buffer.len() / 2];
    gpu.download(buffer, 0, bytemuck::cast_slice_mut(&mut values)).unwrap();
    values
}

/// The bits of an activation.
pub(super) fn narrow(kind: Kind, value: f32) -> u16 {
    match kind {
        Kind::Half => f16::from_f32(value).to_bits(),
        Kind::Brain => bf16::from_f32(value).to_bits(),
    }
}

/// What the bits of an activation are.
pub(super) fn widen(kind: Kind, bits: u16) -> f32 {
    match kind {
        Kind::Half => f16::from_bits(bits).to_f32(),
        Kind::Brain => bf16::from_bits(bits).to_f32(),
    }
}

/// Numbers that look random and are the same each time: SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between -1 and 1.
    pub(super) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(super) fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }
}

/// Fails when a value is further from what it should be than `most` of the largest.
#[track_caller]
pub(super) fn close(found: &[f32], expected: &[f64], most: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-9_f64, |largest, value| largest.max(value.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs() / largest;
        assert!(error <= most, "{what}: {found} at {i} should be {expected}, {error:.1e} of the largest");
    }
}
