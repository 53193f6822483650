//! The line between deciding and computing: what a forward pass takes and gives.
//!
//! The engine speaks to every device (CPU, CPU ranks, CUDA) through [`Backend`]. A backend owns weights and KV
//! memory and knows nothing of requests.

/// Index of a KV block of [`BLOCK_TOKENS`] positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// Positions per KV block.
pub const BLOCK_TOKENS: usize = wharf_kernels::attention::PAGE_TOKENS;

/// Consecutive tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// The tokens, at least one.
    pub tokens: &'a [u32],
    /// Position of `tokens[0]`; KV of all earlier positions has been written by earlier passes.
    pub start: usize,
    /// KV blocks of the sequence in order; covers `start + tokens.len()` positions.
    pub blocks: &'a [BlockId],
    /// Which of the tokens need logits.
    pub logits: LogitsFor,
}

/// Which tokens of a chunk need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitsFor {
    /// None of them: the sequence goes on in a later pass.
    None,
    /// The last one.
    Last,
    /// Every one (evaluation, speculation).
    All,
}

impl LogitsFor {
    /// Rows of logits that a chunk of `tokens` tokens yields.
    pub fn rows(self, tokens: usize) -> usize {
        match self {
            LogitsFor::None => 0,
            LogitsFor::Last => 1,
            LogitsFor::All => tokens,
        }
    }
}

/// Rows of logits in the order of chunks, then tokens. Reused from pass to pass.
#[derive(Debug, Default)]
pub struct Logits {
    /// Begins with `(rows, vocab_size)`. Never shrinks, so that no row is cleared before it is computed.
    memory: Vec<f32>,
    rows: usize,
    vocab_size: usize,
}

impl Logits {
    /// All rows: `(rows, vocab_size)`.
    pub fn values(&self) -> &[f32] {
        &self.memory[..self.rows * self.vocab_size]
    }

    /// Row `i`: `(vocab_size)`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values()[i * self.vocab_size..][..self.vocab_size]
    }

    /// Row `i`, to be changed by penalties and hooks.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.memory[..self.rows * self.vocab_size][i * self.vocab_size..][..self.vocab_size]
    }

    /// Makes them `(rows, vocab_size)`, to be written: what is in them is left over from other use.
    pub fn reset(&mut self, rows: usize, vocab_size: usize) -> &mut [f32] {
        (self.rows, self.vocab_size) = (rows, vocab_size);
        grow(&mut self.memory, rows * vocab_size);
        &mut self.memory[..rows * vocab_size]
    }

    /// Their memory, for what is computed before there are logits. No row is left.
    pub(crate) fn lend(&mut self) -> &mut Vec<f32> {
        self.rows = 0;
        &mut self.memory
    }
}

/// Makes room for so many values, and clears none that are there.
pub(crate) fn grow(memory: &mut Vec<f32>, len: usize) {
    if let Some(more) = len.checked_sub(memory.len()) {
        memory.reserve_exact(more);
        memory.resize(len, 0.0);
    }
}

/// Why a pass failed. The batch is lost; the engine fails its requests, and goes on with others if the device is still there.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The caller broke the contract of [`Chunk`].
    #[error("invalid batch: {0}")]
    InvalidBatch(String),
    /// The device reported an error.
    #[error("the device failed while {doing}")]
    Device {
        /// What was being computed.
        doing: String,
        /// The device's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The device is gone, or a part of it, and no later pass can succeed.
    #[error("{0}")]
    Lost(String),
}

/// Refuses what a pass over `chunks` could only panic over.
///
/// # Errors
/// [`BackendError::InvalidBatch`] when the contract of [`Chunk`] is broken, or the chunks have more than `max_batch_tokens` tokens together.
pub fn check_chunks(
    chunks: &[Chunk<'_>],
    vocab_size: usize,
    kv_blocks: usize,
    max_batch_tokens: usize,
) -> Result<(), BackendError> {
    let invalid = |message: String| Err(BackendError::InvalidBatch(message));
    let total: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
    if total > max_batch_tokens {
        return invalid(format!("{total} tokens, more than max_batch_tokens {max_batch_tokens}"));
    }
    for chunk in chunks {
        if chunk.tokens.is_empty() {
            return invalid("a chunk has no tokens".into());
        }
        if let Some(token) = chunk.tokens.iter().find(|token| **token as usize >= vocab_size) {
            return invalid(format!("token {token} is outside the vocabulary of {vocab_size}"));
        }
        let end = chunk.start.saturating_add(chunk.tokens.len());
        if chunk.blocks.len() * BLOCK_TOKENS < end {
            return invalid(format!("{} blocks do not hold {end} positions", chunk.blocks.len()));
        }
        if let Some(block) = chunk.blocks.iter().find(|block| block.0 as usize >= kv_blocks) {
            return invalid(format!("there is no KV block {}", block.0));
        }
    }
    Ok(())
}

/// A device that computes forward passes over its own weights and KV memory.
///
/// Contract: the same passes over the same KV give the same bits, whichever blocks hold it. A backend on CPUs gives more: for the
/// same tokens at the same positions of a sequence the logits are bit-identical whatever else is in the batch, and however the
/// sequence was split into chunks. On a GPU these may change the last bits, since its products are cut by the size of the batch.
pub trait Backend: Send {
    /// Tokens in the vocabulary.
    fn vocab_size(&self) -> usize;

    /// KV blocks that this backend has memory for.
    fn kv_blocks(&self) -> usize;

    /// Most tokens of one pass, over all chunks.
    fn max_batch_tokens(&self) -> usize;

    /// Computes all chunks, writes their KV, and leaves the wanted logits in `logits`.
    fn forward(&mut self, chunks: &[Chunk<'_>], logits: &mut Logits) -> Result<(), BackendError>;
}
