//! Decides how a step's chunks are cut into micro-batches, so that the stages of a pipeline work at the same time.

use wharf_engine::{Chunk, LogitsFor};

/// Rows of a micro-batch, at least: every one of them reads a stage's weights again.
const ROWS: usize = 4;

/// Micro-batches for each stage, at most: more shorten the time in which the first and the last stage wait, and cost more reading.
const PER_STAGE: usize = 2;

/// Micro-batches of nearly the same number of rows, in the order of the chunks. A chunk that is cut goes on in the next one, which
/// every stage computes after it. Logits come in the same order as from all chunks at once.
pub(crate) fn micro_batches<'a>(chunks: &[Chunk<'a>], stages: usize) -> Vec<Vec<Chunk<'a>>> {
    let rows: usize = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
    let count = (rows / ROWS).clamp(1, PER_STAGE * stages);
    let end = |batch: usize| (batch + 1) * rows / count;
    let mut batches = vec![Vec::new()];
    let mut done = 0;
    for chunk in chunks {
        let mut rest = *chunk;
        loop {
            let room = end(batches.len() - 1) - done;
            let batch = batches.last_mut().expect("there is one from the beginning");
            if rest.tokens.len() <= room {
                done += rest.tokens.len();
                batch.push(rest);
                break;
            }
            if room > 0 {
                let (now, later) = rest.tokens.split_at(room);
                let logits = match rest.logits {
                    LogitsFor::None | LogitsFor::Last => LogitsFor::None,
                    LogitsFor::All => LogitsFor::All,
                };
                batch.push(Chunk { tokens: now, logits, ..rest });
                rest = Chunk { tokens: later, start: rest.start + room, ..rest };
                done += room;
            }
            batches.push(Vec::new());
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wharf_engine::BlockId;

    use super::*;

    const BLOCKS: [BlockId; 1] = [BlockId(0)];

    fn chunk(tokens: &[u32], logits: LogitsFor) -> Chunk<'_> {
        Chunk { tokens, start: 0, blocks: &BLOCKS, logits }
    }

    #[test]
    fn a_prompt_is_cut_and_few_streams_are_not() {
        let prompt: Vec<u32> = (0..10).collect();
        let one = [7];
        let cut = micro_batches(&[chunk(&one, LogitsFor::Last), chunk(&prompt, LogitsFor::Last)], 2);
        let cut: Vec<Vec<_>> = cut
            .iter()
            .map(|batch| batch.iter().map(|chunk| (chunk.tokens.len(), chunk.start, chunk.logits)).collect())
            .collect();
        let expected =
            [vec![(1, 0, LogitsFor::Last), (4, 0, LogitsFor::None)], vec![(6, 4, LogitsFor::Last)]];
        assert_eq!(cut, expected);
        assert_eq!(micro_batches(&[chunk(&one, LogitsFor::Last); 7], 2).len(), 1);
        assert_eq!(micro_batches(&[chunk(&one, LogitsFor::Last); 64], 3).len(), 6);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_doubled_or_reordered(
            lens in prop::collection::vec((1usize..40, 0u8..3), 1..12),
            stages in 1usize..5,
        ) {
            let tokens: Vec<u32> = (0..40).collect();
            let chunks: Vec<Chunk<'_>> = lens
                .iter()
                .map(|(len, logits)| {
                    let logits = [LogitsFor::None, LogitsFor::Last, LogitsFor::All][usize::from(*logits)];
                    chunk(&tokens[..*len], logits)
                })
                .collect();
            let batches = micro_batches(&chunks, stages);
            prop_assert!(batches.len() <= PER_STAGE * stages);
            prop_assert!(batches.iter().all(|batch| !batch.is_empty()));
            let rows = |chunks: &mut dyn Iterator<Item = &Chunk<'_>>| -> Vec<(u32, usize, bool)> {
                chunks
                    .flat_map(|chunk| {
                        let wanted = chunk.logits.rows(chunk.tokens.len());
                        let first = chunk.tokens.len() - wanted;
                        chunk.tokens.iter().enumerate().map(move |(i, token)| (*token, chunk.start + i, i >= first))
                    })
                    .collect()
            };
            prop_assert_eq!(rows(&mut batches.iter().flatten()), rows(&mut chunks.iter()));
        }
    }
}
