//! GPUs for unit tests.

use std::collections::BTreeMap;

use crate::gpu::{Gpu, Mig, Part};

/// `GPU-<index>`.
pub(crate) fn gpu(index: u32) -> Gpu {
    Gpu {
        index,
        uuid: format!("GPU-{index}"),
        name: "NVIDIA H100 80GB HBM3".to_owned(),
        minor: Some(index),
        bus_id: format!("00000000:{:02X}:00.0", 0x18 + index),
        memory: 81_559 << 20,
        compute: (9, 0),
        numa: Some(index / 2),
        graphics: false,
        virtual_gpu: false,
        clique: None,
        mig: Mig::Off,
    }
}

/// A part of a seventh.
pub(crate) fn part(uuid: &str, profile: &str, gpu_instance: u32) -> Part {
    Part {
        uuid: uuid.to_owned(),
        profile: profile.to_owned(),
        gpu_instance,
        compute_instance: 0,
        gpu_slices: 1,
        compute_slices: 1,
        memory_mib: 9856,
        multiprocessors: 16,
        engines: BTreeMap::from([("copy", 1), ("decoder", 1), ("encoder", 0), ("jpeg", 1), ("ofa", 0)]),
    }
}
