//! Decides how a pipeline computes a pass: the leader has the first stage and sends micro-batches on, one after the other; every
//! stage works on one while the next comes in, and the last stage's logits come back to the leader.
//!
//! Workers have a connection to the leader alone, which passes rows on between them: readers with threads of their own, so that
//! no stage waits for another to listen.

use std::sync::mpsc;

use wharf_engine::cpu::{CpuStage, Entering};
use wharf_engine::{Backend, BackendError, Chunk, Logits};

use crate::assembly::Links;
use crate::batch::{self, OwnedChunk};
use crate::link::{Link, reasons};
use crate::micro::micro_batches;
use crate::wire::{FrameKind, WireError, put_values, values};

/// The first stage of a pipeline, which the engine sees as one device.
pub struct PipelineLeader {
    stage: CpuStage,
    stages: usize,
    /// To the second stage.
    next: Link,
    /// Logits of micro-batches, in their order.
    results: mpsc::Receiver<Vec<f32>>,
    /// Nothing of the first stage's own.
    none: Logits,
}

impl PipelineLeader {
    /// Waits until all stages have loaded, and leads them.
    ///
    /// # Errors
    /// When a rank is lost or the operating system refuses a thread.
    pub fn lead(stage: CpuStage, mut links: Links) -> Result<PipelineLeader, BackendError> {
        links.ready()?;
        let (most, stages) = (most_frame(&stage), links.0.len() + 1);
        let refused = |source: std::io::Error| BackendError::Device {
            doing: "connecting the stages of the pipeline".into(),
            source: Box::new(source),
        };
        let writers =
            links.0.iter().map(Link::split).collect::<std::io::Result<Vec<_>>>().map_err(refused)?;
        let mut writers = writers.into_iter();
        let next = writers.next().expect("a pipeline has two stages or more");
        let (done, results) = mpsc::channel();
        for mut from in links.0 {
            let to = writers.next();
            let done = done.clone();
            let relay = move || match to {
                Some(to) => relay(&mut from, to, most),
                None => collect(&mut from, &done, most),
            };
            std::thread::Builder::new().name("relay".into()).spawn(relay).map_err(refused)?;
        }
        Ok(PipelineLeader { stage, stages, next, results, none: Logits::default() })
    }
}

/// Longest frame between stages: rows, logits, or chunks with their blocks.
fn most_frame(stage: &CpuStage) -> usize {
    let (config, rows) = (stage.config(), stage.max_batch_tokens());
    let values = config.hidden_size.max(config.vocab_size);
    most_batch(stage).max(4 * rows * values)
}

/// Longest frame of chunks: as many as there are rows, each with all blocks.
pub(crate) fn most_batch(stage: &CpuStage) -> usize {
    4 + stage.max_batch_tokens() * (4 * (4 + stage.kv_blocks()) + 1)
}

/// Passes on what one stage sends to the next. That it ends is seen by everybody in the group's fate.
fn relay(from: &mut Link, mut to: Link, most: usize) {
    while let Ok((kind, payload)) = from.receive_any(most) {
        if to.send(kind, |frame| frame.extend_from_slice(payload)).is_err() {
            return;
        }
    }
}

/// Takes the logits of the last stage.
fn collect(from: &mut Link, done: &mpsc::Sender<Vec<f32>>, most: usize) {
    while let Ok(payload) = from.receive(FrameKind::Logits, most) {
        if done.send(values(payload).collect()).is_err() {
            return;
        }
    }
}

impl Backend for PipelineLeader {
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
        let batches = micro_batches(chunks, self.stages);
        let mut sent = 0;
        let outcome = batches.iter().try_for_each(|batch| {
            self.stage.forward(batch, Entering::Tokens, &mut self.none)?;
            send_on(&mut self.next, batch, &self.stage)?;
            sent += 1;
            Ok(())
        });
        let vocab = self.vocab_size();
        let rows = |batch: &[Chunk<'_>]| -> usize {
            batch.iter().map(|chunk| chunk.logits.rows(chunk.tokens.len())).sum()
        };
        let mut rest = logits.reset(batches[..sent].iter().map(|batch| rows(batch)).sum(), vocab);
        // Even when a later micro-batch was refused: the next pass must not find their logits.
        for batch in &batches[..sent] {
            let Ok(values) = self.results.recv() else {
                return Err(self.next.fate().lost("the last stage of the pipeline is gone".into()));
            };
            let to = rest.split_off_mut(..rows(batch) * vocab).unwrap_or_default();
            if values.len() != to.len() {
                let reason = WireError::Payload("number of logits");
                return Err(self.next.fate().lost(format!("the last stage is lost: {reason}")));
            }
            to.copy_from_slice(&values);
        }
        outcome
    }
}

/// Sends chunks and the rows that a stage has left.
fn send_on(next: &mut Link, chunks: &[Chunk<'_>], stage: &CpuStage) -> Result<(), BackendError> {
    next.send(FrameKind::Batch, |to| batch::encode(chunks, to))?;
    next.send(FrameKind::Hidden, |to| put_values(to, stage.leaving()))
}

/// Computes what the stage before sends until the group ends.
pub(crate) fn follow(link: &mut Link, mut stage: CpuStage) -> Result<(), BackendError> {
    let (most, predicts) = (most_frame(&stage), stage.share().predicts);
    let mut logits = Logits::default();
    let mut hidden = Vec::new();
    loop {
        let payload = link.receive(FrameKind::Batch, most)?;
        let chunks = match batch::decode(payload) {
            Ok(chunks) => chunks,
            Err(error) => return Err(link.lost(&error)),
        };
        let chunks: Vec<Chunk<'_>> = chunks.iter().map(OwnedChunk::borrow).collect();
        hidden.clear();
        hidden.extend(values(link.receive(FrameKind::Hidden, most)?));
        stage
            .forward(&chunks, Entering::Hidden(&hidden), &mut logits)
            .map_err(|error| link.fate().lost(reasons(&error)))?;
        if predicts {
            link.send(FrameKind::Logits, |to| put_values(to, logits.values()))?;
        } else {
            send_on(link, &chunks, &stage)?;
        }
    }
}
