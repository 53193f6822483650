//! Copies, and what is measured with them.

use super::support::{Random, gpu, launch, on_gpu};
use crate::driver::Arg;
use crate::measure::{Product, copy};

#[test]
fn every_piece_is_copied_and_nothing_behind_the_last() {
    // One block and three, fewer pieces than threads, some that four at a time do not divide, and exactly as many.
    for (blocks, pieces) in [(1, 1), (1, 255), (1, 1024 + 3), (3, 3 * 1024), (3, 3 * 1024 + 700)] {
        let gpu = gpu(7, 4);
        let mut random = Random(pieces);
        let bytes: Vec<u8> = (0..pieces * 16 + 16).map(|_| random.next() as u8).collect();
        let (from, to) = (on_gpu(&gpu, &bytes), gpu.alloc(bytes.len()).unwrap());
        let arguments = [Arg::Address(from.at(0)), Arg::Address(to.at(0)), Arg::I32(pieces as i32)];
        launch(&gpu, "wharf_copy", [blocks, 1, 1], 256, &arguments);
        let mut found = vec![1; bytes.len()];
        gpu.download(&to, 0, &mut found).unwrap();
        let (copied, behind) = found.split_at(pieces as usize * 16);
        assert!(copied == &bytes[..copied.len()], "{pieces} pieces by {blocks} blocks");
        assert_eq!(behind, [0; 16]);
    }
}

#[test]
fn limits_are_measured_as_often_as_asked() {
    let gpu = gpu(0, 4);
    let product = Product { rows: 48, cols: 64, tokens: 140 };
    assert_eq!(product.flops(), 2.0 * 48.0 * 64.0 * 140.0);
    for times in [copy(&gpu, 100_000, 3).unwrap(), product.time(&gpu, 3).unwrap()] {
        assert_eq!(times.len(), 3);
        assert!(times.iter().all(|time| time.is_finite() && *time >= 0.0), "{times:?}");
    }
}
