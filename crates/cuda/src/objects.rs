//! The compiled kernels, and which of them a GPU runs. `cargo xtask cuda-kernels` makes them from `kernels` with NVRTC.

use std::io::Read;

use flate2::read::GzDecoder;

use crate::driver::CudaVersion;

/// The oldest driver that anything here runs on: NVRTC 12 compiles for drivers of CUDA 12, of which the first is 12.0 (driver 525).
pub(crate) const OLDEST_DRIVER: CudaVersion = CudaVersion { major: 12, minor: 0 };

/// PTX is read by drivers of the CUDA that wrote it, or later ones: `.version 8.8` is that of CUDA 12.9.
const PTX_DRIVER: CudaVersion = CudaVersion { major: 12, minor: 9 };

/// The oldest GPUs: asynchronous copies and bf16 products came with Ampere.
pub(crate) const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

/// What the driver loads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object {
    /// As it is checked in: by gzip.
    compressed: &'static [u8],
    /// The oldest driver that loads it.
    pub(crate) needs: CudaVersion,
}

impl Object {
    /// A cubin or PTX, and a zero byte for the end of a text.
    ///
    /// # Panics
    /// When what was checked in is not what gzip made: a test reads every object.
    pub(crate) fn image(&self) -> Vec<u8> {
        let mut image = Vec::new();
        GzDecoder::new(self.compressed).read_to_end(&mut image).expect("objects were compressed by gzip");
        image.push(0);
        image
    }
}

static SM_80: &[u8] = include_bytes!("../objects/sm_80.cubin.gz");
static SM_90: &[u8] = include_bytes!("../objects/sm_90.cubin.gz");
static PTX: &[u8] = include_bytes!("../objects/wharf.ptx.gz");

/// What a GPU of this compute capability runs; nothing if it is older than [`OLDEST_CAPABILITY`]. Machine code runs on later GPUs of the same
/// major capability; sm_90's is made with what only 9.0 has, so whatever comes after is compiled by its driver.
pub(crate) fn object_for(capability: (u32, u32)) -> Option<Object> {
    match capability {
        (8, _) => Some(Object { compressed: SM_80, needs: OLDEST_DRIVER }),
        (9, 0) => Some(Object { compressed: SM_90, needs: OLDEST_DRIVER }),
        later if later > (9, 0) => Some(Object { compressed: PTX, needs: PTX_DRIVER }),
        _ => None,
    }
}
