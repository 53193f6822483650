//! How many KV blocks a GPU has room for, once the weights are on it. Pure.
//!
//! Two bounds hold, and the smaller one counts: what is free now, and what this service may have of the GPU in all. The first keeps a service from failing beside
//! another one, the second from taking what the next one is to have.

use std::fmt;

use crate::driver::Memory;

/// A part of a GPU's memory, more than nothing and at most all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(f64);

impl Share {
    /// All of it.
    pub const ALL: Share = Share(1.0);

    /// Nothing if it is not more than 0 and at most 1.
    pub fn of(share: f64) -> Option<Share> {
        (share > 0.0 && share <= 1.0).then_some(Share(share))
    }

    fn bytes(self, total: u64) -> u64 {
        // GPUs have less than 2^53 bytes.
        (total as f64 * self.0) as u64
    }
}

/// What memory is for. All sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Needs {
    /// What this service may have of the GPU in all, weights included.
    pub share: Share,
    /// On the GPU already.
    pub weights: u64,
    /// What the largest pass takes beside weights, keys and values.
    pub activations: u64,
    /// Left alone for what comes later without being asked for: graphs, local memory of kernels, pieces too small to use.
    pub reserve: u64,
    /// Keys and values of one block in all layers.
    pub block: u64,
    /// Blocks without which the service is of no use: those of one longest sequence.
    pub least: usize,
}

/// Why the blocks do not fit.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MemoryError {
    /// Too little is free.
    #[error(
        "the GPU lacks {} of free memory: {} are free of {}, and {} for {least} KV blocks, {} for activations and {} in reserve are needed; \
         choose a shorter context or a smaller model, or end what else is on the GPU",
        Size(*.missing), Size(.memory.free), Size(.memory.total), Size(*.blocks), Size(.needs.activations), Size(.needs.reserve),
        least = .needs.least
    )]
    TooLittleFree {
        /// Bytes.
        missing: u64,
        /// Bytes of the blocks.
        blocks: u64,
        /// As it was.
        memory: Memory,
        /// What was asked for.
        needs: Needs,
    },
    /// The share is too small.
    #[error(
        "a share of {} of the GPU's memory lacks {}: it is {}, and {} for weights, {} for {least} KV blocks, {} for activations and {} in reserve \
         are needed; choose a larger share, a shorter context or a smaller model",
        .needs.share.0, Size(*.missing), Size(.needs.share.bytes(.memory.total)), Size(.needs.weights), Size(*.blocks),
        Size(.needs.activations), Size(.needs.reserve), least = .needs.least
    )]
    ShareTooSmall {
        /// Bytes.
        missing: u64,
        /// Bytes of the blocks.
        blocks: u64,
        /// As it was.
        memory: Memory,
        /// What was asked for.
        needs: Needs,
    },
}

/// How many blocks fit, at least as many as are needed. `memory` is as it is with the weights loaded.
///
/// # Panics
/// When a block has no bytes.
pub fn kv_blocks(memory: Memory, needs: Needs) -> Result<usize, MemoryError> {
    let Needs { share, weights, activations, reserve, block, least } = needs;
    assert!(block > 0, "a block has keys and values");
    let beside = activations.saturating_add(reserve);
    let blocks = block.saturating_mul(least as u64);
    let whole = share.bytes(memory.total);
    let beside_in_share = beside.saturating_add(weights);
    match (missing(whole, beside_in_share, blocks), missing(memory.free, beside, blocks)) {
        (Some(missing), _) => Err(MemoryError::ShareTooSmall { missing, blocks, memory, needs }),
        (None, Some(missing)) => Err(MemoryError::TooLittleFree { missing, blocks, memory, needs }),
        (None, None) => {
            let room = (whole - beside_in_share).min(memory.free - beside);
            Ok(usize::try_from(room / block).unwrap_or(usize::MAX))
        }
    }
}

/// What lacks for both; nothing if nothing does.
fn missing(room: u64, beside: u64, blocks: u64) -> Option<u64> {
    Some(beside.saturating_add(blocks).saturating_sub(room)).filter(|missing| *missing > 0)
}

/// Bytes for people.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        match UNITS.into_iter().find(|(shift, _)| self.0 >> shift > 0) {
            Some((shift, unit)) => write!(f, "{:.1} {unit}", self.0 as f64 / (1_u64 << shift) as f64),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    /// 64 of 80 GiB are free once 15 GiB of weights are loaded.
    const MEMORY: Memory = Memory { free: 64 * GIB, total: 80 * GIB };
    const NEEDS: Needs = Needs {
        share: Share::ALL,
        weights: 15 * GIB,
        activations: 2 * GIB,
        reserve: GIB,
        block: GIB / 4,
        least: 8,
    };

    #[test]
    fn blocks_fill_what_is_free() {
        assert_eq!(kv_blocks(MEMORY, NEEDS), Ok((64 - 2 - 1) * 4));
    }

    #[test]
    fn blocks_fill_no_more_than_the_share() {
        let half = Needs { share: Share(0.5), ..NEEDS };
        assert_eq!(kv_blocks(MEMORY, half), Ok((40 - 15 - 2 - 1) * 4));
    }

    #[test]
    fn two_services_with_half_a_gpu_each_fit() {
        let half = Needs { share: Share(0.5), ..NEEDS };
        let first = kv_blocks(MEMORY, half).unwrap() as u64 * half.block;
        let left = 80 * GIB - (15 + 2) * GIB - first - 15 * GIB;
        assert_eq!(kv_blocks(Memory { free: left, ..MEMORY }, half), kv_blocks(MEMORY, half));
    }

    #[test]
    fn a_part_of_a_block_is_none() {
        let memory = Memory { free: 6 * GIB - 1, ..MEMORY };
        assert_eq!(kv_blocks(memory, NEEDS), Ok(11));
    }

    #[test]
    fn exactly_enough_is_enough_and_a_byte_less_is_missing() {
        let enough = Memory { free: 5 * GIB, ..MEMORY };
        assert_eq!(kv_blocks(enough, NEEDS), Ok(8));
        let error = kv_blocks(Memory { free: 5 * GIB - 1, ..MEMORY }, NEEDS).unwrap_err();
        assert!(matches!(error, MemoryError::TooLittleFree { missing: 1, .. }), "{error}");
    }

    #[test]
    fn too_little_free_says_how_much_is_missing_and_for_what() {
        let error = kv_blocks(Memory { free: GIB, ..MEMORY }, NEEDS).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the GPU lacks 4.0 GiB of free memory: 1.0 GiB are free of 80.0 GiB, and 2.0 GiB for 8 KV blocks, 2.0 GiB for activations and \
             1.0 GiB in reserve are needed; choose a shorter context or a smaller model, or end what else is on the GPU"
        );
    }

    #[test]
    fn a_share_that_is_too_small_is_told_first() {
        let memory = Memory { free: 0, ..MEMORY };
        let error = kv_blocks(memory, Needs { share: Share(0.2), ..NEEDS }).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a share of 0.2 of the GPU's memory lacks 4.0 GiB: it is 16.0 GiB, and 15.0 GiB for weights, 2.0 GiB for 8 KV blocks, 2.0 GiB for \
             activations and 1.0 GiB in reserve are needed; choose a larger share, a shorter context or a smaller model"
        );
    }

    #[test]
    fn shares_are_more_than_nothing_and_at_most_all() {
        assert_eq!(Share::of(1.0), Some(Share::ALL));
        assert!(Share::of(0.001).is_some());
        for no_share in [0.0, -0.5, 1.01, f64::NAN, f64::INFINITY] {
            assert_eq!(Share::of(no_share), None);
        }
    }

    #[test]
    fn sizes_beyond_all_memory_are_missing_not_lost() {
        let huge = Needs { activations: u64::MAX, block: u64::MAX, ..NEEDS };
        assert!(matches!(kv_blocks(MEMORY, huge), Err(MemoryError::ShareTooSmall { .. })));
    }
}
