//! Decides what speeds are held against: what the GPU's memory lets through, and what it multiplies.

use serde_json::{Value, json};
use wharf_cuda::driver::{DeviceError, Gpu};
use wharf_cuda::measure::{Product, copy};

use crate::report::median;

/// Measured on this GPU in this run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Bytes a second that a copy within the GPU's memory reads and writes.
    pub(crate) copy: f64,
    /// Operations a second of a product in bfloat16 by our own kernel: no library that knows better is used yet, and PyTorch's rate is among the peers'.
    pub(crate) product: f64,
    /// Which product.
    of: Product,
    /// Bytes of the copy.
    bytes: usize,
}

impl Limits {
    /// # Errors
    /// Those of the GPU.
    pub(crate) fn measure(gpu: &Gpu, small: bool) -> Result<Limits, DeviceError> {
        let (bytes, side, runs) = if small { (1 << 16, 128, 3) } else { (1 << 30, 8192, 15) };
        let of = Product { rows: side, cols: side, tokens: side };
        Ok(Limits {
            copy: 2.0 * bytes as f64 / seconds(&copy(gpu, bytes, runs)?),
            product: of.flops() / seconds(&of.time(gpu, runs)?),
            of,
            bytes,
        })
    }

    /// Milliseconds that work takes at least: either its bytes or its operations are what it waits for.
    pub(crate) fn least(&self, bytes: f64, flops: f64) -> f64 {
        1e3 * (bytes / self.copy).max(flops / self.product)
    }

    /// Lines for people.
    pub(crate) fn lines(&self) -> [String; 2] {
        let Product { rows, cols, tokens } = self.of;
        [
            format!("copy of {} MiB: {:.0} GB/s read and written", self.bytes >> 20, self.copy / 1e9),
            format!(
                "product of {tokens}x{cols} by {cols}x{rows} in bf16, our kernel: {:.1} TFLOP/s",
                self.product / 1e12
            ),
        ]
    }

    pub(crate) fn json(&self) -> Value {
        let Product { rows, cols, tokens } = self.of;
        json!({
            "copy_bytes_per_s": self.copy, "copy_bytes": self.bytes, "product_flops_per_s": self.product,
            "product": {"rows": rows, "cols": cols, "tokens": tokens, "by": "wharf_matmul_brain_many"},
        })
    }
}

/// The middle of milliseconds, in seconds. A clock that shows nothing has seen at least a nanosecond.
fn seconds(milliseconds: &[f64]) -> f64 {
    (median(milliseconds) / 1e3).max(1e-9)
}
