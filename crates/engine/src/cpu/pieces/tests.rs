//! Which streams share which chunks, what is cut for balance, and that every row is computed once.

use std::collections::HashSet;
use std::fmt::Write as _;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

const SHAPE: Shape = Shape { kv_heads: 2, group: 3, head_dim: 64, window: None, threads: 1 };

/// Rows of one sequence.
#[derive(Clone, Copy, Debug)]
struct Stream {
    /// Streams of one family have their first `common` blocks in common.
    family: u32,
    common: usize,
    first_position: usize,
    rows: usize,
}

/// A stream of family 0 that decodes.
fn decoding(common: usize, position: usize) -> Stream {
    Stream { family: 0, common, first_position: position, rows: 1 }
}

fn tiles(streams: &[Stream]) -> (Vec<Tile>, Vec<Vec<u32>>) {
    let (mut tiles, mut tables, mut first_row) = (Vec::new(), Vec::new(), 0);
    for (table, stream) in streams.iter().enumerate() {
        let Stream { family, common, first_position, rows } = *stream;
        let own = 100_000 + 1000 * table as u32;
        let blocks = 0..(first_position + rows).div_ceil(PAGE_TOKENS) as u32;
        tables
            .push(blocks.map(|i| if (i as usize) < common { 1000 * family + i } else { own + i }).collect());
        tiles.push(Tile { table, first_row, rows, first_position });
        first_row += rows;
    }
    (tiles, tables)
}

fn cut(streams: &[Stream], shape: Shape) -> Pieces {
    let (tiles, tables) = tiles(streams);
    Pieces::new(&tiles, &tables, shape)
}

/// Chunks that are computed for a KV head, by parts and by units.
fn computed(streams: &[Stream], shape: Shape) -> usize {
    let pieces = cut(streams, shape);
    let (tiles, _) = tiles(streams);
    let alone = tiles.iter().enumerate().map(|(index, tile)| {
        let seen = tile.seen(shape.window.unwrap_or(usize::MAX));
        seen.filter(|chunk| pieces.done(index, *chunk).is_none()).count()
    });
    pieces.parts.len() + alone.sum::<usize>()
}

fn check(streams: &[Stream], shape: Shape, expected: &Expect) {
    let pieces = cut(streams, shape);
    let mut found = String::new();
    for Part { chunk, tiles, rows } in &pieces.parts {
        writeln!(found, "chunk {chunk} of {tiles:?}, rows: {rows}").unwrap();
    }
    for Unit { tile, heads } in &pieces.units {
        writeln!(found, "{tile} heads {heads:?}").unwrap();
    }
    expected.assert_eq(&found);
}

#[test]
fn streams_that_begin_alike_load_their_beginning_once() {
    let streams = [decoding(40, 700), decoding(40, 1000), decoding(40, 645)];
    check(
        &streams,
        SHAPE,
        &expect![[r#"
            chunk 0 of [0, 1, 2], rows: 3
            chunk 1 of [0, 1, 2], rows: 3
            0 heads 0..2
            1 heads 0..2
            2 heads 0..2
        "#]],
    );
    assert_eq!(computed(&streams, SHAPE), 2 + 1 + 2 + 1);
    let strangers = streams.map(|stream| Stream { common: 0, ..stream });
    assert_eq!(computed(&strangers, SHAPE), 3 + 4 + 3);
    assert_eq!(cut(&strangers, SHAPE).parts.len(), 0);
}

#[test]
fn a_chunk_is_shared_only_whole() {
    // One block of the second chunk differs; the last stream sees all but its own position of the first.
    let streams = [decoding(31, 700), decoding(31, 700), decoding(15, 254), decoding(15, 255)];
    check(
        &streams[..2],
        SHAPE,
        &expect![[r#"
            chunk 0 of [0, 1], rows: 2
            0 heads 0..2
            1 heads 0..2
        "#]],
    );
    assert_eq!(cut(&streams[1..], SHAPE).parts.len(), 0);
    let seen = [decoding(16, 255), decoding(16, 255), decoding(16, 254)];
    assert_eq!(cut(&seen, SHAPE).parts[0].tiles, [0, 1]);
}

#[test]
fn families_share_apart_and_prompts_do_not_share() {
    let other = |position| Stream { family: 1, ..decoding(16, position) };
    let prompt = Stream { rows: 16, ..decoding(16, 256) };
    let guessed = Stream { rows: 5, ..other(300) };
    check(
        &[decoding(16, 300), other(300), prompt, decoding(16, 400), guessed],
        SHAPE,
        &expect![[r#"
            chunk 0 of [0, 3], rows: 2
            chunk 0 of [1, 4], rows: 6
            0 heads 0..2
            1 heads 0..2
            2 heads 0..2
            3 heads 0..2
            4 heads 0..2
        "#]],
    );
}

#[test]
fn rows_whose_window_has_left_some_of_a_chunk_take_no_part_in_it() {
    let shape = Shape { window: Some(600), ..SHAPE };
    // The windows begin at 201, 256, 257 and 0.
    check(
        &[decoding(48, 800), decoding(48, 855), decoding(48, 856), decoding(48, 599)],
        shape,
        &expect![[r#"
            chunk 1 of [0, 1, 3], rows: 3
            chunk 2 of [0, 1, 2], rows: 3
            0 heads 0..2
            1 heads 0..2
            2 heads 0..2
            3 heads 0..2
        "#]],
    );
    // Guessed tokens see different beginnings: the last one's counts.
    let guessed = Stream { rows: 2, ..decoding(48, 855) };
    assert_eq!(cut(&[guessed, decoding(48, 855), decoding(48, 855)], shape).parts[0].tiles, [1, 2]);
}

#[test]
fn many_rows_of_a_chunk_are_spread_over_threads() {
    let streams = [decoding(16, 300); 64];
    let rows = |threads| -> Vec<usize> {
        cut(&streams, Shape { threads, ..SHAPE }).parts.iter().map(|part| part.rows).collect()
    };
    assert_eq!(rows(1), [64]);
    assert_eq!(rows(2), [16; 4]);
    assert_eq!(rows(4), [8; 8]);
    // Fewer than eight rows of three heads would load keys and values for too little.
    assert_eq!(rows(16), [8; 8]);
}

#[test]
fn a_long_stream_is_cut_by_chunks() {
    let alone = [decoding(0, 600)];
    check(
        &alone,
        Shape { threads: 2, ..SHAPE },
        &expect![[r#"
            chunk 0 of [0], rows: 1
            chunk 1 of [0], rows: 1
            chunk 2 of [0], rows: 1
            0 heads 0..1
            0 heads 1..2
        "#]],
    );
    assert_eq!(cut(&alone, SHAPE).parts.len(), 0, "one thread gains nothing");
    let mut streams = [decoding(0, 300); 9];
    let shape = Shape { threads: 2, ..SHAPE };
    assert_eq!(cut(&streams, shape).parts.len(), 0, "equal work is spread by units");
    streams[4].first_position = 3000;
    let pieces = cut(&streams, shape);
    assert_eq!(pieces.parts.len(), 12);
    assert!(pieces.parts.iter().all(|part| part.tiles == [4]));
}

#[test]
fn a_prompt_is_cut_by_chunks_only_where_threads_are_many() {
    let (mut tiles, tables) = tiles(&[Stream { rows: 16, ..decoding(0, 500) }]);
    tiles[0].rows = 8;
    tiles.push(Tile { first_row: 8, first_position: 508, ..tiles[0] });
    let parts = |threads| Pieces::new(&tiles, &tables, Shape { threads, ..SHAPE }).parts.len();
    assert_eq!((parts(2), parts(8), parts(9)), (0, 0, 2 + 3));
}

#[test]
fn a_short_stream_is_cut_by_heads() {
    check(
        &[decoding(0, 200)],
        Shape { threads: 2, ..SHAPE },
        &expect![[r#"
            0 heads 0..1
            0 heads 1..2
        "#]],
    );
    check(&[decoding(0, 20)], Shape { threads: 2, ..SHAPE }, &expect![["0 heads 0..2\n"]]);
    // Guessed rows lie apart in the output, so that heads are cut by parts.
    check(
        &[Stream { rows: 3, ..decoding(0, 200) }],
        Shape { threads: 2, ..SHAPE },
        &expect![[r#"
            chunk 0 of [0], rows: 3
            0 heads 0..2
        "#]],
    );
}

fn stream() -> impl Strategy<Value = Stream> {
    (0..2u32, 0..80usize, 0..1400usize, 1..17usize).prop_map(|(family, common, first_position, rows)| {
        // A block that is written is nobody else's.
        Stream { family, common: common.min(first_position / PAGE_TOKENS), first_position, rows }
    })
}

proptest! {
    #[test]
    fn every_row_is_computed_once_over_what_it_sees(
        streams in proptest::collection::vec(stream(), 1..24),
        kv_heads in 1..5usize,
        window in prop_oneof![Just(None), (1..900usize).prop_map(Some)],
        threads in 1..9usize,
    ) {
        let shape = Shape { kv_heads, window, threads, ..SHAPE };
        let seen = window.unwrap_or(usize::MAX);
        let (tiles, tables) = tiles(&streams);
        let pieces = Pieces::new(&tiles, &tables, shape);
        let mut computed = HashSet::new();
        for (index, part) in pieces.parts.iter().enumerate() {
            let mut row = 0;
            for tile in &part.tiles {
                prop_assert!(computed.insert((*tile, part.chunk)), "{} over {} twice", tile, part.chunk);
                prop_assert!(tiles[*tile].seen(seen).contains(&part.chunk));
                if part.tiles.len() > 1 {
                    prop_assert!(tiles[*tile].whole(seen).contains(&part.chunk));
                    let blocks = |tile: usize| &tables[tiles[tile].table][part.chunk * 16..][..16];
                    prop_assert_eq!(blocks(*tile), blocks(part.tiles[0]));
                }
                let done = pieces.done(*tile, part.chunk).unwrap();
                prop_assert_eq!((done.part, done.row), (index, row));
                row += tiles[*tile].rows;
            }
            prop_assert_eq!(row, part.rows);
        }
        let mut ends = [0].iter().chain(&pieces.part_ends);
        let lengths: Vec<usize> = pieces.part_ends.iter().map(|end| end - ends.next().unwrap()).collect();
        let expected: Vec<usize> = pieces.parts.iter().flat_map(|part| vec![part.rows * 3 * 66; kv_heads]).collect();
        prop_assert_eq!(lengths, expected);

        let mut units = pieces.units.iter().zip(&pieces.unit_ends);
        let mut end = 0;
        for (index, tile) in tiles.iter().enumerate() {
            let mut head = 0;
            while head < kv_heads {
                let (unit, unit_end) = units.next().unwrap();
                prop_assert_eq!((unit.tile, unit.heads.start), (index, head));
                prop_assert!(!unit.heads.is_empty() && (tile.rows == 1 || unit.heads.len() == kv_heads));
                head = unit.heads.end;
                end += tile.rows * unit.heads.len() * 3 * 64;
                prop_assert_eq!(*unit_end, end);
            }
            prop_assert_eq!(head, kv_heads);
        }
        prop_assert!(units.next().is_none());
    }
}
