//! Paged KV memory as bookkeeping: which block belongs to whom, and which full blocks can be shared.
//!
//! Nothing here touches KV bytes. The design follows vLLM's v1 block pool (PagedAttention, arXiv 2309.06180):
//! blocks are reference counted, released blocks keep their content and go to the tail of a least-recently-used
//! list, and a keyed hash chain over tokens finds them again.

pub mod hash;
pub mod pool;

pub use hash::{BlockHash, PrefixHasher};
pub use pool::BlockPool;
