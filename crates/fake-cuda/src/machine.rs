//! What the file says: the driver, its GPUs, and what goes wrong.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A machine with a driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Machine {
    /// As `cuDriverGetVersion` says it: 12040 is 12.4.
    pub cuda: i32,
    /// What functions answer in place of what they would: a `CUresult` by the name of the function. One of [`FakeGpu::errors`] goes first.
    pub errors: BTreeMap<String, u32>,
    /// By their index. More may come while a program runs; none may go.
    pub gpus: Vec<FakeGpu>,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FakeGpu {
    /// Product.
    pub name: String,
    /// Compute capability.
    pub compute: (u32, u32),
    /// Bytes.
    pub memory: u64,
    /// Bytes that others have.
    pub used: u64,
    /// How many multiprocessors it says it has.
    pub multiprocessors: u32,
    /// Bytes of shared memory that one block can have.
    pub shared_limit: u32,
    /// In which order the threads of a kernel run: 0 is ascending, any other number another order.
    pub schedule: u64,
    /// It is lost with the launch after so many.
    pub lost_after: Option<u64>,
    /// With this `CUresult`; 700 is an illegal address.
    pub lost_with: u32,
    /// What functions answer in place of what they would, when they are called for this GPU.
    pub errors: BTreeMap<String, u32>,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine { cuda: 12_090, errors: BTreeMap::new(), gpus: Vec::new() }
    }
}

impl Default for FakeGpu {
    fn default() -> FakeGpu {
        FakeGpu {
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            compute: (9, 0),
            memory: 80 << 30,
            used: 0,
            multiprocessors: 132,
            shared_limit: 227 << 10,
            schedule: 0,
            lost_after: None,
            lost_with: 700,
            errors: BTreeMap::new(),
        }
    }
}

impl Machine {
    /// A machine with so many GPUs of one kind.
    pub fn of(gpus: usize) -> Machine {
        Machine { gpus: vec![FakeGpu::default(); gpus], ..Machine::default() }
    }
}
