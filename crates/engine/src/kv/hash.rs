//! Names the content of a full KV block by a keyed hash chain.
//!
//! A block's KV depends on every token before it, so its hash covers its parent's hash. The hash is keyed and 128 bits
//! wide: tenants can neither construct nor stumble on a collision that would show them another's KV
//! (SipHash-2-4, Aumasson and Bernstein 2012, with 128-bit output).

use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher24};

/// Identity of a full block's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockHash(pub u128);

/// Hashes blocks under one secret key.
#[derive(Clone, Debug)]
pub struct PrefixHasher {
    key: [u8; 16],
}

impl PrefixHasher {
    /// A hasher under `key`. Processes that share KV must share the key.
    pub fn new(key: [u8; 16]) -> Self {
        PrefixHasher { key }
    }

    /// A hasher under a key drawn from the operating system's randomness.
    pub fn random() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        let half = |n: u64| RandomState::new().hash_one(n).to_le_bytes();
        let mut key = [0; 16];
        key[..8].copy_from_slice(&half(1));
        key[8..].copy_from_slice(&half(2));
        PrefixHasher { key }
    }

    /// The hash of the block that holds `tokens` after `parent`, for requests of `salt`.
    pub fn block(&self, parent: Option<BlockHash>, salt: u64, tokens: &[u32]) -> BlockHash {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        match parent {
            // The salt of the first block reaches all later ones through the chain.
            None => {
                hasher.write_u8(0);
                hasher.write_u64(salt);
            }
            Some(BlockHash(hash)) => {
                hasher.write_u8(1);
                hasher.write_u128(hash);
            }
        }
        for token in tokens {
            hasher.write_u32(*token);
        }
        BlockHash(hasher.finish128().as_u128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_key_salt_parent_and_tokens() {
        let hasher = PrefixHasher::new([7; 16]);
        let base = hasher.block(None, 0, &[1, 2, 3]);
        assert_eq!(base, PrefixHasher::new([7; 16]).block(None, 0, &[1, 2, 3]));
        assert_ne!(base, PrefixHasher::new([8; 16]).block(None, 0, &[1, 2, 3]));
        assert_ne!(base, hasher.block(None, 1, &[1, 2, 3]));
        assert_ne!(base, hasher.block(Some(base), 0, &[1, 2, 3]));
        assert_ne!(base, hasher.block(None, 0, &[1, 2, 4]));
    }

    #[test]
    fn random_keys_differ() {
        let tokens = [1, 2, 3];
        assert_ne!(
            PrefixHasher::random().block(None, 0, &tokens),
            PrefixHasher::random().block(None, 0, &tokens)
        );
    }
}
