//! The table of GPU products.

use super::{Product, Speed};

/// A product in the units of data sheets.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Name as node labels have it.
    pub(crate) name: &'static str,
    /// What people call it, in lower case without separators.
    pub(crate) short: &'static str,
    /// Memory that the driver shows, MiB.
    memory_mib: u64,
    /// Memory bandwidth, GB/s.
    bandwidth: f64,
    /// Dense tensor rate on FP16 or BF16 with FP32 sums, TFLOPS.
    half: f64,
    /// Dense tensor rate on FP8, TFLOPS; 0 for none.
    fp8: f64,
    /// Dense tensor rate on INT8, TOPS; 0 for none.
    int8: f64,
    /// NVLink, Infinity Fabric or PCIe of one card, both directions, GB/s.
    link: f64,
}

impl Row {
    pub(crate) fn product(&self) -> Product {
        let some = |rate: f64| (rate > 0.0).then_some(rate * 1e12);
        Product {
            name: self.name.to_owned(),
            memory: self.memory_mib << 20,
            speed: Some(Speed {
                bandwidth: self.bandwidth * 1e9,
                half: self.half * 1e12,
                fp8: some(self.fp8),
                int8: some(self.int8),
                link: self.link * 1e9,
            }),
        }
    }
}

/// Name, short name, MiB, GB/s, FP16, FP8, INT8, GB/s of the link.
#[expect(clippy::too_many_arguments, reason = "a line of the table")]
const fn row(
    name: &'static str,
    short: &'static str,
    memory_mib: u64,
    bandwidth: f64,
    half: f64,
    fp8: f64,
    int8: f64,
    link: f64,
) -> Row {
    Row { name, short, memory_mib, bandwidth, half, fp8, int8, link }
}

/// Every product, by memory from small to large and by speed within; what is planned for takes the first that fits.
#[rustfmt::skip]
pub const PRODUCTS: &[Row] = &[
    // NVIDIA T4 Tensor Core GPU datasheet: 65 TFLOPS FP16, 130 TOPS INT8, 320 GB/s in the text of its first edition and 300 in
    // later ones, PCIe 3.0.
    row("Tesla-T4", "t4", 15_360, 300.0, 65.0, 0.0, 130.0, 32.0),
    // NVIDIA V100 Tensor Core GPU datasheet: 125 TFLOPS in tensor cores (FP16 only), 900 GB/s, NVLink 300 GB/s.
    row("Tesla-V100-SXM2-16GB", "v100sxm16gb", 16_384, 900.0, 125.0, 0.0, 0.0, 300.0),
    // NVIDIA A10 datasheet: 125 TFLOPS, 250 TOPS INT8, 600 GB/s, PCIe 4.0.
    row("NVIDIA-A10", "a10", 23_028, 600.0, 125.0, 0.0, 250.0, 64.0),
    // Amazon EC2 G5 instance page and the AWS variant's sheet: 70 TFLOPS dense in tensor cores, 140 TOPS, 600 GB/s.
    row("NVIDIA-A10G", "a10g", 23_028, 600.0, 70.0, 0.0, 140.0, 64.0),
    // NVIDIA L4 datasheet: 242 and 485 with sparsity, 300 GB/s, PCIe 4.0.
    row("NVIDIA-L4", "l4", 23_034, 300.0, 121.0, 242.5, 242.5, 64.0),
    // NVIDIA A30 datasheet: 165 TFLOPS, 330 TOPS, 933 GB/s, NVLink bridge 200 GB/s.
    row("NVIDIA-A30", "a30", 24_576, 933.0, 165.0, 0.0, 330.0, 200.0),
    // NVIDIA Ampere GA102 whitepaper: 71 TFLOPS with FP32 sums, 284 TOPS, 936 GB/s.
    row("NVIDIA-GeForce-RTX-3090", "rtx3090", 24_576, 936.0, 71.0, 0.0, 284.0, 64.0),
    // NVIDIA Ada GPU architecture whitepaper: 165.2, 330.3 (FP32 sums), 660.6 TOPS, 1,008 GB/s.
    row("NVIDIA-GeForce-RTX-4090", "rtx4090", 24_564, 1_008.0, 165.2, 330.3, 660.6, 64.0),
    // NVIDIA V100 datasheet, as above.
    row("Tesla-V100-SXM2-32GB", "v100", 32_768, 900.0, 125.0, 0.0, 0.0, 300.0),
    // NVIDIA RTX Blackwell GPU architecture whitepaper: 209.5, 419 (FP32 sums), 838 TOPS, 1,792 GB/s, PCIe 5.0.
    row("NVIDIA-GeForce-RTX-5090", "rtx5090", 32_607, 1_792.0, 209.5, 419.0, 838.0, 128.0),
    // NVIDIA A100 Tensor Core GPU datasheet: 312 TFLOPS, 624 TOPS; 40 GB: 1,555 GB/s, 80 GB SXM: 2,039, PCIe: 1,935; NVLink 600.
    row("NVIDIA-A100-PCIE-40GB", "a100pcie40gb", 40_960, 1_555.0, 312.0, 0.0, 624.0, 64.0),
    row("NVIDIA-A100-SXM4-40GB", "a10040gb", 40_960, 1_555.0, 312.0, 0.0, 624.0, 600.0),
    // NVIDIA L40 datasheet: 181, 362, 362; 864 GB/s.
    row("NVIDIA-L40", "l40", 46_068, 864.0, 181.0, 362.0, 362.0, 64.0),
    // NVIDIA L40S datasheet: 362, 733, 733 without sparsity; 864 GB/s, PCIe 4.0.
    row("NVIDIA-L40S", "l40s", 46_068, 864.0, 362.0, 733.0, 733.0, 64.0),
    // NVIDIA A40 datasheet: 149.7 TFLOPS, 299.3 TOPS, 696 GB/s, NVLink bridge 112.5.
    row("NVIDIA-A40", "a40", 46_068, 696.0, 149.7, 0.0, 299.3, 112.5),
    // NVIDIA RTX A6000 datasheet and GA102 whitepaper: 154.8 TFLOPS, 309.7 TOPS, 768 GB/s, NVLink bridge 112.5.
    row("NVIDIA-RTX-A6000", "a6000", 49_140, 768.0, 154.8, 0.0, 309.7, 112.5),
    // NVIDIA RTX 6000 Ada Generation datasheet: 1,457 FP8 with sparsity, 960 GB/s.
    row("NVIDIA-RTX-6000-Ada-Generation", "rtx6000ada", 49_140, 960.0, 364.2, 728.5, 728.5, 64.0),
    // NVIDIA A100 datasheet, as above.
    row("NVIDIA-A100-80GB-PCIe", "a100pcie80gb", 81_920, 1_935.0, 312.0, 0.0, 624.0, 64.0),
    row("NVIDIA-A100-SXM4-80GB", "a100", 81_920, 2_039.0, 312.0, 0.0, 624.0, 600.0),
    // NVIDIA H100 Tensor Core GPU datasheet: PCIe 1,513 and 3,026 with sparsity, 2 TB/s; SXM 1,979 and 3,958, 3.35 TB/s, NVLink
    // 900; NVL 1,671 and 3,341, 3.9 TB/s, NVLink 600.
    row("NVIDIA-H100-PCIe", "h100pcie", 81_559, 2_000.0, 756.0, 1_513.0, 1_513.0, 128.0),
    row("NVIDIA-H100-80GB-HBM3", "h100", 81_559, 3_350.0, 989.5, 1_979.0, 1_979.0, 900.0),
    row("NVIDIA-H100-NVL", "h100nvl", 95_830, 3_900.0, 835.5, 1_670.5, 1_670.5, 600.0),
    // NVIDIA GH200 Grace Hopper Superchip datasheet, 96 GB of HBM3: 4 TB/s, NVLink 900.
    row("NVIDIA-GH200-480GB", "gh200", 97_871, 4_000.0, 989.5, 1_979.0, 1_979.0, 900.0),
    // NVIDIA H200 Tensor Core GPU datasheet: 141 GB, 4.8 TB/s, rates of the H100 SXM, NVLink 900; NVL as its rates.
    row("NVIDIA-H200-NVL", "h200nvl", 143_771, 4_800.0, 835.5, 1_670.5, 1_670.5, 900.0),
    row("NVIDIA-H200", "h200", 143_771, 4_800.0, 989.5, 1_979.0, 1_979.0, 900.0),
    // NVIDIA HGX B200 (DGX B200 datasheet, a share of eight): 180 GB, 64 TB/s, 72 PFLOPS FP8 with sparsity, NVLink 1.8 TB/s.
    row("NVIDIA-B200", "b200", 183_359, 8_000.0, 2_250.0, 4_500.0, 4_500.0, 1_800.0),
    // AMD Instinct MI300X data sheet: 192 GB, 5.3 TB/s, 1,307.4 and 2,614.9, Infinity Fabric 896 GB/s.
    row("AMD_Instinct_MI300X_OAM", "mi300x", 196_592, 5_300.0, 1_307.4, 2_614.9, 2_614.9, 896.0),
];
