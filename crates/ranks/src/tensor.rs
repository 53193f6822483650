//! Decides how a tensor-parallel group computes a pass: the leader tells every rank the chunks, and all compute them in step,
//! passing the sums of each layer on.

use wharf_engine::cpu::{CpuStage, Entering};
use wharf_engine::{Backend, BackendError, Chunk, Logits, Ranks};

use crate::assembly::Links;
use crate::batch::{self, OwnedChunk};
use crate::link::{Link, reasons};
use crate::star::Center;
use crate::wire::FrameKind;

/// What carries sums on the leader's side.
pub struct LeaderTies {
    /// For batches.
    links: Vec<Link>,
}

/// Rank 0 of a tensor-parallel group, which the engine sees as one device.
pub struct TensorLeader {
    stage: CpuStage,
    links: Vec<Link>,
}

impl Links {
    /// Splits the connections: what batches go over, and what the stage passes sums on over.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn tie(self) -> std::io::Result<(LeaderTies, Box<dyn Ranks>)> {
        let links = self.0.iter().map(Link::split).collect::<std::io::Result<_>>()?;
        Ok((LeaderTies { links }, Box::new(Center::new(self.0))))
    }

    /// As [`Links::tie`] where the stage passes sums on over something else.
    pub fn tied(self) -> LeaderTies {
        LeaderTies { links: self.0 }
    }
}

impl LeaderTies {
    /// Waits until all ranks have loaded, and leads them.
    ///
    /// # Errors
    /// When a rank is lost.
    pub fn lead(self, stage: CpuStage) -> Result<TensorLeader, BackendError> {
        let mut links = Links(self.links);
        links.ready()?;
        Ok(TensorLeader { stage, links: links.0 })
    }
}

impl Backend for TensorLeader {
    fn vocab_size(&self) -> usize {
        self.stage.config().vocab_size
    }

    fn kv_blocks(&self) -> usize {
        self.stage.kv_blocks()
    }

    fn max_batch_tokens(&self) -> usize {
        self.stage.max_batch_tokens()
    }

    fn forward(&mut self, chunks: &[Chunk<'_>], logits: &mut Logits) -> Result<(), BackendError> {
        self.stage.check(chunks, Entering::Tokens)?;
        for link in &mut self.links {
            link.send(FrameKind::Batch, |to| batch::encode(chunks, to))?;
        }
        self.stage.forward(chunks, Entering::Tokens, logits)
    }
}

/// Computes what the leader sends until the group ends.
pub(crate) fn follow(link: &mut Link, mut stage: CpuStage, most: usize) -> Result<(), BackendError> {
    let mut logits = Logits::default();
    loop {
        let payload = link.receive(FrameKind::Batch, most)?;
        let chunks = match batch::decode(payload) {
            Ok(chunks) => chunks,
            Err(error) => return Err(link.lost(&error)),
        };
        let chunks: Vec<Chunk<'_>> = chunks.iter().map(OwnedChunk::borrow).collect();
        match stage.forward(&chunks, Entering::Tokens, &mut logits) {
            Ok(()) => {}
            // The leader has refused it for the same reason before anything was added.
            Err(BackendError::InvalidBatch(reason)) => tracing::warn!(reason, "a batch was refused"),
            Err(error @ (BackendError::Device { .. } | BackendError::Lost(_))) => {
                return Err(link.fate().lost(reasons(&error)));
            }
        }
    }
}
